"""Published methods as terms, with the authors' weight, temperature and taps. `:crd` in a config's variant is one name.

Weights are those of the scripts that the field compares itself on (RepDistiller, mdistiller, the authors' own), for
CIFAR-sized networks with taps stage1..3 and embedding; nothing here was tuned on our data. Cross-entropy sees labelled
examples only, teacher terms see all. Schedules count in fractions of the run: 20 epochs of 240 are 1/12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd_jax.config.terms import Terms, features, part, response, supervised, term

STAGES = ("stage1", "stage2", "stage3")


def logits(
    fn: str, weight: float, ce: float = 1.0, *, labels: bool = False, warmup: float = 0.0, **kwargs: Any
) -> Callable[..., Terms]:
    """Returns the preset of a loss on the logits: {ce} + weight * fn(student, teacher[, labels])."""

    def preset(weight: float = weight, **changes: Any) -> Terms:
        targets = ("teacher.logits", *(("batch.label",) if labels else ()))
        schedule = part("core.schedules.warmup", fraction=warmup) if warmup else None
        values = {k: float(v) if isinstance(v, int) else v for k, v in {**kwargs, **changes}.items()}
        kd = term(fn, ("student.logits",), targets, weight=weight, kwargs=values, schedule=schedule)
        return {**supervised(ce), "kd": kd}

    return preset


def maps(
    name: str, fn: str, weight: float, taps: tuple[str, ...], connector: dict[str, Any] | None = None, **kwargs: Any
) -> Callable[..., Terms]:
    """Returns the preset of a loss on features: ce + weight * sum over `taps` of fn(connector(student), teacher)."""

    def preset(tap: str = "", weight: float = weight) -> Terms:
        chosen = (tap,) if tap else taps
        terms = supervised()
        for one in chosen:
            paths = features("student", (one,)), features("teacher", (one,))
            key = name if len(chosen) == 1 else f"{name}_{one}".replace("/", "_")
            terms[key] = term(fn, *paths, weight=weight, kwargs=kwargs, connector=connector)
        return terms

    return preset


def _pre_activations(name: str, fn: str, weight: float, **options: Any) -> Terms:
    """Returns ce and a term `name`_stage of fn at each stage before its ReLU, the weight halved per earlier stage."""
    terms = supervised()
    for i, stage in enumerate(STAGES):
        tap = (f"{stage}/pre_activation",)
        terms[f"{name}_{stage}"] = term(
            fn,
            features("student", tap),
            features("teacher", tap),
            weight=weight * 2.0 ** (i - 2),
            connector=part("models.connectors.conv1x1", norm=True),
            **options,
        )
    return terms


def boundary(weight: float = 0.003) -> Terms:
    """Returns the terms of AB (arXiv 1811.03233): the pre-activations' signs, in the first 30 of 240 epochs alone."""
    schedule = part("core.schedules.until", fraction=0.125)
    fn = "losses.feature.activation_boundary_loss"
    return _pre_activations("ab", fn, weight, kwargs={"margin": 1.0}, schedule=schedule)


def overhaul(weight: float = 1e-3) -> Terms:
    """Returns the terms of OFD (arXiv 1904.01866): partial L2 before the ReLU, the margin measured on the batch."""
    return _pre_activations("ofd", "losses.composed.overhaul_batch_loss", weight)


def flow(weight: float = 50.0) -> Terms:
    """Returns the terms of FSP (CVPR 2017): Gram matrices between stages, in the first eighth of the run alone."""
    terms = supervised()
    for pair in (STAGES[:2], STAGES[1:]):
        terms[f"fsp_{pair[1]}"] = term(
            "losses.feature.fsp_loss",
            features("student", pair),
            features("teacher", pair),
            weight=weight,
            schedule=part("core.schedules.until", fraction=0.125),
        )
    return terms


def factor(weight: float = 200.0) -> Terms:
    """Returns the terms of FT (arXiv 1802.04977); the paraphraser learns beside the student, not before it."""
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
            "losses.feature.factor_transfer_loss",
            features("student", tap),
            ("ft_paraphraser/connector.features:factor",),
            weight=weight,
            connector=part("models.method_connectors.factor_translator"),
        ),
    }


def review(weight: float = 5.0) -> Terms:
    """Returns the terms of ReviewKD (arXiv 2104.09044): fused stages, with a warm-up over 20 of 240 epochs."""
    taps = (*STAGES, "embedding")
    kd = term(
        "losses.composed.review_kd_loss",
        features("student", taps),
        features("teacher", taps),
        weight=weight,
        connector=part("models.method_connectors.review_kd_fusion"),
        schedule=part("core.schedules.warmup", fraction=1 / 12),
    )
    return {**supervised(), "review": kd}


