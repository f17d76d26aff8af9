"""What the authors of a method set for each of the 13 pairs on CIFAR-100, and on ImageNet, as options of its preset.

A value is here only where the authors' repository has it (`SOURCES`); a pair that a method lacks takes the preset's
value, which is that of resnet32x4-resnet8x4 (`FIRST_PAIR` has others), and `origin` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]

PAIRS = (
    "wrn40-2-wrn16-2",
    "wrn40-2-wrn40-1",
    "resnet56-resnet20",
    "resnet110-resnet20",
    "resnet110-resnet32",
    "resnet32x4-resnet8x4",
    "vgg13-vgg8",
    "vgg13-MobileNetV2",
    "ResNet50-MobileNetV2",
    "ResNet50-vgg8",
    "resnet32x4-ShuffleNetV1",
    "resnet32x4-ShuffleNetV2",
    "wrn40-2-ShuffleNetV1",
)


def _row(field: str, values: str) -> dict[str, Options]:
    """{pair: {field: value}} of a row of 13 values; "-" where there is none."""
    return {p: {field: float(v)} for p, v in zip(PAIRS, values.split(), strict=True) if v != "-"}


def _rows(fields: str, values: str) -> dict[str, Options]:
    """{pair: {field: value, ...}} of 13 groups "value,value"."""
    names = fields.split(",")
    groups = zip(PAIRS, values.split(), strict=True)
    return {p: dict(zip(names, map(float, v.split(",")), strict=True)) for p, v in groups if v != "-"}


_CAT = _row("weight", "12 1.5 .7 - 1.8 15 4.5 15 40 - 600 600 80")
_NORMALIZED = ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2")

# method -> {pair: options of its preset}
OF_PAIR: Mapping[str, Mapping[str, Options]] = {
    "dkd": _row("beta", "6 6 2 - 2 8 6 6 8 - 8 8 8"),
    "review_kd": _row("weight", "5 5 .6 - 1 5 - - - - 5 8 5"),
    "cat_kd": {
        pair: {
            **weight,
            "normalize": pair.endswith(_NORMALIZED),
            "resolution": 4 if "Shuffle" in pair else 2,
        }
        for pair, weight in _CAT.items()
    },
    "lskd": _rows("temperature,weight", "2,9 2,9 2,9 4,12 2,9 2,9 3,9 3,9 3,1 - - 2,9 -"),
    "itrd": _rows("correlation,mutual,alpha", "2,1,1.01 - - - - - - - - - - - -"),
    "semckd": _row("weight", "- - - - - 400 - - - - - - -"),
}
# The pair whose options a preset has by default, where it is not resnet32x4-resnet8x4.
FIRST_PAIR = {"itrd": "wrn40-2-wrn16-2"}
SOURCES = {
    "dkd": "mdistiller, configs/cifar100/dkd",
    "review_kd": "ReviewKD, CIFAR-100/script/reviewKD.sh",
    "cat_kd": "CAT-KD, configs/cifar100/CAT_KD",
    "lskd": "logit-standardization-KD, logs/KD",
    "itrd": "ITRD, README.md",
    "semckd": "SimKD, scripts/run_distill.sh",
}
# Pairs whose stages have equal widths, which FSP's Gram matrices need.
ONLY = {"fsp": ("wrn40-2-wrn16-2", *(p for p in PAIRS if p.startswith("resnet") and "Shuffle" not in p), "vgg13-vgg8")}

FOUR_STAGES = ("ResNet50", "vgg13", "vgg8", "MobileNetV2")
STAGED = ("ab", "ofd", "fsp", "review_kd", "semckd")  # presets that take the number of stages
# The path of the last BatchNorm of a teacher's stage, from which OFD takes its margins.
_LAST_NORM = {
    "resnet56": "block8.conv2.norm",
    "resnet110": "block17.conv2.norm",
    "resnet32x4": "block4.conv2.norm",
    "wrn40-2": "pre_activation",
    "vgg13": "norm2",
}
_BLOCKS_OF_RESNET50 = (3, 4, 6, 3)

# The networks, each by its function in kd_jax/models/vision.
MODELS = {
    "wrn40-2": "wide_resnet.wrn_40_2",
    "wrn40-1": "wide_resnet.wrn_40_1",
    "wrn16-2": "wide_resnet.wrn_16_2",
    "resnet110": "cifar_resnet.resnet110",
    "resnet56": "cifar_resnet.resnet56",
    "resnet32": "cifar_resnet.resnet32",
    "resnet20": "cifar_resnet.resnet20",
    "resnet32x4": "cifar_resnet.resnet32x4",
    "resnet8x4": "cifar_resnet.resnet8x4",
    "ResNet50": "resnet.resnet50_cifar",
    "vgg13": "vgg.vgg13",
    "vgg8": "vgg.vgg8",
    "MobileNetV2": "mobilenet.mobilenet_v2",
    "ShuffleNetV1": "shufflenet.shufflenet_v1",
    "ShuffleNetV2": "shufflenet.shufflenet_v2",
}

# Learning rate and batch where they are not those of RepDistiller (0.05 and 64).
LOW_RATE = ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2")


def split_pair(pair: str) -> tuple[str, str]:
    """Returns (teacher, student) of "wrn40-2-wrn16-2": names have hyphens themselves."""
    return next((pair.removesuffix(f"-{s}"), s) for s in MODELS if pair.removesuffix(f"-{s}") in MODELS)


def four_stages(teacher: str, student: str) -> bool:
    """Returns whether both networks of a pair have a fourth stage."""
    return {teacher, student} <= {*FOUR_STAGES}


def norms_of(teacher: str) -> tuple[str, ...]:
    """Returns the paths of the last BatchNorm of each stage of a teacher."""
    if teacher == "ResNet50":
        return tuple(f"stage{i}.block{n - 1}.conv3.norm" for i, n in enumerate(_BLOCKS_OF_RESNET50, start=1))
    return tuple(f"stage{i + 1}.{_LAST_NORM[teacher]}" for i in range(4 if teacher in FOUR_STAGES else 3))


def options_of(pair: str, teacher: str, student: str) -> dict[str, dict[str, Any]]:
    """Returns {method: options of its preset} for a pair, as kd_jax.config.compose takes them."""
    options: dict[str, dict[str, Any]] = {name: dict(rows[pair]) for name, rows in OF_PAIR.items() if pair in rows}
    options["ofd"] = {"norms": norms_of(teacher)}
    if four_stages(teacher, student):
        for name in STAGED:
            options.setdefault(name, {})["stages"] = 4
    return options


def check(method: str, pair: str) -> None:
    """Raises ValueError for a method that is not defined for a pair, with the pairs that it is defined for."""
    for name in method.split("+"):
        if pair not in ONLY.get(name, (pair,)):
            raise ValueError(
                f"{name} needs stages of equal widths, which {pair} has not. It has: {', '.join(ONLY[name])}."
            )


def origin(method: str, pair: str) -> str:
    """Returns what a title says of options that are not the authors' for this pair, "" where they are."""
    lacking = [n for n in method.split("+") if n in OF_PAIR and pair not in OF_PAIR[n]]
    default = "resnet32x4-resnet8x4"
    by_pair: dict[str, list[str]] = {}
    for name in lacking:
        by_pair.setdefault(FIRST_PAIR.get(name, default), []).append(name)
    told = (f"; {' and '.join(names)} with the options of {first}: none published" for first, names in by_pair.items())
    return "".join(told)


