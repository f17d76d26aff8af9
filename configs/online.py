"""No teacher comes first: networks that teach one another while all of them learn, on digits, 100 labels.

python launch.py --config=configs/online.py[:VARIANT,tiny]

mutual          two peers, each taught by labels and by the other (Deep Mutual Learning, Zhang, Xiang, Hospedales, Lu
                2017, arXiv 1706.00384); the default
joint           a large teacher learns along, from labels alone; the student from labels and from it (KD as offline)
kdcl_naive      the peer that is right most clearly teaches both, example by example
kdcl_linear     the best mixture of their logits teaches, example by example
kdcl_min_logit  the smallest distances of wrong classes to the right one teach; these three on labelled images only
kdcl_general    a mixture by errors on the validation split, measured ten times (KDCL: Guo, Wang, Wu, Yu, Liang, Hu,
                Luo, CVPR 2020, all with a view of its own for each peer); its best step is therefore chosen on data
                that it has used
one             three branches behind a shared first stage; their gated ensemble teaches them (Lan, Zhu, Gong 2018,
                arXiv 1806.04606)
okddip          two branches taught by attention-weighted mixtures of one another, a third by both (Chen, Mei, Wang,
                Feng, Chen 2019, arXiv 1912.00350)
codistillation  two peers in one program, each taught by a copy of the other that is up to 40 steps old (Anil et al.
                2018, arXiv 1804.03235)
peer0, peer1    the same as two runs that exchange weights through a folder, each with a workdir of its own; start both:
                python launch.py --config=configs/online.py:peer0 --workdir=runs/peer0 &
                python launch.py --config=configs/online.py:peer1 --workdir=runs/peer1
                --config.scheme.kwargs.folder=FOLDER for both, and an empty one for every pair of runs; other seeds by
                --config.seed, two different ones. A peer that was stopped is started again and catches up.
tiny            a few steps: does everything work?

Temperatures are the published ones, weights 1 (OKDDip's with a linear ramp over 80 of 300 epochs), nothing was tuned.
Teaching between peers includes the 1,157 unlabelled images, in half of every batch, except where it is said to need
labels. In use is one network: peer 0, of OKDDip the leader.

Measured, test accuracy of the last step, 8 seeds (standard deviation; against the baseline of the same seed, with its
standard error): student alone 78.0 (2.8), joint 83.4 (1.9; +5.4 +- 0.8, its teacher 91.1), kdcl_general 81.0 (3.2; +3.1
+- 1.4), codistillation 80.6 (2.8; +2.6 +- 1.4), kdcl_min_logit 79.7 (2.2; +1.7 +- 1.1), mutual 79.3 (4.4; +1.3 +- 1.6),
kdcl_linear 79.1 (3.5), kdcl_naive 78.7 (3.2), one 77.5 (2.0), okddip 75.9 (2.2; -2.0 +- 1.1). So a larger network that
learns along helps; of peers with 438 parameters, no gain is beyond doubt, and branches gain nothing. Two peers together
have 84.2 (3.0) when the mutual term has weight 0, 80.8 with it: what they learn from one another makes them alike.
peer0 and peer1, 3 pairs of seeds: 78.5 against 76.2 of their baselines. docs/schemes.md has another 3 seeds, whose
spread is as large as what they gain. 3 to 8 seconds a training on one core.
"""

from ml_collections import ConfigDict

from kd_jax.config import Terms, compose, finish, kd_term, parse, part, role, small_digits, term

VARIANTS = (
    "mutual",
    "joint",
    "kdcl_naive",
    "kdcl_linear",
    "kdcl_min_logit",
    "kdcl_general",
    "one",
    "okddip",
    "codistillation",
)
PEERS = ("student.logits",)
CE = "losses.task.cross_entropy_loss"


def labels() -> Terms:
    """Returns the terms of every peer on the labelled examples."""
    return {"ce": term("losses.online.peers_cross_entropy_loss", PEERS, ("batch.target",), where="batch.labelled")}


def mutual(config: ConfigDict) -> None:
    config.scheme = part("schemes.online.build", peers=2)
    kl = term("losses.online.mutual_kl_loss", PEERS, PEERS, kwargs={"temperature": 1.0})
    config.terms = ConfigDict({**labels(), "mutual": kl})


