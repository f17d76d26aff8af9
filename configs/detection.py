"""Detection: which digits lie where in a scene? An anchor-free detector of 97,000 parameters teaches one of 11,000.

pip install faster-coco-eval      # computes the average precision
python launch.py --config=configs/detection.py[:VARIANT,DATA,tiny]

2,000 scenes of 64 x 64 pixels with 1 to 5 digits each, made of scikit-learn's digits; the test scenes are made of digit
images that no other scene has. The teacher has all boxes, the student those of 200 scenes and the others without.

DATA
scenes       the scenes; the default
crowns       trees in aerial pictures, split in space (pip install --no-deps deepforest), with boxes of 60 tiles
coco         pictures of yours with boxes in COCO's form: --config.data.directory=DIR --config.data.image_size=N
VARIANT
response     class probabilities, weighted by how far apart they are (Yang et al. 2023, arXiv 2308.14286); the default
ld           the distributions of the boxes' sides, beside the response (LD: Zheng et al. 2021, arXiv 2102.12252)
cwd          where each channel of the pyramid is active (CWD: Shu et al. 2020, arXiv 2011.13256)
fgd          attention-weighted features in and out of the boxes, and a learned context of all cells (FGD: Yang et al.
             2021, arXiv 2111.11837)
mgd          the teacher's pyramid generated from the student's masked one (MGD: Yang et al. 2022, arXiv 2205.01529)
pseudo       boxes that the teacher is sure of, as labels (STAC: Sohn et al. 2020, arXiv 2005.04757)
imitation    features in the objects' region and beside it (DeFeat: Guo et al. 2021, arXiv 2103.14475)
detr         as pseudo, and the teacher is a published DETR (Carion et al. 2020, arXiv 2005.12872) or RT-DETR (Zhao et
             al. 2023, arXiv 2304.08069), a folder of transformers:
             --config.teacher.model.kwargs.path=FOLDER --config.teacher.initial.kwargs.path=FOLDER
             --config.teacher.model.kwargs.chosen=(17,18) names those of its classes that are the classes of the data
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, parse, part, term, training

DATA = ("scenes", "crowns", "coco")
VARIANTS = ("response", "ld", "cwd", "fgd", "mgd", "pseudo", "imitation")
LEVELS = (0, 1)  # of the pyramid, of strides 4 and 8
GLOBAL = 5e-6  # of FGD's global part, where the focal one has 1e-3 in the boxes, as the authors' one-stage detectors
# FGD's attention, a softmax of mean |features|. They are 3 to 4 here: at the published 0.5 one cell has 0.7 of it all.
TEMPERATURE = 5.0
ALIGN = part("models.connectors.conv1x1")
REGIONS = {"objects": "batch.label", "image": "batch.image"}  # of the picture the size alone


def adam(steps: int, learning_rate: float) -> ConfigDict:
    optimizer = dict(name="adamw", learning_rate=learning_rate, weight_decay=1e-4, warmup=0.05, clip_norm=10.0)
    return training(batch_size=32, steps=steps, optimizer=optimizer)


def response() -> dict:
    paths = (("student.logits.classes",), ("teacher.logits.classes",))
    return {"response": term("losses.detection_distillation.class_response_loss", *paths, weight=1.0)}


def ld() -> dict:
    inputs, targets = ("student.logits.sides",), ("teacher.logits.sides", "teacher.logits.classes")
    return {"ld": term("losses.detection_distillation.box_response_loss", inputs, targets, weight=0.25)}


def pyramid(
    name: str,
    fn: str,
    *,
    weight: float,
    kwargs: dict | None = None,
    options: dict | None = None,
    where: str = "",
    connector: dict = ALIGN,
) -> dict:
    """Returns a term for each level of the pyramid; `options` are paths."""
    return {
        f"{name}{i}": term(
            fn,
            (f"student.features:fpn{i}",),
            (f"teacher.features:fpn{i}",),
            options=options,
            weight=weight,
            kwargs=kwargs,
            where=where,
            connector=connector,
        )
        for i in LEVELS
    }


def fgd(weight: float) -> dict:
    """Returns FGD's terms: the focal part needs boxes, the global one compares what the focal one has aligned."""
    options = dict(options=REGIONS, where="batch.labelled", kwargs=dict(temperature=TEMPERATURE))
    terms = pyramid("fgd", "losses.detection_distillation.focal_region_loss", weight=weight, **options)
    for i in LEVELS:
        pair = (f"fgd{i}/connector.logits", f"teacher.features:fpn{i}")
        terms[f"context{i}"] = term(
            "losses.feature.feature_sum_loss",
            pair,
            weight=weight * GLOBAL,
            connector=part("models.context_connectors.context_blocks"),
        )
    return terms


def knowledge(variant: str) -> dict:
    labelled = dict(options=REGIONS, where="batch.labelled")
    if variant == "ld":
        return response() | ld()
    if variant == "cwd":
        return pyramid("cwd", "losses.dense.channel_wise_loss", weight=5.0, kwargs=dict(temperature=1.0))
    if variant == "fgd":
        return fgd(weight=1.0)
    if variant == "mgd":
        generator = part("models.method_connectors.mgd_generator", ratio=0.65, mask="pixel")
        return pyramid("mgd", "losses.feature.feature_sum_loss", weight=2e-4, connector=generator)
    if variant == "imitation":
        return pyramid("imitation", "losses.detection_distillation.region_imitation_loss", weight=1.0, **labelled)
    if variant in ("pseudo", "detr"):
        outputs = (("student.logits",), ("teacher.logits",))
        return {"pseudo": term("tasks.detect.pseudo_label_loss", *outputs, weight=1.0, kwargs=dict(threshold=0.5))}
    return response()


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, data=DATA, variants=(*VARIANTS, "detr"))
    config = base()
    config.data.name, config.data.labels = "kd_jax.data.boxes:digit_scenes", 200
    config.task = ConfigDict(part("tasks.detect.task"))
    if variant.data == "crowns":
        config.data.name, config.data.labels = "kd_jax.data.crowns:crowns", 60
    if variant.data == "coco":
        config.data.name, config.data.labels, config.data.validation = "kd_jax.data.coco:folder", 0, 0.1
    if variant.data != "scenes":
        config.prepare = ConfigDict(part("data.moved_boxes.moved", flip=True, shift=6))
    detector = "models.detection.dense.detector"
    config.teacher.model = dict(name=detector, kwargs=dict(widths=(12, 24, 48), pyramid=24))
    config.student.model = dict(name=detector, kwargs=dict(widths=(6, 8, 12), pyramid=8))
    config.teacher.train, config.train = adam(700, 0.004), adam(400, 0.008)
    config.terms = ConfigDict({name: {"weight": w} for name, w in (("quality", 1.0), ("giou", 2.0), ("dfl", 0.25))})
    config.terms.update(knowledge(variant.variant))
    config.log_every, config.eval_every = 50, 200
    small: dict = {"model": {"kwargs": {"widths": (8, 12, 16), "pyramid": 8}}}
    if variant.variant == "detr":
        config.teacher.model = dict(name="models.detection.pretrained.of", kwargs=dict(path="", chosen=(), picture=()))
        config.teacher.initial = ConfigDict(part("models.detection.pretrained.load", path=""))
        config.teacher.train.steps = config.teacher.train.epochs = 0
        return finish(config, variant, tiny={"teacher": {"train": {"steps": 0}}, "student": small})
    return finish(config, variant, tiny={"teacher": small, "student": small})