# ImageNet (mdistiller, torchdistill, cls_KD, MGD, LSKD, CTKD, MLKD, CAT-KD, SemCKD, clovaai): 100 epochs, so that a
# warm-up of one epoch is none. `ce` is the weight of the cross-entropy where it is not 1.
_KD = {"temperature": 1.0, "weight": 0.5, "ce": 0.5}
_ANY_ON_IMAGENET: dict[str, Options] = {
    "kd": _KD,
    "response": _KD,
    "dist": {"temperature": 1.0},
    "nkd": {"gamma": 1.5, "temperature": 1.0},
    "wsld": {"weight": 2.5, "temperature": 2.0},
    "crd": {"negatives": 16384},
    "mgd": {"weight": 7e-5},
    "ab": {"stages": 4},
    "fsp": {"stages": 4},
    "semckd": {"stages": 4},
}
_REVIEW = {"stages": 4, "warmup": 0.0, "before": ("student", "teacher")}
_DKD = {"temperature": 1.0, "warmup": 0.0}
ON_IMAGENET: dict[str, dict[str, Options]] = {
    "resnet34-resnet18": {
        **_ANY_ON_IMAGENET,
        "dkd": {**_DKD, "beta": 0.5},
        "review_kd": {**_REVIEW, "weight": 1.0},
        "lskd": {"ce": 1.0, "temperature": 2.0, "weight": 9.0},
        "ctkd": {"ce": 1.0, "weight": 1.0, "rising": 5 / 120, "epochs": 120},
        "cat_kd": {"weight": 0.5, "normalize": False, "resolution": 4},
        "mlkd": {"ce": 0.5, "weight": 0.5},
        "semckd": {"stages": 4, "weight": 50.0},
        "ofd": {
            "stages": 4,
            "norms": tuple(f"stage{i}.block{n - 1}.conv2.norm" for i, n in enumerate((3, 4, 6, 3), 1)),
        },
    },
    "resnet50-MobileNetV1": {
        **_ANY_ON_IMAGENET,
        "dkd": {**_DKD, "beta": 2.0},
        "review_kd": {**_REVIEW, "weight": 8.0},
        "ofd": {"stages": 4, "weight": 1e-4, "norms": norms_of("ResNet50")},
    },
}
