"""Rows of the losses that schemes bring: online, data-free, lifelong, self-distillation, graphs, specialists, ..."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from loss_row import LABELS, MAP, B, C, Row, logits_row, two_teachers

from kd_jax.losses import (
    adaptation,
    adversarial,
    composed,
    data_free,
    graph,
    lifelong,
    online,
    response_hard,
    self_distillation,
    self_supervised,
    specialists,
)

# Nodes 0, 1 and 2 are neighbours of each other, in no order; node 3 has none.
EDGES = {"senders": np.array([2, 0, 1, 1, 2, 0]), "receivers": np.array([1, 2, 0, 2, 0, 1])}
TASKS = np.array([[True, True, False, False, False], [False, False, True, True, True], [False] * 5])
RIVALS = TASKS[np.array([0, 0, 1, 1, 1])]
SEEN = {"predictions": np.eye(6, C, dtype=np.float32) * 0.4 + np.float32([0.12] * 5 + [0])[:, None]}  # row 5: not yet
STATISTICS = {"mean": np.float32([0.1, -0.2, 0.3]), "var": np.float32([1.2, 0.5, 0.9])}
PEERS = {"shape": (B, 3, C), "axes": 2, "equal": "anything"}
VIEWS = {"temperature": 2.0, "wrong_ratio": 0.75}


def alone(fn):
    return lambda s, t, **kwargs: fn(s, **kwargs)


def alone_row(fn, *invariant, shape=(B, C), **kwargs) -> Row:
    """A loss that reads no teacher."""
    return Row(alone(fn), shape, equal="anything", mismatch=False, invariant=invariant, **kwargs)


def alone_logits(fn, *invariant, options=None, **kwargs) -> Row:
    return logits_row(alone(fn), *invariant, options=options or {}, equal="anything", mismatch=False, **kwargs)


def whole_batch(fn):
    """A loss with one value for all rows, masked ones too, as a term reads it: masked rows are left out."""

    def read(s, where=None, **kwargs):
        values = fn(s, where=where, **kwargs)
        return values if where is None else jnp.where(where, values, 0)

    return read


def penalty(s, t, centre):
    """The critic's parameters are the student; where it is judged, the teacher."""
    return adversarial.gradient_penalty(lambda x: jnp.tanh(s * x), t, centre=centre)


def attended(inputs, t, **options):
    s, attention = inputs
    return online.group_distillation_loss(s, jax.nn.softmax(attention), t, **options)


def specialised(s, t, **options):
    """A generalist that agrees with its specialists."""
    return specialists.specialists_loss(s, t, t, t, classes=((0, 1), (2, 4)), **options)


