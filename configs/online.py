"""No teacher comes first: networks that teach one another, on scikit-learn's digits, 100 labels.

python launch.py --config=configs/online.py[:VARIANT,tiny]
"""

from ml_collections import ConfigDict

from kd_jax.config import make_tiny, parse, role, small_digits
from kd_jax.knowledge import compose
from kd_jax.presets import Terms, part, term

VARIANTS = (
    "mutual", "joint", "kdcl_naive", "kdcl_linear", "kdcl_min_logit", "kdcl_general", "one", "okddip", "codistillation",
)  # fmt: skip
PEERS = ("student.logits",)
CE = "losses.task.cross_entropy_loss"


def labels() -> Terms:
    """Every peer on the labelled examples."""
    return {
        "ce": term("losses.online.peers_cross_entropy_loss", PEERS, ("batch.target",), where="batch.labelled"),
    }


def mutual(config: ConfigDict) -> None:
    config.scheme = part("schemes.online.build", peers=2)
    kl = term("losses.online.mutual_kl_loss", PEERS, PEERS, kwargs={"temperature": 1.0})
    config.terms = ConfigDict({**labels(), "mutual": kl})


def joint(config: ConfigDict) -> None:
    config.scheme = part("schemes.online.build")
    config.roles = ConfigDict({"teacher": role("models.cnn.cnn", widths=(32, 64), hidden=64)})
    config.optimizers = ConfigDict({"teacher": config.teacher.train.optimizer.copy_and_resolve_references()})
    on_labels = term(CE, ("teacher.logits",), ("batch.target",), where="batch.labelled")
    config.terms = ConfigDict({**compose("response"), "ce_teacher": on_labels})


def kdcl(config: ConfigDict, method: str) -> None:
    config.train.views = ConfigDict({"other_image": config.train.augment})
    build = "kdcl_general" if method == "general" else "build"
    config.scheme = part(f"schemes.online.{build}", peers=2, inputs=("batch.image", "batch.other_image"))
    options = {"shares": "extra.peer_shares"} if method == "general" else {"labels": "batch.label"}
    kd = term(
        f"losses.online.kdcl_{method}_loss", PEERS, PEERS, kwargs={"temperature": 2.0}, options=options,
        where="" if method == "general" else "batch.labelled",
    )  # fmt: skip
    config.terms = ConfigDict({**labels(), "kdcl": kd})


def branched(config: ConfigDict, gate: str, **options) -> None:
    """The student's first stage is shared, its second and its head exist once a branch."""
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
    ramp = {"kwargs": {"temperature": 3.0}, "schedule": part("schedules.warmup", fraction=80 / 300)}
    first = term(
        "losses.online.group_distillation_loss", (*PEERS, "student.features:attention"), PEERS, **ramp
    )  # fmt: skip
    second = term(
        "losses.ensemble.average_probabilities_loss", ("student.logits@2",),
        ("student.logits@0", "student.logits@1"), **ramp,
    )  # fmt: skip
    config.terms = ConfigDict({**labels(), "peers": first, "leader": second})


def codistillation(config: ConfigDict) -> None:
    config.scheme = part("schemes.codistillation.in_process", peers=2, every=0.05, burn_in=0.1)
    kl = term("losses.online.mutual_kl_loss", PEERS, ("stale.logits",), kwargs={"temperature": 1.0})
    config.terms = ConfigDict({**labels(), "codistillation": kl})


def one_peer(config: ConfigDict, index: int) -> None:
    """One of two processes; --config.seed tells them apart too, and --config.scheme.kwargs.folder is for both."""
    config.seed = 100 * index
    config.scheme = part(
        "schemes.codistillation.build", folder="runs/codistillation", index=index, every=0.05, burn_in=0.1
    )
    kl = term("losses.response.kd_loss", PEERS, (f"stale_{1 - index}.logits",), kwargs={"temperature": 1.0})
    on_labels = term(CE, PEERS, ("batch.target",), where="batch.labelled")
    config.terms = ConfigDict({"ce": on_labels, "codistillation": kl})


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, data=(*VARIANTS, "peer0", "peer1"), knowledge=(), flags=("tiny",))
    name = variant.data
    config.title = f"Online distillation on digits, 100 labels: {name.replace('_', ' ')}"
    config.teacher.model.name = ""
    if name.startswith("kdcl_"):
        kdcl(config, name.removeprefix("kdcl_"))
    elif name.startswith("peer"):
        one_peer(config, int(name.removeprefix("peer")))
    else:
        globals()[name](config)
    if "tiny" not in variant.flags:
        return config
    if name == "kdcl_general":
        config.scheme.kwargs.rounds = 3
    return make_tiny(config)
