"""Published methods that take more than one loss on one pair of values; kd_jax/config/presets.py names them all.

`stages` is how many stages both networks have: three in CIFAR's ResNets, four in ResNet50, VGG and MobileNetV2.
"""

from __future__ import annotations

from collections.abc import Sequence

from kd_jax.config.terms import Terms, features, part, response, supervised, term


def _stages(number: int) -> tuple[str, ...]:
    return tuple(f"stage{i + 1}" for i in range(number))


def boundary(weight: float = 0.003, stages: int = 3) -> Terms:
    """Returns the terms of AB (arXiv 1811.03233): on which side of 0 pre-activations are, half as much a stage earlier.

    They are trained alone first (`presets.FIRST`), the cross-entropy after them, as RepDistiller does; the authors go
    on with KD at T 3.
    """
    terms = supervised()
    for i, stage in enumerate(_stages(stages), start=1):
        tap = (f"{stage}/pre_activation",)
        terms[f"ab_{stage}"] = term(
            "losses.feature.activation_boundary_loss",
            features("student", tap),
            features("teacher", tap),
            weight=weight * 2.0 ** (i - stages),
            kwargs={"margin": 1.0},
            connector=part("models.connectors.boundary_regressor"),
        )
    return terms


def overhaul(weight: float = 1e-3, stages: int = 3, norms: Sequence[str] = ()) -> Terms:
    """Returns the terms of OFD (arXiv 1904.01866): partial L2 before the ReLU, half as much a stage earlier.

    `norms` are the paths of the teacher's last BatchNorm of each stage, "stage1.block4.conv2.norm", from which the
    authors take the margins; without them the margins are measured on the batch. mdistiller leaves the teacher in
    training mode; so does config.teacher.mode="train", which no config sets.
    """
    terms = supervised()
    for i, stage in enumerate(_stages(stages), start=1):
        tap = (f"{stage}/pre_activation",)
        terms[f"ofd_{stage}"] = term(
            f"losses.composed.overhaul_{'norm' if norms else 'batch'}_loss",
            features("student", tap),
            features("teacher", tap),
            weight=weight * 2.0 ** (i - stages),
            options={"norm": f"params.teacher.{norms[i - 1]}"} if norms else {},
            connector=part("models.connectors.conv1x1", norm=True, resize=False, normal=True),
        )
    return terms


def flow(weight: float = 1.0, stages: int = 3) -> Terms:
    """Returns the terms of FSP (CVPR 2017): Gram matrices of neighbouring stages, from the stem on.

    They are trained alone first (`presets.FIRST`), the cross-entropy after them. RepDistiller's weight of 50 is on its
    command line only: nothing is multiplied by it.
    """
    terms, taps = supervised(), ("stem", *_stages(stages))
    for pair in zip(taps, taps[1:], strict=False):
        terms[f"fsp_{pair[1]}"] = term(
            "losses.feature.fsp_loss", features("student", pair), features("teacher", pair), weight=weight
        )
    return terms


def factor(weight: float = 200.0, attention: bool = True) -> Terms:
    """Returns the terms of FT (arXiv 1802.04977): the paraphraser alone first (`presets.FIRST`), frozen after.

    With `attention` the factors become attention maps, as in RepDistiller, whose weight is 200; the authors compare
    whole factors, with weight 500.
    """
    tap = ("stage3",)
    return {
        **supervised(),
        "ft_paraphraser": term(
            "losses.feature.feature_hint_loss",
            features("teacher", tap),
            features("teacher", tap),
            connector=part("models.method_connectors.factor_paraphraser"),
        ),
        "ft": term(
            "losses.composed.factor_attention_loss" if attention else "losses.feature.factor_transfer_loss",
            features("student", tap),
            ("ft_paraphraser/connector.features:factor",),
            weight=weight,
            connector=part("models.method_connectors.factor_translator"),
        ),
    }


def review(weight: float = 5.0, stages: int = 3, warmup: float = 1 / 12, before: Sequence[str] = ("teacher",)) -> Terms:
    """Returns the terms of ReviewKD (arXiv 2104.09044): fused stages, with a warm-up over 20 of 240 epochs.

    `before` are the networks whose stages are read before their ReLU: the teacher on CIFAR-100, both on ImageNet.
    """
    sides = []
    for side in ("student", "teacher"):
        suffix = "/pre_activation" if side in before else ""
        sides.append(features(side, (*(f"{stage}{suffix}" for stage in _stages(stages)), "embedding")))
    kd = term(
        "losses.composed.review_kd_loss",
        *sides,
        weight=weight,
        connector=part("models.method_connectors.review_kd_fusion"),
        schedule=part("core.schedules.warmup", fraction=warmup, stairs=240) if warmup else None,
    )
    return {**supervised(), "review": kd}


def class_attention(weight: float = 15.0, normalize: bool = False, resolution: int = 2) -> Terms:
    """Returns the terms of CAT-KD (CVPR 2023): class activation maps, pooled to `resolution` x `resolution`."""
    kd = term(
        "losses.composed.class_attention_transfer_loss",
        ("student.features:final", "params.student.head"),
        ("teacher.features:final", "params.teacher.head"),
        weight=weight,
        kwargs={"normalize": normalize, "resolution": resolution},
    )
    return {**supervised(), "cat": kd}


