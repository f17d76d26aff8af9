"""Foundation teachers: encoders that others trained into one small encoder, no label in the student's training.

python launch.py --config=configs/foundation.py[:VARIANT,DATA,tiny]

agglomerative        two frozen encoders, of five classes each, into one student: a head a teacher, summary and dense
                     features (AM-RADIO: Ranzinger et al. 2023, arXiv 2312.06709), the dense ones standardised by PHI-S
                     before the first step (Ranzinger et al. 2024, arXiv 2410.01680); the default
agglomerative_plain  the same without the standardisation
label_free           similarities to a queue of what the teacher said, in place of classes, and among the tokens of an
                     image; one mixed-up view (lightly-train's distillation, 2025)
clip                 a two-tower teacher and student on pairs, here the upper and the lower half of one picture: their
                     contrast, affinity KL both ways, feature MSE, interactive contrast (CLIP-KD: Yang et al. 2023,
                     arXiv 2307.12732)
dino                 no teacher but the moving average of the student, centred answers to two views and two small crops
                     (DINO: Caron et al. 2021, arXiv 2104.14294)
DATA
digits               scikit-learn's digits, 100 labels to score with; the default
fashion_mnist        6,000 images of Fashion-MNIST at 14 x 14 pixels, 500 labels to score with: apt-get install
                     dataset-fashion-mnist

Scored by nearest neighbours and a linear probe on the labelled training images (tasks.embed). The baseline is the same
network trained on these labels; teachers have all labels (of clip: none, they and the baseline learn from pairs).
Weights are published ones. docs/foundation.md has what was measured.
"""

from ml_collections import ConfigDict

from kd_jax.config import finish, parse, part, small_digits, teacher_fields, term

VARIANTS = ("agglomerative", "agglomerative_plain", "label_free", "clip", "dino")
DATA = ("digits", "fashion_mnist")
LOW, HIGH = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
WIDTH = 64  # of the teachers' embeddings
STUDENT = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(8, 16), hidden=32))
TEACHER = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(16, 32), hidden=WIDTH))
SECOND = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(24, 48), hidden=WIDTH))
HEAD = part("models.foundation_connectors.adaptor_head")
AGREE = "losses.representation.agglomerative_feature_loss"


def summary(teacher: str, weight: float) -> dict:
    """Returns 1 - cosine of the embeddings."""
    paths = ("student.logits",), (f"{teacher}.logits",)
    return term(AGREE, *paths, weight=weight, kwargs={"cosine_share": 1.0}, connector=HEAD)


def dense(teacher: str, weight: float, standardize: bool) -> dict:
    """Returns 0.9 (1 - cosine) + 0.1 smooth L1 of every position of the last maps."""
    paths = ("student.features:final",), (f"{teacher}.features:final",)
    options = {k: f"extra.phi_{teacher}.{k}" for k in ("mean", "matrix")} if standardize else {}
    fn = "losses.standardization.standardized_feature_loss" if standardize else AGREE
    return term(fn, *paths, weight=weight, kwargs={"cosine_share": 0.9}, options=options, connector=HEAD)


def agglomerative(config: ConfigDict, standardize: bool = True) -> None:
    names = ("teacher", "second")
    config.teacher.data.classes = LOW
    train = config.teacher.train.copy_and_resolve_references()
    config.teachers.second = teacher_fields("models.encoders.encoder", data={"classes": HIGH}, train=train)
    config.teachers.second.model.kwargs = ConfigDict(dict(network=SECOND))
    share = 1 / len(names)
    terms = {f"summary_{name}": summary(name, share) for name in names}
    terms |= {f"dense_{name}": dense(name, share, standardize) for name in names}
    config.terms = ConfigDict(terms)
    if standardize:
        paths = {f"phi_{name}": f"{name}.features:final" for name in names}
        config.scheme = ConfigDict(part("schemes.agglomerative.build", standardize=paths))


def label_free(config: ConfigDict) -> None:
    pair = ("student.logits", "teacher.logits")
    config.terms = ConfigDict(
        {
            "global": term(
                "losses.queues.queued_similarity_loss",
                pair,
                kwargs={"temperature": 0.07},
                options={"memory": "memory"},
                memory=part("losses.queues.similarity_queue", width=WIDTH, rows=512),
                connector=part("models.foundation_connectors.toward_teacher"),
            ),
            "local": term(
                "losses.representation.token_affinity_loss",
                ("student.features:final",),
                ("teacher.features:final",),
                kwargs={"temperature": 0.07},
                connector=part("models.connectors.conv1x1"),
            ),
        }
    )
    config.train.augment = (*config.train.augment, dict(name="mixup", alpha=1.0))  # one weight in [0, 1] for a batch