def class_attention(weight: float = 50.0) -> Terms:
    """Returns the terms of CAT-KD (CVPR 2023): class activation maps of the last stage, pooled to 2 x 2."""
    kd = term(
        "losses.composed.class_attention_transfer_loss",
        ("student.features:stage3", "params.student.head"),
        ("teacher.features:stage3", "params.teacher.head"),
        weight=weight,
    )
    return {**supervised(), "cat": kd}


def teacher_head(weight: float = 1.0) -> Terms:
    """Returns the terms of SRRL (ICLR 2021): the teacher's head reads the student's embedding through a connector."""
    kd = term(
        "losses.composed.teacher_head_loss",
        ("student.features:embedding",),
        ("teacher.features:embedding", "teacher.logits"),
        weight=weight,
        kwargs={"logit_weight": 1.0},
        options={"head": "params.teacher.head"},
        connector=part("models.method_connectors.srrl_connector"),
    )
    return {**supervised(), "srrl": kd}


def curriculum(weight: float = 0.9) -> Terms:
    """Returns the terms of CTKD (arXiv 2211.16231): KD whose temperature is trained to make it harder.

    The strength of that rises from 0 to 1 along half a cosine over the first 10 of 240 epochs.
    """
    strength = part("core.schedules.cosine", start=0.0, end=1.0, fraction=1 / 24)
    kd = term(
        "losses.composed.curriculum_kd_loss",
        ("student.logits",),
        ("teacher.logits",),
        weight=weight,
        kwargs={"strength": strength},
        connector=part("models.connectors.learned_scalar"),
    )
    return {**supervised(0.1), "kd": kd}


def top_classes(weight: float = 0.9, k: int = 5) -> Terms:
    """Returns the terms of KD from the teacher's k most likely classes and one bucket for the rest (small caches)."""
    kd = term(
        "losses.composed.top_classes_loss",
        ("student.logits",),
        ("teacher.logits",),
        weight=weight,
        kwargs={"k": k, "temperature": 4.0},
    )
    return {**supervised(0.1), "kd": kd}


def graph(weight: float = 1.0) -> Terms:
    """Returns the terms of IRG (CVPR 2019): vertices, edges and transformations between stage2 and stage3."""
    taps = ("stage2", "stage3", "embedding")
    sides = [(*features(side, taps), f"{side}.logits") for side in ("student", "teacher")]
    return {**supervised(), "irg": term("losses.relation.instance_relation_graph_loss", *sides, weight=weight)}


def embedded(fn: str, weight: float, *, normalize: bool, memory: bool = False, **kwargs: Any) -> Callable[..., Terms]:
    """Returns the preset of a loss on linear embeddings of both networks' features, both trained (CC, CRD)."""

    def preset(weight: float = weight, **changes: Any) -> Terms:
        inputs = (*features("student", ("embedding",)), *features("teacher", ("embedding",)))
        values = {**kwargs, **changes}
        bank = part("losses.composed.contrastive_memory", **values) if memory else None
        options = {"memory": "memory", "index": "batch.index", "step": "step"} if memory else {}
        kd = term(
            fn,
            inputs,
            weight=weight,
            kwargs=values,
            options=options,
            memory=bank,
            connector=part("models.method_connectors.embed_pair", normalize=normalize),
        )
        return {**supervised(), "embed": kd}

    return preset


def masked_generation(weight: float = 1.2e-3) -> Terms:
    """Returns the terms of MGD (arXiv 2205.01529): the teacher's last map, generated from the student's masked one."""
    return maps(
        "mgd", "losses.feature.feature_sum_loss", weight, ("stage3",), part("models.method_connectors.mgd_generator")
    )()


def reused_head(weight: float = 1.0) -> Terms:
    """Returns the terms of SimKD (arXiv 2203.14001): projected against teacher's map, no labels, the teacher's head."""
    paths = features("student", ("projected",)), features("teacher", ("stage3",))
    return {"simkd": term("losses.feature.feature_hint_loss", *paths, weight=weight)}


