"""Segmentation: the class of every pixel, digits in scenes or nuclei under a microscope, a U-Net into half of it.

python launch.py --config=configs/segmentation.py[:VARIANT,DATA,vit,tiny]

Scenes are 32 x 32 pixels with one to three handwritten digits: 600 to learn from, of whose masks the student has 40.
The teacher, 48,000 parameters, has all; with "vit" it is a transformer with a decoder. The student has 23,000.

pixel        the teacher's answer at every pixel (Liu et al. 2019, arXiv 1903.04197); the default
cwd          every class's map as a distribution over pixels (CWD: Shu et al. 2020, arXiv 2011.13256)
ifvd         how far a pixel's features are from the centre of its class (IFVD: Wang et al., ECCV 2020), beside "pixel"
pairwise     which regions are alike (Liu et al. 2019), beside "pixel"
structured   beside "pairwise" a discriminator, WGAN-GP, that sees the picture and the map of classes (Liu et al. 2019)
DATA
scenes       scenes of scikit-learn's digits; the default
nuclei       crops of one picture of 125 nuclei: pip install --no-deps stardist
folder       pictures and masks of yours: --config.data.directory=DIR, with images/ and masks/ (docs/segmentation.md)
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, parse, part, role, term, training

VARIANTS = ("pixel", "cwd", "ifvd", "pairwise", "structured")
DATA = ("scenes", "nuclei", "folder")
LABELS = {"scenes": 40, "nuclei": 12, "folder": 0}  # masks that the student has; 0 = all
CLASSES = {"scenes": 11, "nuclei": 3, "folder": 255}  # of a folder: as many as a file can name
LOGITS = (("student.logits",), ("teacher.logits",))
LEVEL = (("student.features:up1",), ("teacher.features:up1",))
WEIGHTS = {"pixel": 1.0, "cwd": 3.0, "ifvd": 2.0, "pairwise": 0.01, "structured": 0.001}


def adam(steps: int, learning_rate: float) -> ConfigDict:
    return training(batch_size=16, steps=steps, optimizer=dict(name="adamw", learning_rate=learning_rate, warmup=0.05))


def terms(variant: str, classes: int) -> dict:
    made = {"ce": {"weight": 1.0}}
    if variant == "cwd":
        weight, kwargs = WEIGHTS["cwd"], {"temperature": 4.0}
        return made | {"cwd": term("losses.dense.channel_wise_loss", *LOGITS, weight=weight, kwargs=kwargs)}
    made["pixel"] = term("losses.dense.pixel_wise_loss", *LOGITS, weight=WEIGHTS["pixel"])
    if variant == "ifvd":
        paths = LEVEL[0], (*LEVEL[1], "batch.label")
        kwargs = {"classes": classes}
        made["ifvd"] = term("losses.dense.intra_class_loss", *paths, weight=WEIGHTS["ifvd"], kwargs=kwargs)
    if variant in ("pairwise", "structured"):
        kwargs = {"scale": 0.25}
        made["pairwise"] = term(
            "losses.dense.pairwise_affinity_loss", *LEVEL, weight=WEIGHTS["pairwise"], kwargs=kwargs
        )
    return made


def holistic(config: ConfigDict) -> None:
    """Adds a discriminator of class maps beside their pictures, one update of it to one of the student."""
    critic = dict(kind="wasserstein", penalty="between", penalty_weight=10.0, condition=("batch.image",))
    config.scheme = ConfigDict(part("schemes.adversarial.build", weight=WEIGHTS["structured"], **critic))
    config.roles.discriminator = ConfigDict(role("models.discriminators.patches", widths=(16, 32, 32), stride=2))
    config.optimizers.discriminator = training(optimizer=dict(name="adam", learning_rate=4e-4)).optimizer
    config.optimizers.discriminator.kwargs = ConfigDict(dict(b1=0.9, b2=0.99))
    config.optimizers.discriminator.weight_decay = 0.0


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, data=DATA, variants=VARIANTS, flags=("vit",))
    config = base()
    name = {"scenes": "masks:digit_scenes", "nuclei": "masks:nuclei", "folder": "mask_folder:folder"}[variant.data]
    config.data.name, config.data.labels = f"kd_jax.data.{name}", LABELS[variant.data]
    config.data.validation = 0.1 if variant.data == "folder" else 0.0
    config.task = ConfigDict(part("tasks.segment.task"))
    moves = dict(shift=4) if variant.data == "scenes" else dict(shift=4, flip=True, turn=variant.data == "nuclei")
    config.prepare = ConfigDict(part("data.moved_masks.moved", **moves))
    config.student.model = dict(name="models.vision.unet.unet", kwargs=dict(widths=(8, 16, 24)))
    if "vit" in variant.flags:
        kwargs = dict(patch=8, width=96, depth=4, heads=4, decoder_width=48)
        config.teacher.model = dict(name="models.vision.vit_decoder.vit_decoder", kwargs=kwargs)
    else:
        config.teacher.model = dict(name="models.vision.unet.unet", kwargs=dict(widths=(12, 24, 32)))
    config.teacher.train, config.train = adam(600, 0.005), adam(1500, 0.005)
    config.terms = ConfigDict(terms(variant.variant, CLASSES[variant.data]))
    if variant.variant == "structured":
        holistic(config)
    config.log_every, config.eval_every = 40, 100
    small = dict(student=dict(model=dict(kwargs=dict(widths=(4, 8)))))
    if "vit" not in variant.flags:
        small["teacher"] = dict(model=dict(kwargs=dict(widths=(6, 8))))
    return finish(config, variant, tiny=small)
