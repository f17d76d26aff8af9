"""What was published for the pairs of configs/cifar100_pairs.py, and whether a run followed the recipe of its number.

A number is here only where the preset has the recipe of that number; `STEPS` says which epoch its table reports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config.fields import settled
from kd_jax.config.pairs import PAIRS
from kd_jax.system.workdir import plain

_REPDISTILLER = """
pair                    teacher alone    kd fitnet    at    sp    cc   vid   rkd   pkt    ab    ft   fsp   nst   crd
resnet32x4-resnet8x4      79.42 72.50 73.33  73.50 73.44 72.94 72.97 73.09 71.90 73.64 73.17 72.86 72.62 73.30 75.51
wrn40-2-wrn16-2           75.61 73.26 74.92  73.58 74.08 73.83 73.56 74.11 73.35 74.54 72.50 73.25 72.91 73.68 75.48
wrn40-2-wrn40-1           75.61 71.98 73.54  72.24 72.77 72.43 72.21 73.30 72.22 73.45 72.38 71.59     - 72.24 74.14
resnet56-resnet20         72.34 69.06 70.66  69.21 70.55 69.67 69.63 70.38 69.61 70.34 69.47 69.84 69.95 69.60 71.16
resnet110-resnet20        74.31 69.06 70.67  68.99 70.22 70.04 69.48 70.16 69.25 70.25 69.53 70.22 70.11 69.53 71.46
resnet110-resnet32        74.31 71.14 73.08  71.06 72.31 72.69 71.48 72.61 71.82 72.61 70.98 72.37 71.89 71.96 73.48
vgg13-vgg8                74.64 70.36 72.98  71.02 71.43 72.68 70.71 71.23 71.48 72.88 70.94 70.58 70.23 71.53 73.94
vgg13-MobileNetV2         74.64 64.60 67.37  64.14 59.40 66.30 64.86 65.56 64.52 67.13 66.06 61.78     - 58.16 69.73
ResNet50-MobileNetV2      79.34 64.60 67.35  63.16 58.58 68.08 65.43 67.57 64.43 66.52 67.20 60.99     - 64.96 69.11
ResNet50-vgg8             79.34 70.36 73.81  70.69 71.84 73.34 70.25 70.30 71.50 73.01 70.65 70.29     - 71.28 74.30
resnet32x4-ShuffleNetV1   79.42 70.50 74.07  73.59 71.73 73.48 71.14 73.38 72.28 74.10 73.55 71.75     - 74.12 75.11
resnet32x4-ShuffleNetV2   79.42 71.82 74.45  73.54 72.73 74.56 71.29 73.40 73.21 74.69 74.31 72.50     - 74.68 75.65
wrn40-2-ShuffleNetV1      75.61 70.50 74.83  73.73 73.32 74.52 71.38 73.61 72.21 73.89 73.34 72.03     - 74.89 76.05
"""
# By other authors, in the order of pairs.PAIRS; "-" where there is no number, or one of another recipe.
_OTHERS = {
    "dkd": "76.23 74.81 71.97 - 74.11 76.32 74.68 69.71 70.35 - 76.45 77.07 76.70",
    "dist": "- - - - - 76.31 - - - - - - -",
    "lskd": "76.11 74.37 71.43 71.48 74.17 76.62 74.36 68.61 69.02 - - 75.56 -",
    "ctkd": "- - 71.19 - - - - - - - - - -",
    "review_kd": "76.12 75.09 71.89 - 73.89 75.63 - - - - 77.45 77.78 77.14",
    "itrd": "76.12 - - - - - - - - - - - -",
    "semckd": "- - - - - 76.23 - - - - - - -",
    "simkd": "- - - - - 78.08 - - - - - - -",
}
LAST, BEST, UNSTATED = "last epoch", "best epoch on the test set", "which epoch is not said"
# Where a method's numbers are from, and which epoch they are of.
_REP = ("RepDistiller, README", LAST)
SOURCES = {
    "dkd": ("mdistiller, README", UNSTATED),
    "dist": ("DIST_KD, README", UNSTATED),
    "lskd": ("logit-standardization-KD, README", BEST),
    "ctkd": ("CTKD, README", UNSTATED),
    "review_kd": ("Chen et al. 2021, as the README of ITRD repeats it", UNSTATED),
    "itrd": ("ITRD, README", LAST),
    "semckd": ("SimKD, README", UNSTATED),
    "simkd": ("SimKD, README", UNSTATED),
}


def _read(table: str) -> dict[str, dict[str, float]]:
    """{pair: {"teacher", "alone" or a method: accuracy}} of a table; "-" is left out."""
    (_, *names), *rows = (line.split() for line in table.strip().splitlines())
    return {pair: {n: float(v) for n, v in zip(names, values, strict=True) if v != "-"} for pair, *values in rows}


# {pair: {"teacher", "alone" or a method: test accuracy in %}}
EXPECTED = _read(_REPDISTILLER)
for _method, _row in _OTHERS.items():
    for _pair, _value in zip(PAIRS, _row.split(), strict=True):
        EXPECTED[_pair] |= {} if _value == "-" else {_method: float(_value)}

# Fields of config.data that leave what is learned as it is, but for `validation`, of which the comparison tells.
_FREE = ("directory", "download", "validation", "split_seed", "label_seed")
_STUDENT = ("scheme", "task", "splits", "extra", "prepare", "roles", "teachers", "train", "optimizers", "terms")


def _hash(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


def recipe_of(config: ConfigDict) -> dict[str, str]:
    """Returns digests of what decides the student's score and of what decides the teacher's training."""
    config = settled(config)
    fields = {name: config[name] for name in _STUDENT}
    fields |= {"data": {k: v for k, v in config.data.items() if k not in _FREE}}
    fields |= {"student": [config.student[k] for k in ("model", "inputs", "initial")]}
    fields |= {"teacher": [config.teacher[k] for k in ("model", "inputs", "view", "mode", "dtype", "use")]}
    fields |= {"cache": {k: v for k, v in config.teacher.cache.items() if k != "directory"}}
    return {"student": _hash(plain(fields)), "teacher": _hash(plain([config.teacher.train, config.teacher.data]))}


def published(pair: str, method: str, config: ConfigDict) -> dict[str, Any]:
    """Returns config.published for a method of a pair: the number, of which epoch, its source, and the recipe.

    {} where none was published with this recipe. `config` is the finished one.
    """
    row = EXPECTED[pair]
    if method not in row:
        return {}
    source, step = SOURCES.get(method, _REP)
    scores = {"student": row[method], "baseline": row["alone"], "teacher": row["teacher"]}
    return {"scores": scores, "step": step, "source": source, "recipe": recipe_of(config)}


def applies(config: ConfigDict) -> bool:
    """Returns whether the number in config.published is of the recipe that this config still has.

    A teacher that is loaded may have been trained in any way: its own score is told beside the published one.
    """
    stated, actual = config.published.recipe, recipe_of(config)
    loaded = bool(config.teacher.checkpoint or config.teacher.initial.name)
    return bool(stated) and all(stated[k] == v for k, v in actual.items() if not (k == "teacher" and loaded))