_RESPONSE, _FEATURE, _RELATION = "losses.response.", "losses.feature.", "losses.relation."
_AUTO, _REGRESSOR = part("models.connectors.auto"), part("models.connectors.conv_regressor")
_VID = part("models.method_connectors.vid_regressor")
_COMPOSED = "losses.composed."
PRESETS: dict[str, Callable[..., Terms]] = {
    "supervised": supervised,
    # response
    "kd": response,
    "soft_ce": logits(f"{_RESPONSE}soft_cross_entropy_loss", 0.9, 0.1, temperature=4.0),
    "logit_mse": logits(f"{_RESPONSE}logit_mse_loss", 0.1),
    "reverse_kl": logits(f"{_RESPONSE}reverse_kl_loss", 0.9, 0.1, temperature=4.0),
    "jsd": logits(f"{_RESPONSE}jsd_loss", 0.9, 0.1, beta=0.5, temperature=4.0),
    "skew_kl": logits(f"{_RESPONSE}skew_kl_loss", 0.9, 0.1, alpha=0.1, temperature=1.0),
    "skew_reverse_kl": logits(f"{_RESPONSE}skew_reverse_kl_loss", 0.9, 0.1, alpha=0.1, temperature=1.0),
    "akl": logits(f"{_RESPONSE}adaptive_kl_loss", 0.9, 0.1, mu=0.5),
    "tv": logits(f"{_RESPONSE}total_variation_loss", 0.9, 0.1, temperature=1.0),
    "dkd": logits(
        f"{_COMPOSED}dkd_transfer_loss", 1.0, labels=True, warmup=1 / 12, alpha=1.0, beta=8.0, temperature=4.0
    ),
    "nkd": logits(f"{_COMPOSED}nkd_transfer_loss", 1.0, labels=True, gamma=3.5, temperature=3.0),
    "wsld": logits(f"{_COMPOSED}wsld_transfer_loss", 2.25, labels=True, temperature=4.0),
    "dist": logits(f"{_RESPONSE}dist_loss", 2.0, beta=1.0, gamma=1.0, temperature=4.0),
    "lskd": logits(f"{_COMPOSED}standardized_kd_loss", 9.0, 0.1, temperature=2.0),
    "ttm": logits(f"{_RESPONSE}ttm_loss", 45.0, gamma=0.1),
    "wttm": logits(f"{_RESPONSE}wttm_loss", 45.0, gamma=0.2),
    "mlkd": logits(f"{_RESPONSE}multi_level_logit_loss", 0.9, 0.1),
    "ctkd": curriculum,
    "topk_kd": top_classes,
    "uld": logits(f"{_RESPONSE}uld_loss", 0.9, 0.1, temperature=1.0),
    # feature
    "feature": maps("hint", f"{_FEATURE}feature_hint_loss", 100.0, ("stage2",), _AUTO),
    "fitnet": maps("hint", f"{_FEATURE}feature_hint_loss", 100.0, ("stage2",), _REGRESSOR),
    "at": maps("at", f"{_FEATURE}attention_transfer_loss", 1000.0, STAGES),
    "nst": maps("nst", f"{_FEATURE}neuron_selectivity_loss", 50.0, STAGES),
    "vid": maps("vid", f"{_FEATURE}variational_connector_loss", 1.0, STAGES, _VID),
    "ab": boundary,
    "ofd": overhaul,
    "fsp": flow,
    "ft": factor,
    "review_kd": review,
    "cat_kd": class_attention,
    "ickd": maps("ickd", f"{_FEATURE}inter_channel_loss", 2.5, ("stage3",), part("models.connectors.conv1x1")),
    "pearson": maps("pearson", f"{_FEATURE}pearson_feature_loss", 1.0, ("stage3",), _AUTO),
    "srrl": teacher_head,
    "cwd": maps("cwd", "losses.dense.channel_wise_loss", 3.0, ("stage3",), _AUTO, temperature=4.0),
    "affinity": maps("affinity", "losses.dense.pairwise_affinity_loss", 1.0, ("stage3",)),
    "mgd": masked_generation,
    "simkd": reused_head,
    # relation and representation
    "rkd": maps("rkd", f"{_RELATION}relation_loss", 1.0, ("embedding",), distance_weight=25.0, angle_weight=50.0),
    "rkd_distance": maps("rkd", f"{_RELATION}distance_relation_loss", 25.0, ("embedding",)),
    "rkd_angle": maps("rkd", f"{_RELATION}angle_relation_loss", 50.0, ("embedding",)),
    "sp": maps("sp", f"{_RELATION}similarity_preserving_loss", 3000.0, ("stage3",)),
    "pkt": maps("pkt", f"{_RELATION}probabilistic_transfer_loss", 30000.0, ("embedding",)),
    "cc": embedded(f"{_RELATION}correlation_congruence_loss", 100.0, normalize=False),
    "irg": graph,
    "crd": embedded(
        f"{_COMPOSED}contrastive_memory_loss", 0.8, normalize=True, memory=True, negatives=512, temperature=0.07
    ),
    "info_nce": embedded("losses.representation.info_nce_loss", 0.8, normalize=True, temperature=0.07),
}
# The scheme of methods that change the student, where the others take schemes.offline.build.
SCHEMES = {"simkd": "schemes.reused_head.build"}
# The knowledge types of the surveys, each by its first method; `feature` is the hint with the simplest connector.
PRESETS |= {"response": response, "attention": PRESETS["at"], "relation": PRESETS["rkd"]}