SCHEME_TABLE = {
    "information": alone_logits(
        adaptation.information_loss, "permute_classes", "permute_batch", where=True, positive=False
    ),
    "hinge_fool": alone_row(adversarial.hinge_fool_loss, positive=False),
    "wasserstein_discriminator": Row(
        adversarial.wasserstein_discriminator_loss, (B, 3), equal="anything", positive=False
    ),
    "gradient_penalty": Row(penalty, (B, 3), options={"centre": 1.0}, equal="anything", mismatch=False),
    "gradient_penalty centre 0": Row(penalty, MAP, options={"centre": 0.0}, equal="anything", mismatch=False),
    "disagreement": Row(data_free.disagreement_loss, (B, C), logits=True, invariant=("permute_classes",)),
    "one_hot": alone_logits(data_free.one_hot_loss, "permute_classes", "permute_batch"),
    "activation": alone_row(data_free.activation_loss, "permute_classes", "permute_batch", shape=MAP, positive=False),
    "information_entropy": alone_logits(
        whole_batch(data_free.information_entropy_loss),
        "permute_classes",
        "permute_batch",
        where=True,
        positive=False,
    ),
    "batch_norm_statistics": alone_row(
        whole_batch(functools.partial(data_free.batch_norm_statistics_loss, **STATISTICS)),
        "permute_batch",
        shape=MAP,
        where=True,
    ),
    "image_variation": alone_row(
        data_free.image_variation_loss, "shift_rows", "permute_classes", "permute_batch", shape=MAP
    ),
    "image_prior": alone_row(data_free.image_prior_loss, "permute_classes", "permute_batch", shape=MAP),
    "image_norm": alone_row(data_free.image_norm_loss, "permute_classes", "permute_batch", shape=MAP),
    **{
        f"local_structure {kernel}": Row(
            functools.partial(graph.local_structure_loss, **EDGES, kernel=kernel),
            (B, 6),
            options={"scale": 8.0},
            invariant=() if kernel == "linear" else ("shift_all",),
        )
        for kernel in graph.KERNELS
    },
    "local_structure uneven": Row(functools.partial(graph.local_structure_loss, **EDGES), (B, 2, 3), (B, 4)),
    "rival_cross_entropy": alone_logits(
        functools.partial(lifelong.rival_cross_entropy_loss, rivals=RIVALS), extras=LABELS, impossible=False
    ),
    "grouped_kd": logits_row(functools.partial(lifelong.grouped_kd_loss, groups=TASKS), impossible=False),
    "peers_cross_entropy": alone_logits(
        online.peers_cross_entropy_loss, shape=(B, 3, C), axes=2, extras=LABELS, options={"smoothing": 0.1}
    ),
    "peers_cross_entropy soft": Row(
        lambda s, t: online.peers_cross_entropy_loss(s, jax.nn.softmax(t)), (B, 3, C), (B, C), logits=True, axes=2
    ),
    "mutual_kl": logits_row(online.mutual_kl_loss, "permute_classes", **PEERS),
    "mutual_kl arrays": logits_row(
        lambda s, t, **options: online.mutual_kl_loss(*s, *t, **options),
        shape=((B, C), (B, C)),
        equal="anything",
        mismatch=False,
    ),
    "peers_kd": logits_row(online.peers_kd_loss, "permute_classes", teacher=(B, C), shape=(B, 3, C), axes=2),
    "kdcl_naive": logits_row(online.kdcl_naive_loss, extras=LABELS, **PEERS),
    "kdcl_linear": logits_row(online.kdcl_linear_loss, extras=LABELS, **PEERS),
    "kdcl_min_logit": logits_row(online.kdcl_min_logit_loss, extras=LABELS, **PEERS),
    "kdcl_general": logits_row(
        functools.partial(online.kdcl_general_loss, shares=np.float32([0.5, 0.5, 0])), "permute_classes", **PEERS
    ),
    "group_distillation": logits_row(attended, teacher=(B, 3, C), shape=((B, 3, C), (B, 2, 2)), axes=2),
    "hard_label": logits_row(
        response_hard.hard_label_loss, "permute_classes", options={"smoothing": 0.1}, equal="anything"
    ),
    "consistency": logits_row(self_distillation.consistency_loss, "permute_classes", options={}),
    "progressive": alone_logits(
        functools.partial(self_distillation.progressive_loss, **SEEN),
        extras=LABELS | {"index": np.array([1, 5, 0, 3], np.int32)},
        options={"alpha": 0.8, "progress": 0.5},
        impossible=False,
    ),
    "virtual_teacher": alone_logits(
        self_distillation.virtual_teacher_loss, extras=LABELS, options={"correct": 0.9, "temperature": 2.0}
    ),
    "view_matching": alone_row(
        self_supervised.view_matching_loss,
        "scale_rows",
        "permute_batch",
        shape=(B, 3, 6),
        options={"temperature": 0.5},
    ),
    "transformed_kd": logits_row(
        self_supervised.transformed_kd_loss, extras=LABELS, options=VIEWS, shape=(B, 3, C), axes=2
    ),
    "specialists": logits_row(specialised),
    "specialists dustbin": logits_row(
        two_teachers(functools.partial(specialists.specialists_loss, classes=((0, 1, 3),), top=2, dustbin=True)),
        equal="anything",
    ),
    "confidence_transfer": logits_row(
        two_teachers(
            lambda s, *teachers, labels, **kw: specialists.confidence_transfer_loss(s, *teachers, labels, **kw)
        ),
        extras=LABELS,
        equal="anything",
    ),
    "top_classes": logits_row(functools.partial(composed.top_classes_loss, k=2), "permute_classes"),
    "top_classes all": logits_row(functools.partial(composed.top_classes_loss, k=C + 1), "permute_classes"),
}
