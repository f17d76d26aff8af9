"""The table of all losses, a row for each: how to call it and what is true of it. test_properties.py runs the rows.

A new loss needs a row here and a golden number in test_golden_<family>.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from embedding_loss_table import EMBEDDING_TABLE
from loss_row import LABELS, MAP, SMALL, B, C, Row, logits_row, two_teachers
from losses_2026_table import LOSSES_2026
from scheme_loss_table import SCHEME_TABLE
from vocabulary_table import VOCABULARY_TABLE

from kd_jax.losses import (
    adversarial,
    attention,
    cross_layer,
    dense,
    ensemble,
    feature,
    information,
    relation,
    representation,
    response,
    task,
)

NEGATIVES = np.array([[4, 5], [6, 7], [8, 9], [0, 9]], np.int32)
BANK = np.random.default_rng(3).normal(size=(2, 10, 6)).astype(np.float32)
BANK /= np.linalg.norm(BANK, axis=-1, keepdims=True)
TOKENS = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
TOP = {"teacher_ids": np.array([[0, 2], [1, 4], [3, 2], [4, 0]], np.int32)}


def crd(s, t, **kwargs):
    banks = dict(student_bank=BANK[0], teacher_bank=BANK[1], student_constant=30.0, teacher_constant=40.0)
    return representation.contrastive_representation_loss(s, t, **banks, **kwargs)


def topk(tail):
    def fn(s, t, teacher_ids, **options):
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(t, axis=-1), teacher_ids, axis=-1)
        return response.topk_kd_loss(s, log_probs, teacher_ids, tail=tail, **options)

    return fn


def standardized_kd(s, t, **options):
    return response.kd_loss(response.standardize_logits(s), response.standardize_logits(t), **options)


TABLE = (
    {
        "kd": logits_row(response.kd_loss, "permute_classes"),
        "kd positions": logits_row(response.kd_loss, shape=(2, 3, C)),
        "soft_cross_entropy": logits_row(response.soft_cross_entropy_loss, equal="minimum"),
        "logit_mse": Row(response.logit_mse_loss, (B, C), logits=True, invariant=("permute_classes",)),
        "reverse_kl": logits_row(response.reverse_kl_loss, "permute_classes"),
        "jsd": logits_row(response.jsd_loss, options={"beta": 0.3, "temperature": 2.0}),
        "jsd 0": logits_row(response.jsd_loss, options={"beta": 0.0, "temperature": 2.0}),
        "jsd 1": logits_row(response.jsd_loss, options={"beta": 1.0, "temperature": 2.0}),
        "skew_kl": logits_row(response.skew_kl_loss, options={"alpha": 0.1, "temperature": 2.0}),
        "skew_reverse_kl": logits_row(response.skew_reverse_kl_loss, options={"alpha": 0.1, "temperature": 2.0}),
        "adaptive_kl": logits_row(response.adaptive_kl_loss, "permute_classes", options={"mu": 0.5}),
        "total_variation": logits_row(response.total_variation_loss, "permute_classes"),
        "dkd": logits_row(response.dkd_loss, extras=LABELS, options={"alpha": 1.0, "beta": 8.0, "temperature": 2.0}),
        "nkd": logits_row(
            response.nkd_loss, extras=LABELS, options={"gamma": 1.5, "temperature": 2.0}, equal="anything"
        ),
        "wsld": logits_row(response.wsld_loss, extras=LABELS, equal="minimum"),
        "dist": logits_row(
            response.dist_loss, options={"beta": 1.0, "gamma": 2.0, "temperature": 2.0}, where=True, equal="almost"
        ),
        "standardized kd": logits_row(standardized_kd, "scale_rows"),
        "ttm": logits_row(response.ttm_loss, options={"gamma": 0.5}, equal="anything"),
        "wttm": logits_row(response.wttm_loss, options={"gamma": 0.5}, equal="anything"),
        "multi_level": logits_row(
            lambda s, t, temperature, **kw: response.multi_level_logit_loss(
                s, t, temperatures=(temperature, 4.0), **kw
            ),
            where=True,
        ),
        "topk bucket": logits_row(topk("bucket"), extras=TOP, options={"temperature": 1.0}),
        "topk renormalize": logits_row(topk("renormalize"), extras=TOP, equal="anything"),
        "uld": logits_row(response.uld_loss, "permute_student"),
        "uld vocabularies": Row(response.uld_loss, (B, C), (B, 7), options={"temperature": 2.0}, logits=True),
        "hint": Row(feature.feature_hint_loss, MAP),
        "feature_sum": Row(feature.feature_sum_loss, MAP),
        "attention_transfer": Row(feature.attention_transfer_loss, MAP, invariant=("scale_rows", "permute_classes")),
        "attention_transfer p": Row(
            feature.attention_transfer_loss, MAP, options={"p": 1.0}, invariant=("scale_rows",)
        ),
        "attention_transfer uneven": Row(feature.attention_transfer_loss, MAP, SMALL),
        "neuron_selectivity": Row(feature.neuron_selectivity_loss, MAP, invariant=("scale_rows", "permute_classes")),
        "neuron_selectivity uneven": Row(feature.neuron_selectivity_loss, SMALL, MAP),
        "fsp": Row(lambda s, t: feature.fsp_loss(s, t), (MAP, (B, 2, 2, 5))),
        "fsp uneven": Row(lambda s, t: feature.fsp_loss(s, t), (MAP, (B, 3, 3, 2)), ((B, 2, 2, 3), (B, 3, 3, 2))),
        "factor_transfer": Row(feature.factor_transfer_loss, MAP, invariant=("scale_rows",)),
        "variational": Row(
            lambda s, t: feature.variational_information_loss(s, t, jnp.arange(3.0)),
            MAP,
            equal="minimum",
            positive=False,
        ),
        "activation_boundary": Row(feature.activation_boundary_loss, MAP, options={"margin": 0.7}, equal="anything"),
        "overhaul": Row(lambda s, t: feature.overhaul_loss(s, t, jnp.array([-0.5, -0.2, -0.1])), MAP, equal="anything"),
        "hierarchical_context": Row(feature.hierarchical_context_loss, MAP),
        "class_attention": Row(feature.class_attention_loss, MAP, invariant=("scale_rows",)),
        "class_attention uneven": Row(feature.class_attention_loss, MAP, (B, 3, 5, 3)),
        "inter_channel": Row(feature.inter_channel_loss, MAP, invariant=("scale_rows",)),
        "inter_channel uneven": Row(feature.inter_channel_loss, MAP, (B, 3, 2, 3)),
        "pearson_feature": Row(feature.pearson_feature_loss, MAP, where=True, invariant=("scale_all", "shift_all")),
        "pearson_feature uneven": Row(feature.pearson_feature_loss, MAP, (B, 3, 5, 3), where=True),
        "softmax_regression": Row(feature.softmax_regression_loss, (B, C), logits=True),
        "relation": Row(
            relation.relation_loss,
            (B, 6),
            options={"distance_weight": 25.0, "angle_weight": 50.0},
            where=True,
            invariant=("scale_all", "shift_all", "permute_batch"),
        ),
        "distance_relation": Row(
            relation.distance_relation_loss, (B, 6), (B, 3), where=True, invariant=("permute_batch",)
        ),
        "angle_relation": Row(relation.angle_relation_loss, (B, 6), (B, 3), where=True, invariant=("permute_batch",)),
        "similarity_preserving": Row(
            relation.similarity_preserving_loss, MAP, where=True, invariant=("scale_all", "permute_batch")
        ),
        "similarity_preserving uneven": Row(relation.similarity_preserving_loss, MAP, SMALL, where=True),
        "correlation_congruence": Row(
            relation.correlation_congruence_loss,
            (B, 6),
            options={"gamma": 0.4},
            where=True,
            invariant=("scale_rows", "permute_batch"),
        ),
        "consecutive_congruence": Row(relation.consecutive_congruence_loss, (B, 6), where=True),
        "probabilistic_transfer": Row(
            relation.probabilistic_transfer_loss, (B, 6), where=True, invariant=("scale_rows", "permute_batch")
        ),
        "instance_relation_graph": Row(
            relation.instance_relation_graph_loss,
            (MAP, (B, 2, 2, 6), (B, 4), (B, C)),
            options={"vertex_weight": 0.1, "edge_weight": 5.0, "transformation_weight": 5.0},
            where=True,
            invariant=("permute_batch",),
        ),
        "correlation_information": Row(
            information.correlation_information_loss,
            (B, 6),
            options={"alpha": 1.01},
            equal="anything",
            positive=False,
            where=True,
            invariant=("scale_all", "shift_all", "permute_batch"),
        ),
        "mutual_information": Row(
            information.mutual_information_loss,
            (B, 6),
            (B, 3),
            where=True,
            invariant=("scale_rows", "permute_batch"),
        ),
        "semantic_calibration": Row(
            lambda s, t: cross_layer.semantic_calibration_loss(jax.nn.softmax(s[0]), *s[1:], *t),
            ((B, 2, 2), MAP, (B, 3, 2, 5), MAP, SMALL),
            (MAP, SMALL),
        ),
        "info_nce": Row(
            representation.info_nce_loss,
            (B, 6),
            options={"temperature": 0.5},
            where=True,
            equal="anything",
            invariant=("scale_rows", "permute_batch"),
        ),
        "contrastive_representation": Row(
            crd,
            (B, 6),
            extras={"index": np.arange(4, dtype=np.int32), "negatives": NEGATIVES},
            options={"temperature": 0.5},
            where=True,
            equal="anything",
            invariant=("scale_rows",),
        ),
        "similarity_transfer": Row(
            representation.similarity_transfer_loss,
            (B, 3, 6),
            (B, 3, 4),
            options={"temperature": 0.5, "wrong_ratio": 0.75},
            where=True,
        ),
        "similarity_transfer twins": Row(
            representation.similarity_transfer_loss, (B, 3, 6), options={"temperature": 0.5}, where=True
        ),
        "attention_score": Row(attention.attention_score_loss, (B, 2, 3, 3)),
        "attention_score masked": Row(attention.attention_score_loss, (B, 2, 3, 3), extras={"mask": TOKENS}),
        "hidden_state": Row(attention.hidden_state_loss, (B, 3, 6)),
        "hidden_state masked": Row(attention.hidden_state_loss, (B, 3, 6), extras={"mask": TOKENS}),
        "cosine_embedding": Row(attention.cosine_embedding_loss, (B, 6), where=True, invariant=("scale_rows",)),
        "cosine_embedding masked": Row(
            attention.cosine_embedding_loss, (B, 3, 6), extras={"mask": TOKENS}, where=True, invariant=("scale_rows",)
        ),
        "attention_relation": Row(attention.attention_relation_loss, (B, 2, 3, 3), extras={"mask": TOKENS}),
        "value_relation": Row(attention.value_relation_loss, (B, 2, 3, 6), (B, 2, 3, 4), extras={"mask": TOKENS}),
        "self_relation": Row(
            functools.partial(attention.self_relation_loss, relation_heads=2), (B, 3, 6), extras={"mask": TOKENS}
        ),
        "self_relation uneven": Row(
            functools.partial(attention.self_relation_loss, relation_heads=2), (B, 3, 6), (B, 3, 4)
        ),
        "patient": Row(attention.patient_loss, (B, 2, 6), invariant=("scale_rows",)),
        "channel_wise": Row(dense.channel_wise_loss, MAP, options={"temperature": 2.0}, invariant=("shift_rows",)),
        "pairwise_affinity": Row(dense.pairwise_affinity_loss, (B, 5, 4, 3), (B, 5, 4, 2), invariant=("scale_rows",)),
        "pairwise_affinity twins": Row(dense.pairwise_affinity_loss, (B, 5, 4, 3)),
        "pixel_wise": Row(dense.pixel_wise_loss, MAP, options={"temperature": 2.0}, equal="minimum", impossible=True),
        "localization": logits_row(dense.localization_loss, shape=(2, 4, C)),
        "discriminator": Row(adversarial.discriminator_loss, (B, 3), equal="anything"),
        "least_squares_discriminator": Row(adversarial.least_squares_discriminator_loss, (B, 3), equal="anything"),
        "hinge_discriminator": Row(adversarial.hinge_discriminator_loss, (B,), equal="anything"),
        "fool": Row(lambda s, t: adversarial.fool_loss(s), (B, 3), equal="anything", mismatch=False),
        "least_squares_fool": Row(
            lambda s, t: adversarial.least_squares_fool_loss(s), (B, 3), equal="anything", mismatch=False
        ),
        "cross_entropy": logits_row(
            lambda s, t, labels, smoothing: task.cross_entropy_loss(s, labels, smoothing=smoothing),
            extras=LABELS,
            options={"smoothing": 0.1},
            equal="anything",
            mismatch=False,
        ),
        "cross_entropy soft": logits_row(
            lambda s, t: task.cross_entropy_loss(s, jax.nn.softmax(t)), options={}, equal="minimum"
        ),
        "mean_squared": Row(task.mean_squared_loss, MAP),
        "binary_cross_entropy": Row(
            lambda s, t: task.binary_cross_entropy_loss(s, jax.nn.sigmoid(t)), (B, 3), equal="minimum"
        ),
        "average_kl": logits_row(two_teachers(ensemble.average_kl_loss), equal="anything"),
        "average_logits": logits_row(two_teachers(ensemble.average_logits_loss), equal="anything"),
        "average_probabilities": logits_row(two_teachers(ensemble.average_probabilities_loss), equal="anything"),
        "entropy_weighted": logits_row(two_teachers(ensemble.entropy_weighted_loss), equal="anything"),
        "confidence_weighted": logits_row(
            two_teachers(ensemble.confidence_weighted_loss), extras=LABELS, equal="anything"
        ),
    }
    | SCHEME_TABLE
    | LOSSES_2026
    | EMBEDDING_TABLE
    | VOCABULARY_TABLE
)


def shapes(spec) -> list[tuple[int, ...]]:
    return [spec] if isinstance(spec[0], int) else list(spec)


def draw(spec, seed: int):
    rng = np.random.default_rng(seed)
    arrays = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes(spec))
    return arrays[0] if isinstance(spec[0], int) else arrays


def pair(row: Row):
    return draw(row.student, 1), draw(row.teacher or row.student, 2)


def size(row: Row) -> int:
    return shapes(row.student)[0][0]


def each(fn, tree):
    return jax.tree.map(fn, tree)


def cast(tree, dtype):
    return each(lambda x: x.astype(dtype), tree)
