"""Rows of the losses of two-tower networks, of several teachers' features, of queues and of views."""

from __future__ import annotations

import functools

import numpy as np
from loss_row import B, C, Row

from kd_jax.losses import multimodal, queues, representation, self_distillation, standardization

QUEUE = np.random.default_rng(5).normal(size=(7, 6)).astype(np.float32)
TOKENS = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
PAIR, OTHER_PAIR = ((B, 6), (B, 6)), ((B, 4), (B, 4))
SCALES = {"student_scale": 2.0, "teacher_scale": 3.0}
EQUAL_SCALES = {"student_scale": 2.0, "teacher_scale": 2.0}


def towers(fn):
    return lambda s, t, **options: fn(*s, *t, **options)


def ensemble(s, t, teacher_scale, **options):
    """Two members that say the same."""
    return multimodal.affinity_ensemble_loss(*s, [t, t], teacher_scales=[teacher_scale, teacher_scale], **options)


def tower_row(fn, *, options, **kwargs) -> Row:
    return Row(fn, PAIR, options=options, where=True, invariant=("scale_rows", "permute_batch"), **kwargs)


def standardized(s, t, **options):
    mean, matrix = np.linspace(-1, 1, 6, dtype=np.float32), np.eye(6, dtype=np.float32)[::-1] * 0.5
    return standardization.standardized_feature_loss(s, t, mean=mean, matrix=matrix, **options)


def queued(s, t, **options):
    return queues.queued_similarity_loss(s, t, memory={"queue": QUEUE}, **options)


def contrast(s, t, labels, **options):
    bank = QUEUE / np.linalg.norm(QUEUE, axis=1, keepdims=True)
    memory = {"student": bank, "teacher": bank[::-1], "label": np.arange(7, dtype=np.int32) % 3}
    memory |= {"student_constant": np.float32(9), "teacher_constant": np.float32(11)}
    return queues.contrastive_queue_loss(s, t, memory=memory, labels=labels, step=0, negatives=5, **options)


def centred(s, t, **options):
    return self_distillation.centred_views_loss(*s, *t, center=np.linspace(-1, 1, C, dtype=np.float32), **options)


EMBEDDING_TABLE = {
    "affinity_kl": tower_row(towers(multimodal.affinity_kl_loss), options=EQUAL_SCALES),
    "affinity_kl uneven": tower_row(towers(multimodal.affinity_kl_loss), options=SCALES, teacher=OTHER_PAIR),
    "affinity_ensemble": tower_row(ensemble, options=EQUAL_SCALES),
    "affinity_interactive": tower_row(
        towers(multimodal.affinity_interactive_loss), options={"scale": 2.0}, equal="anything"
    ),
    "affinity_sigmoid": tower_row(
        towers(multimodal.affinity_sigmoid_loss),
        options=SCALES | {"student_bias": -0.5, "teacher_bias": 0.3},
        equal="anything",
    ),
    "euclidean_embedding": Row(representation.euclidean_embedding_loss, (B, 6), invariant=("permute_classes",)),
    "unit_feature": Row(representation.unit_feature_loss, (B, 6), invariant=("scale_rows", "permute_classes")),
    "agglomerative_feature": Row(
        representation.agglomerative_feature_loss, (B, 6), options={"cosine_share": 0.9}, invariant=("permute_classes",)
    ),
    "queue_similarity": Row(
        functools.partial(representation.queue_similarity_loss, queue=QUEUE),
        (B, 6),
        options={"temperature": 0.5},
        where=True,
        invariant=("scale_rows", "permute_batch"),
    ),
    "token_affinity": Row(
        representation.token_affinity_loss, (B, 3, 6), options={"temperature": 0.5}, invariant=("permute_batch",)
    ),
    "token_affinity masked": Row(
        representation.token_affinity_loss, (B, 3, 6), extras={"mask": TOKENS}, options={"temperature": 0.5}
    ),
    "token_affinity maps": Row(
        representation.token_affinity_loss, (B, 3, 2, 5), (B, 3, 2, 4), options={"temperature": 0.5}
    ),
    "standardized_feature": Row(standardized, (B, 3, 6), options={"cosine_share": 0.5}, equal="anything"),
    "queued_similarity": Row(queued, (B, 6), options={"temperature": 0.5}, invariant=("scale_rows",)),
    "contrastive_queue": Row(
        contrast,
        (B, 6),
        extras={"labels": np.array([0, 1, -1, 2], np.int32)},
        options={"temperature": 0.5},
        equal="anything",
        invariant=("scale_rows",),
    ),
    "centred_views": Row(
        centred,
        ((B, C), (B, C), (B, C)),
        ((B, C), (B, C)),
        options={"temperature": 0.5, "teacher_temperature": 0.4},
        logits=True,
        impossible=False,
        mismatch=False,
    ),
}
