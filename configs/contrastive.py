"""Contrastive and representation distillation on digits.

python launch.py --config=configs/contrastive.py[:VARIANT,tiny]

crd                   contrast with a memory bank of both networks' embeddings (Tian, Krishnan, Isola 2019, arXiv
                      1910.10699); the default
crd_queue             the same with a queue of 256 rows in place of the bank: as large for any number of examples
info_nce              contrast within the batch (Oord, Li, Vinyals 2018, arXiv 1807.03748)
sskd                  the teacher's answers on rotated images, and its similarities among them (Xu, Liu, Li, Loy 2020,
                      arXiv 2006.07114)
ensemble_contrastive  three teachers, a contrast with each (arXiv 1910.10699, section 3.5)

Weights, temperatures and momentum are the published ones; 512 negatives where the authors take 16,384 of 50,000.
Test accuracy, 3 seeds: teacher 98.6 (the other two 94.4 and 95.6, all three together 98.9), student alone 77.0 +- 2.9;
crd 79.8 +- 0.9, info_nce 84.0 +- 3.1, ensemble_contrastive 80.2 +- 3.1, sskd 90.1 +- 1.7. sskd contains KD, which
alone has 89.6 +- 2.0 here (configs/adversarial.py:none): the rotated views add nothing that three seeds could show, and
a digit 6 turned by 180 degrees is a 9. Two weaker teachers do not help CRD. With 100 labels the contrast shapes the
embedding, but only the labelled images tell the head what to make of it; KD tells it with every image.
About 45 CPU seconds (three teachers 64) with teacher and baseline, measured on a machine that was shared tenfold.
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, finish, parse, part, response, small_digits, supervised, teacher_fields, term

VARIANTS = ("crd", "crd_queue", "info_nce", "sskd", "ensemble_contrastive")
QUEUE = 256  # rows


def contrast(teacher: str, weight: float = 0.8, negatives: int = 512) -> dict:
    """Returns the CRD term of one of several teachers."""
    options = {"negatives": negatives, "temperature": 0.07}
    return term(
        "losses.composed.contrastive_memory_loss",
        ("student.features:embedding", f"{teacher}.features:embedding"),
        weight=weight,
        kwargs=options,
        memory=part("losses.composed.contrastive_memory", **options),
        options={"memory": "memory", "index": "batch.index", "step": "step"},
        connector=part("models.method_connectors.embed_pair"),
    )


def sskd(config: ConfigDict) -> None:
    """Weights, temperatures and ratios of the authors' code."""
    further = ("student.features:further_logits",), ("teacher.features:further_logits", "batch.label")
    config.terms = ConfigDict(
        {
            **response(),
            "transformed": term(
                "losses.self_supervised.transformed_kd_loss",
                *further,
                weight=2.7,
                kwargs={"temperature": 4.0, "wrong_ratio": 1.0},
            ),
            "similarity": term(
                "losses.representation.similarity_transfer_loss",
                ("student_head.logits",),
                ("teacher_head.logits",),
                weight=10.0,
                kwargs={"temperature": 0.5, "wrong_ratio": 0.75},
            ),
        }
    )
    config.scheme = ConfigDict(part("schemes.self_supervised.build"))


def ensemble(config: ConfigDict) -> None:
    models = {
        "second": dict(name="models.mlp.mlp", kwargs=dict(widths=(64,))),
        "third": dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(16, 32))),
    }
    for name, model in models.items():
        train = config.teacher.train.copy_and_resolve_references()
        config.teachers[name] = teacher_fields(model["name"], train=train)
        config.teachers[name].model.kwargs = ConfigDict(model["kwargs"])
    terms = {f"contrast_{name}": contrast(name) for name in ("teacher", *models)}
    config.terms = ConfigDict({**supervised(), **terms})
    config.scheme = ConfigDict(part("schemes.multi_teacher.build"))


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, variants=VARIANTS)
    if variant.variant == "sskd":
        sskd(config)
    elif variant.variant == "ensemble_contrastive":
        ensemble(config)
    else:
        queue = {"queue": QUEUE} if variant.variant == "crd_queue" else {}
        config.terms = ConfigDict(PRESETS[variant.variant.removesuffix("_queue")](**queue))
    tiny = {"terms": {"embed": {"memory": {"kwargs": {"rows": 64}}}}} if variant.variant == "crd_queue" else {}
    return finish(config, variant, tiny=tiny)
