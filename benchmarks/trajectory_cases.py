"""The methods that benchmarks/trajectories.py compares, each as its source publishes it, and why others are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from benchmarks import trajectory_features as features
from benchmarks import trajectory_losses as losses

LIMIT, NEGATIVES = 1e-6, 256
NARROW, WIDE = (8, 16, 32), (12, 24, 48)
RD, MD = "RepDistiller", "mdistiller"


@dataclasses.dataclass(frozen=True)
class Case:
    """A method as `source` publishes it. `first` is the loss of a stage of its own, before `loss`, at `first_rate`.

    With `small_maps` the student's maps are a quarter of the teacher's in height and width, by a stem of ImageNet.
    """

    loss: Callable[[losses.Step], Tensor]
    source: str
    preset: str = ""  # the case's name, unless it says another
    pair: str = "resnet32x4-resnet8x4"
    first: Callable[[losses.Step], Tensor] | None = None
    rate: float = 0.05
    first_rate: float = 0.05
    nesterov: bool = False
    teacher: tuple[int, ...] = WIDE
    small_maps: bool = False
    teacher_trains: bool = False  # its BatchNorm normalises by the batch
    limit: float = LIMIT
    note: str = ""


CASES = {
    "ce": Case(losses.ce, "PyTorch", "supervised"),
    "kd": Case(losses.kd, RD),
    "dkd": Case(losses.dkd, MD),
    "nkd": Case(losses.nkd, "cls_KD"),
    "wsld": Case(losses.wsld, "cls_KD"),
    "dist": Case(losses.dist, "DIST_KD"),
    "lskd": Case(losses.lskd, "logit-standardization-KD"),
    "ttm": Case(losses.ttm, "TTM"),
    "wttm": Case(losses.wttm, "TTM", note="the weight is that beside CRD; its repository has none alone"),
    "ctkd": Case(losses.ctkd, "CTKD"),
    "fitnet": Case(features.fitnet, RD),
    "at": Case(features.at, RD),
    "nst": Case(features.nst, RD),
    "vid": Case(features.vid, RD),
    "ab": Case(losses.ce, RD, first=features.ab),
    "ab, equal widths": Case(losses.ce, RD, "ab", first=features.ab, teacher=NARROW),
    "ofd": Case(features.ofd, MD, note="the teacher is in eval mode; mdistiller leaves it in training mode"),
    "ofd, teacher.mode='train'": Case(features.ofd, MD, "ofd", teacher_trains=True, note="as mdistiller"),
    "fsp": Case(losses.ce, RD, first=features.fsp, teacher=NARROW),
    "ft": Case(
        features.ft, RD, first=features.reconstruction, first_rate=0.01, note="attention of the factors, as there"
    ),
    "review_kd": Case(features.review_kd, "ReviewKD", rate=0.1, nesterov=True),
    "cat_kd": Case(features.cat_kd, "CAT-KD"),
    "cat_kd, normalised": Case(features.cat_kd_normalized, "CAT-KD", "cat_kd", "resnet32x4-ShuffleNetV1", rate=0.01),
    "ickd": Case(features.ickd, "ICKD"),
    "srrl": Case(features.srrl, "KD_SRRL"),
    "simkd": Case(features.simkd, "SimKD"),
    "semckd": Case(features.semckd, "SimKD", pair="resnet32x4-ShuffleNetV2", rate=0.01, note="at 0.05 both diverge"),
    "itrd": Case(losses.itrd, "ITRD"),
    "itrd, equal widths": Case(losses.itrd, "ITRD", "itrd", teacher=NARROW),
    "rkd": Case(losses.rkd, RD),
    "sp": Case(losses.sp, RD),
    "pkt": Case(losses.pkt, RD),
    "cc": Case(losses.cc, RD),
    **{
        f"{name}, smaller maps": Case(loss, source, name, small_maps=True)
        for name, loss, source in (
            ("at", features.at, RD),
            ("nst", features.nst, RD),
            ("vid", features.vid, RD),
            ("ofd", features.ofd, MD),
            ("simkd", features.simkd, "SimKD"),
            ("semckd", features.semckd, "SimKD"),
        )
    },
    "crd": Case(losses.crd, RD, note=f"{NEGATIVES} negatives in place of 16,384"),
}

_GENERAL = "a general loss without a recipe for these pairs; value and gradient are tested in tests/losses"
_OTHER = "published for other networks or data; value and gradient are tested in tests/losses"
WITHOUT = {
    "mlkd": "it learns from two views of each image, and the comparison has one batch as it stands",
    "mgd": "its mask is drawn in every step; published for ImageNet",
    **dict.fromkeys(("soft_ce", "logit_mse", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "akl", "tv"), _GENERAL),
    **dict.fromkeys(("topk_kd", "uld", "feature", "info_nce"), _GENERAL),
    **dict.fromkeys(("pearson", "cwd", "affinity", "irg"), _OTHER),
    **dict.fromkeys(("rkd_distance", "rkd_angle"), "a half of `rkd`"),
    "response": "another name of `kd`",
    "attention": "another name of `at`",
    "relation": "another name of `rkd`",
}
