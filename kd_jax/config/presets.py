"""Published methods as terms, with the authors' weight, temperature and taps. `:crd` in a config's variant is one name.

Weights are those of the scripts that the field compares itself on (RepDistiller, mdistiller, the authors' own), for
CIFAR-sized networks with taps stage1..3, final and embedding; nothing here was tuned on our data. Where the authors
have a value for each pair of networks the one here is resnet32x4 -> resnet8x4's; kd_jax/config/pairs.py has the others.
Cross-entropy sees labelled examples only, teacher terms see all. Schedules count in fractions of the run: 20 epochs of
240 are 1/12, and warm-ups rise 240 times in a run, once an epoch of the published length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd_jax.config import published
from kd_jax.config.terms import Terms, features, part, response, supervised, term

STAGES = ("stage1", "stage2", "stage3")


def logits(
    fn: str, weight: float, ce: float = 1.0, *, labels: bool = False, warmup: float = 0.0, **kwargs: Any
) -> Callable[..., Terms]:
    """Returns the preset of a loss on the logits: {ce} + weight * fn(student, teacher[, labels])."""

    def preset(weight: float = weight, ce: float = ce, warmup: float = warmup, **changes: Any) -> Terms:
        targets = ("teacher.logits", *(("batch.label",) if labels else ()))
        # DKD's factor of an epoch, from 1, is epoch / 20.
        schedule = part("core.schedules.warmup", fraction=warmup, stairs=240, first=1) if warmup else None
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


def attention(tap: str = "", weight: float = 1000.0, side: int = 0) -> Terms:
    """Returns the terms of attention transfer (arXiv 1612.03928) between the maps of `tap`, or of every stage.

    The loss is a mean over positions of maps of length 1, so that it grows as they become fewer: the published weight
    is for CIFAR's 32 x 32 pixels. With the `side` of smaller images it is multiplied by (side / 32)^2, which leaves
    the sum over positions its weight; 0 takes it as it is, as the authors of ImageNet's 1000 did for 224 x 224.
    """
    scale = (side / 32) ** 2 if side else 1.0
    return maps("at", "losses.feature.attention_transfer_loss", weight * scale, STAGES)(tap)


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


def contrastive(weight: float = 0.8, queue: int = 0, **changes: Any) -> Terms:
    """Returns the terms of CRD (arXiv 1910.10699) against a bank of every example, or a `queue` of so many rows.

    `changes` are `negatives`, `temperature`. The queue is as large for any number of examples; RepDistiller's weight.
    """
    values = {"negatives": 16384, "temperature": 0.07} | changes
    terms = embedded("losses.composed.contrastive_memory_loss", weight, normalize=True, memory=True, **values)()
    if queue:
        options = {"memory": "memory", "labels": "batch.label", "step": "step"}
        bank = part("losses.queues.contrastive_queue", rows=queue, **values)
        terms["embed"] |= {"fn": "losses.queues.contrastive_queue_loss", "memory": bank, "options": options}
    return terms


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
    # What the authors add to CRD; their repository has no weight of WTTM alone.
    "wttm": logits(f"{_RESPONSE}wttm_loss", 4.0, gamma=0.2),
    "mlkd": published.multi_level,
    "ctkd": published.curriculum,
    "topk_kd": top_classes,
    # For language models, beside their cross-entropy (Nicolas-BZRD/llm-recipes); nothing is published for images.
    "uld": logits(f"{_RESPONSE}uld_loss", 1.5, temperature=1.0),
    # feature
    "feature": maps("hint", f"{_FEATURE}feature_hint_loss", 100.0, ("stage2",), _AUTO),
    "fitnet": maps("hint", f"{_FEATURE}feature_hint_loss", 100.0, ("stage2",), _REGRESSOR),
    "at": attention,
    "nst": maps("nst", f"{_FEATURE}neuron_selectivity_loss", 50.0, STAGES),
    "vid": maps("vid", f"{_FEATURE}variational_connector_loss", 1.0, STAGES, _VID),
    "ab": published.boundary,
    "ofd": published.overhaul,
    "fsp": published.flow,
    "ft": published.factor,
    "review_kd": published.review,
    "cat_kd": published.class_attention,
    "ickd": maps(
        "ickd", f"{_FEATURE}inter_channel_loss", 2.5, ("stage3",), part("models.connectors.conv1x1", norm=True)
    ),
    "pearson": maps("pearson", f"{_FEATURE}pearson_feature_loss", 1.0, ("stage3",), _AUTO),
    "srrl": published.teacher_head,
    "semckd": published.semantic,
    "cwd": maps("cwd", "losses.dense.channel_wise_loss", 3.0, ("stage3",), _AUTO, temperature=4.0),
    "affinity": maps("affinity", "losses.dense.pairwise_affinity_loss", 1.0, ("stage3",)),
    "mgd": published.masked_generation,
    "simkd": published.reused_head,
    # relation and representation
    "rkd": maps("rkd", f"{_RELATION}relation_loss", 1.0, ("embedding",), distance_weight=25.0, angle_weight=50.0),
    "rkd_distance": maps("rkd", f"{_RELATION}distance_relation_loss", 25.0, ("embedding",)),
    "rkd_angle": maps("rkd", f"{_RELATION}angle_relation_loss", 50.0, ("embedding",)),
    "sp": maps("sp", f"{_RELATION}similarity_preserving_loss", 3000.0, ("stage3",)),
    "pkt": maps("pkt", f"{_RELATION}probabilistic_transfer_loss", 30000.0, ("embedding",)),
    "cc": embedded(f"{_RELATION}consecutive_congruence_loss", 0.02, normalize=False),
    "irg": graph,
    "itrd": published.information,
    "crd": contrastive,
    "info_nce": embedded("losses.representation.info_nce_loss", 0.8, normalize=True, temperature=0.07),
}
# The scheme of methods that change the student, where the others take schemes.offline.build.
SCHEMES = {"simkd": "schemes.reused_head.build"}
# The terms of methods that train them alone first, for 30 epochs before the 240 of the rest (RepDistiller).
FIRST = {"ab": r"ab_", "fsp": r"fsp_", "ft": r"ft_paraphraser"}
FIRST_SHARE = 30 / 270
# The knowledge types of the surveys, each by its first method; `feature` is the hint with the simplest connector.
PRESETS |= {"response": response, "attention": PRESETS["at"], "relation": PRESETS["rkd"]}
