"""The rows of the losses of rankings, boxes, policies, sampled tokens and transcripts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from loss_row import MAP, B, C, Row, logits_row

from kd_jax.losses import ctc, dense, on_policy, policy, ranking, response_vocabulary

SAMPLED = {"labels": np.array([[0, 4], [2, -1], [1, 3], [3, 3]], np.int32)}
LENGTH = 2
ROLLOUT = {"rollout_log_probs": np.log(np.array([[0.2, 0.3], [0.1, 0.5], [0.2, 0.2], [0.4, 0.1]], np.float32))}
CLASSES = np.arange(4 * 4 * 4).reshape(4, 4, 4).astype(np.int32) % 3 - 1
FOREGROUND = np.linspace(0, 1, 4 * 4 * 4).reshape(4, 4, 4).astype(np.float32)


def boxes(fn):
    """Of numbers that are no boxes: two corners, the second beyond the first by at least 0.1."""

    def of_corners(x):
        return jnp.concatenate([x[..., :2], x[..., :2] + 0.1 + jax.nn.softplus(x[..., 2:])], axis=-1)

    return lambda s, t: fn(of_corners(s), of_corners(t))


def transcripts(s, t):
    """Two hypotheses of two labels and of one, of 6 frames of 5 classes."""
    hypotheses = np.broadcast_to(np.array([[1, 2], [3, 0]], np.int32), (len(s), 2, 2))
    paddings = np.broadcast_to(np.array([[0, 0], [0, 1]], np.float32), (len(s), 2, 2))
    weights = np.broadcast_to(np.array([0.7, 0.3], np.float32), (len(s), 2))
    return ctc.ctc_sequence_loss(s, np.zeros(s.shape[:2], np.float32), hypotheses, paddings, weights)


def sampled(fn, **kwargs):
    """Values may be negative, and are no divergence."""
    return Row(
        fn,
        (B, LENGTH, C),
        extras=SAMPLED | ROLLOUT,
        equal="anything",
        positive=False,
        logits=True,
        invariant=("shift_rows",),
        **kwargs,
    )


LOSSES_2026 = {
    "sampled_token": sampled(on_policy.sampled_token_loss, options={"ratio_limit": 2.0, "temperature": 2.0}),
    "clipped_policy": sampled(on_policy.clipped_policy_loss, options={"clip_below": 0.2, "clip_above": 0.3}),
    "position_weighted": sampled(
        on_policy.position_weighted_loss, options={"gamma": 0.5, "temperature": 2.0}, where=True
    ),
    "topk_jsd": logits_row(
        lambda s, t, **options: response_vocabulary.topk_jsd_loss(s, t, k=2, **options),
        options={"beta": 0.3, "temperature": 2.0},
    ),
    "topk_jsd teacher": logits_row(
        lambda s, t, **options: response_vocabulary.topk_jsd_loss(
            s, t, k=2, support="teacher", tail="renormalize", **options
        ),
        options={"beta": 0.0, "temperature": 2.0},
    ),
    "margin_mse": Row(ranking.margin_mse_loss, (B, C), where=True, invariant=("shift_rows",)),
    "listwise_kl": Row(
        ranking.listwise_kl_loss, (B, C), options={"temperature": 2.0}, where=True, invariant=("shift_rows",)
    ),
    "max_similarity": Row(
        lambda s, t: ranking.max_similarity(s[:, :2], t[:, None])[:, 0],
        (B, 3, 6),
        equal="anything",
        positive=False,
        mismatch=False,
    ),
    "ranking_distillation": Row(
        lambda s, t, **kw: ranking.ranking_distillation_loss(s, np.linspace(1, 0.2, C, dtype=np.float32), **kw),
        (B, C),
        where=True,
        equal="anything",
        mismatch=False,
    ),
    "relaxed_ranking": Row(ranking.relaxed_ranking_loss, (B, C), (B, 7), where=True, equal="anything"),
    "collaborative": Row(
        ranking.collaborative_loss, (B, C), options={"temperature": 1.5, "offset": 0.2}, where=True, equal="anything"
    ),
    "giou": Row(boxes(dense.giou_loss), (B, 4)),
    "diou": Row(boxes(dense.diou_loss), (B, 4), equal="almost"),
    "focal_feature": Row(
        lambda s, t, mask_of: dense.focal_feature_loss(s, t, mask_of), MAP, extras={"mask_of": FOREGROUND}
    ),
    "focal_attention": Row(dense.focal_attention_loss, MAP, equal="almost"),
    "intra_class": Row(
        lambda s, t, labels: dense.intra_class_loss(s, t, labels, classes=2), MAP, extras={"labels": CLASSES}
    ),
    "ctc_sequence": Row(transcripts, (B, 6, C), equal="anything", mismatch=False),
    "policy_kl": logits_row(policy.policy_kl_loss, options={"temperature": 0.5}, equal="anything"),
}