def teacher_head(weight: float = 1.0) -> Terms:
    """Returns the terms of SRRL (ICLR 2021): the teacher's head reads the student's last map through a connector."""
    kd = term(
        "losses.composed.teacher_head_loss",
        ("student.features:final",),
        ("teacher.features:embedding", "teacher.logits"),
        weight=weight,
        kwargs={"logit_weight": 1.0},
        options={"head": "params.teacher.head"},
        connector=part("models.method_connectors.srrl_connector"),
    )
    return {**supervised(), "srrl": kd}


def information(weight: float = 1.0, correlation: float = 2.0, mutual: float = 1.0, alpha: float = 1.01) -> Terms:
    """Returns the terms of ITRD (arXiv 2112.00459): correlation and mutual information of the pooled features.

    The numbers are those of the authors' command, for wrn40-2-wrn16-2; their parser's defaults are 2.0, 0.05 and 1.5.
    """
    kd = term(
        "losses.information.information_distillation_loss",
        features("student", ("embedding",)),
        features("teacher", ("embedding",)),
        weight=weight,
        kwargs={"correlation": float(correlation), "mutual": float(mutual), "alpha": float(alpha)},
        connector=part("models.method_connectors.information_embedding"),
    )
    return {**supervised(), "itrd": kd}


def semantic(weight: float = 400.0, stages: int = 3) -> Terms:
    """Returns the terms of SemCKD (arXiv 2012.03236): every stage from every stage, beside KD at T 4 of weight 1."""
    taps = _stages(stages)
    teacher = features("teacher", taps)
    kd = term(
        "losses.cross_layer.semantic_calibration_loss",
        (*features("student", taps), *teacher),
        teacher,
        weight=weight,
        connector=part("models.cross_layer.semantic_calibration", stages=stages),
    )
    return {**response(1.0, ce=1.0), "semckd": kd}


def curriculum(weight: float = 0.9, ce: float = 0.1, rising: float = 1 / 24, epochs: int = 240) -> Terms:
    """Returns the terms of CTKD (arXiv 2211.16231): KD whose temperature, 15.6 at first, is trained to make it harder.

    The strength of that grows from 0 to 1 along half a cosine over the first 10 of 240 `epochs` (`rising`), at the
    beginning of each, as in the authors' code.
    """
    # Their factor of an epoch, from 1, is the cosine at epoch / 10.
    rise = part("core.schedules.cosine", start=0.0, end=1.0, fraction=rising, stairs=epochs, first=1)
    kd = term(
        "losses.composed.curriculum_kd_loss",
        ("student.logits",),
        ("teacher.logits",),
        weight=weight,
        kwargs={"strength": rise},
        connector=part("models.connectors.learned_scalar", first=1.0),
    )
    return {**supervised(ce), "kd": kd}


def multi_level(weight: float = 0.9, ce: float = 0.1, strong: bool = False) -> Terms:
    """Returns the terms of MLKD (CVPR 2023): KD, relations of examples and of classes, each at T 2 to 6.

    The half is what the authors' masks of low confidence come to: of examples and classes they take those at or below
    the median, and the script applies them as a factor. `strong` adds what is learned on a second, strong view,
    {"strong": "batch.strong"} of schemes.offline.build; without it this is the weak view's half of the method.
    """
    fn = "losses.composed.several_temperatures_kd_loss"
    weak, other = (("student.logits",), ("teacher.logits",)), (("student_strong.logits",), ("teacher_strong.logits",))
    kd = term("losses.response.multi_level_logit_loss", *weak, weight=weight / 2)
    terms = {**supervised(ce), "kd": kd}
    if not strong:
        return terms
    return {
        **terms,
        "ce_strong": {**terms["ce"], "inputs": ("student_strong.logits",)},
        "kd_strong": term(fn, *other, weight=weight, kwargs={"temperatures": (3.0, 4.0, 5.0)}),
        "kd_weak": term(fn, *weak, weight=weight, kwargs={"temperatures": (2.0, 6.0)}),
    }


def masked_generation(weight: float = 1.2e-3) -> Terms:
    """Returns the terms of MGD (arXiv 2205.01529): the teacher's last map, generated from the student's masked one."""
    paths = features("student", ("final",)), features("teacher", ("final",))
    generator = part("models.method_connectors.mgd_generator")
    return {
        **supervised(),
        "mgd": term("losses.feature.feature_sum_loss", *paths, weight=weight, connector=generator),
    }


def reused_head(weight: float = 1.0) -> Terms:
    """Returns the terms of SimKD (arXiv 2203.14001): projected against teacher's map, no labels, the teacher's head."""
    paths = features("student", ("projected",)), features("teacher", ("final",))
    return {"simkd": term("losses.composed.pooled_hint_loss", *paths, weight=weight)}
