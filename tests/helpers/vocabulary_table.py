"""The rows of the losses that are computed from hidden states: with an identity as head these are logits."""

from __future__ import annotations

import numpy as np
from loss_row import LABELS, C, logits_row

from kd_jax.losses import vocabulary

HEAD = np.eye(C, dtype=np.float32)


def fused(fn):
    """Of logits, in chunks of 3 of the 4 rows."""
    return lambda s, t, **options: fn(s, HEAD, t, HEAD, chunk=3, **options)


def fused_cross_entropy(s, t, labels, **options):
    return vocabulary.fused_cross_entropy_loss(s, HEAD, labels, chunk=3, **options)


def row(fn, *invariant, **kwargs):
    return logits_row(fused(fn), *invariant, where=True, impossible=False, **kwargs)


VOCABULARY_TABLE = {
    "fused kd": row(vocabulary.fused_kd_loss, "permute_classes"),
    "fused reverse_kl": row(vocabulary.fused_reverse_kl_loss, "permute_classes"),
    "fused jsd": row(vocabulary.fused_jsd_loss, options={"beta": 0.3, "temperature": 2.0}),
    "fused skew_kl": row(vocabulary.fused_skew_kl_loss, options={"alpha": 0.1, "temperature": 2.0}),
    "fused skew_reverse_kl": row(vocabulary.fused_skew_reverse_kl_loss, options={"alpha": 0.1, "temperature": 2.0}),
    "fused total_variation": row(vocabulary.fused_total_variation_loss, "permute_classes"),
    "fused cross_entropy": logits_row(
        fused_cross_entropy,
        extras=LABELS,
        options={"smoothing": 0.1},
        where=True,
        impossible=False,
        equal="anything",
        mismatch=False,
    ),
}