def joint(config: ConfigDict) -> None:
    config.scheme = part("schemes.online.build")
    config.roles = ConfigDict({"teacher": role("models.vision.cnn.cnn", widths=(32, 64), hidden=64)})
    config.optimizers = ConfigDict({"teacher": config.teacher.train.optimizer.copy_and_resolve_references()})
    on_labels = term(CE, ("teacher.logits",), ("batch.target",), where="batch.labelled")
    config.terms = ConfigDict({**compose("response"), "ce_teacher": on_labels})


def kdcl(config: ConfigDict, method: str) -> None:
    config.train.views = ConfigDict({"other_image": config.train.augment})
    build = "kdcl_general" if method == "general" else "build"
    config.scheme = part(f"schemes.online.{build}", peers=2, inputs=("batch.image", "batch.other_image"))
    options = {"shares": "extra.peer_shares"} if method == "general" else {"labels": "batch.label"}
    kd = term(
        f"losses.online.kdcl_{method}_loss",
        PEERS,
        PEERS,
        kwargs={"temperature": 2.0},
        options=options,
        where="" if method == "general" else "batch.labelled",
    )
    config.terms = ConfigDict({**labels(), "kdcl": kd})


def branched(config: ConfigDict, gate: str, **options) -> None:
    """Builds branches: the student's first stage is shared, its second and its head exist once a branch."""
    *shared, last = config.student.model.kwargs.widths
    model = part("models.branches.branched_cnn", shared=tuple(shared), widths=(last,), gate=gate)
    config.scheme = part("schemes.branches.build", model=model, branches=3, **options)


def one(config: ConfigDict) -> None:
    branched(config, "gate", ensemble="ensemble")
    ensemble = ("student.features:ensemble",)
    on_labels = term(CE, ensemble, ("batch.target",), where="batch.labelled")
    kd = term("losses.online.peers_kd_loss", PEERS, ensemble, kwargs={"temperature": 3.0})
    config.terms = ConfigDict({**labels(), "ce_ensemble": on_labels, "one": kd})


def okddip(config: ConfigDict) -> None:
    branched(config, "attention", leader=2)
    ramp = {"kwargs": {"temperature": 3.0}, "schedule": part("core.schedules.warmup", fraction=80 / 300)}
    first = term("losses.online.group_distillation_loss", (*PEERS, "student.features:attention"), PEERS, **ramp)
    second = term(
        "losses.ensemble.average_probabilities_loss",
        ("student.logits@2",),
        ("student.logits@0", "student.logits@1"),
        **ramp,
    )
    config.terms = ConfigDict({**labels(), "peers": first, "leader": second})


def codistillation(config: ConfigDict) -> None:
    config.scheme = part("schemes.codistillation.in_process", peers=2, every=0.05, burn_in=0.1)
    kl = term("losses.online.mutual_kl_loss", PEERS, ("stale.logits",), kwargs={"temperature": 1.0})
    config.terms = ConfigDict({**labels(), "codistillation": kl})


def one_peer(config: ConfigDict, index: int) -> None:
    """Makes it that of one of two processes; --config.seed tells them apart, config.scheme.kwargs.folder is shared."""
    config.seed = 100 * index
    config.scheme = part(
        "schemes.codistillation.build", folder="runs/codistillation", index=index, every=0.05, burn_in=0.1
    )
    kl = kd_term(1.0, temperature=1.0, targets=(f"stale_{1 - index}.logits",))
    on_labels = term(CE, PEERS, ("batch.target",), where="batch.labelled")
    config.terms = ConfigDict({"ce": on_labels, "codistillation": kl})


BUILD = {"mutual": mutual, "joint": joint, "one": one, "okddip": okddip, "codistillation": codistillation}


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, variants=(*VARIANTS, "peer0", "peer1"))
    name = variant.variant
    config.title = f"Online distillation on digits, 100 labels: {name.replace('_', ' ')}"
    config.teacher.model.name = ""
    if name.startswith("kdcl_"):
        kdcl(config, name.removeprefix("kdcl_"))
    elif name.startswith("peer"):
        one_peer(config, int(name.removeprefix("peer")))
    else:
        BUILD[name](config)
    few = dict(scheme=dict(kwargs=dict(rounds=3))) if name == "kdcl_general" else {}
    return finish(config, variant, tiny=few)