def clip(config: ConfigDict) -> None:
    config.prepare = ConfigDict(part("data.images.modalities.halves"))
    config.task.kwargs = ConfigDict(dict(entry="image", pair="text"))
    config.train.labelled_share, config.data.labels = 0.5, 0  # they only score: teacher and baseline learn from pairs
    for role, network in ((config.student, STUDENT), (config.teacher, TEACHER)):
        towers = dict(image=network, text=network, width=32)
        role.model = ConfigDict(dict(name="models.encoders.two_towers", kwargs=towers))
        role.inputs = ("batch.upper", "batch.lower")
    student, teacher = (tuple(f"{who}.logits.{entry}" for entry in ("image", "text")) for who in ("student", "teacher"))
    scale = 1 / 0.07
    scales = {"student_scale": scale, "teacher_scale": scale}
    mimic = "losses.representation.unit_feature_loss"
    config.terms = ConfigDict(
        {
            "pairs": {},
            "affinity": term("losses.multimodal.affinity_kl_loss", student, teacher, kwargs=scales),
            "image": term(mimic, student[:1], teacher[:1], weight=2000.0),
            "text": term(mimic, student[1:], teacher[1:], weight=2000.0),
            "interactive": term(
                "losses.multimodal.affinity_interactive_loss", student, teacher, kwargs={"scale": scale}
            ),
        }
    )


def dino(config: ConfigDict) -> None:
    def crop(low: float, high: float) -> tuple:
        flip = ("flip",) if config.data.name != "digits" else ()
        return (*flip, dict(name="kd_jax.data.crops:random_resized_crop", low=low, high=high))

    config.teacher.model = ConfigDict(part())
    config.train.augment = crop(0.4, 1.0)
    small = {f"crop{i}": crop(0.15, 0.4) for i in (1, 2)}
    config.train.views = ConfigDict({"other": crop(0.4, 1.0), **small})
    config.train.optimizer.clip_norm = 3.0
    views = ("", "_other", *(f"_{name}" for name in small))
    config.terms = ConfigDict(
        {
            "views": term(
                "losses.self_distillation.centred_views_loss",
                tuple(f"student_head{view}.logits" for view in views),
                tuple(f"average_head{view}.logits" for view in views[:2]),
                kwargs={"teacher_views": 2, "temperature": 0.1, "teacher_temperature": 0.04},
                options={"center": "extra.center"},
            )
        }
    )
    config.scheme = ConfigDict(
        part(
            "schemes.dino.build",
            views={"other": "batch.other"},
            crops={name: f"batch.{name}" for name in small},
            prototypes=256,
            hidden=64,
            bottleneck=32,
            decay=0.99,
        )
    )


BUILD = {
    "agglomerative": agglomerative,
    "agglomerative_plain": lambda config: agglomerative(config, standardize=False),
    "label_free": label_free,
    "clip": clip,
    "dino": dino,
}


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, data=DATA, variants=VARIANTS)
    config = small_digits()
    config.task = ConfigDict(part("tasks.embed.task"))
    config.student.model = ConfigDict(dict(name="models.encoders.encoder", kwargs=dict(network=STUDENT)))
    config.teacher.model = ConfigDict(dict(name="models.encoders.encoder", kwargs=dict(network=TEACHER)))
    config.train.labelled_share = 0.08  # the labels are not read: no image is seen more often than another
    for train in (config.train, config.teacher.train):
        train.optimizer.update(dict(name="adamw", learning_rate=0.003, weight_decay=0.01, warmup=0.05))
    if variant.data == "fashion_mnist":
        config.data.update(dict(name="kd_jax.data.images.smaller:fashion_mnist", labels=500, limit=6_000))
        config.data.update(dict(validation=0.1, eval_limit=2_000))
        config.eval_every = 400
        config.train.steps = config.teacher.train.steps = 400
        for train in (config.train, config.teacher.train):
            train.augment = (dict(name="pad_crop", padding=1), "flip")
    BUILD[variant.variant](config)
    config.title = f"Foundation teachers, {variant.variant.replace('_', ' ')}, on {variant.data}"
    tiny = {} if not variant.variant == "label_free" else {"terms": {"global": {"memory": {"kwargs": {"rows": 64}}}}}
    return finish(config, variant, tiny=tiny)
