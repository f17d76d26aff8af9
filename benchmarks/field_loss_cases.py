"""What `benchmarks.losses` measures of the losses beyond classes: boxes, rankings, transcripts, policies, synthesis."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.loss_cases import KINDS, Case, Input
from kd_jax.losses import ctc, dense, multimodal, policy, ranking, synthesis

MODULES = (multimodal, ranking, policy, synthesis, ctc)


def losses() -> dict[str, Callable[..., jax.Array]]:
    """Returns all losses of MODULES by name."""
    return {n: fn for module in MODULES for n, fn in vars(module).items() if n.endswith(KINDS) and n[0] != "_"}


def _affinity_ensemble(s_image, s_text, *teachers):
    pairs, scales = [teachers[:2], teachers[2:]], [1.0, 2.0]
    return multimodal.affinity_ensemble_loss(s_image, s_text, pairs, student_scale=1.0, teacher_scales=scales)


def _focal(s, t, mask):
    return dense.focal_feature_loss(s, t, jnp.abs(mask))


def _intra_class(s, t, labels):
    return dense.intra_class_loss(s, t, labels, classes=10)


def _ctc_sequence(z, hypotheses, weights):
    paddings = jnp.zeros(hypotheses.shape)
    return ctc.ctc_sequence_loss(z, jnp.zeros(z.shape[:2]), hypotheses + 1, paddings, jnp.abs(weights))


def _distribution(s, r, s_labels, r_labels):
    return synthesis.distribution_matching_loss(s, r, s_labels, r_labels, classes=10)


def table(small: bool = False) -> dict[str, Case]:
    """Returns every loss at a typical size: scores [512, 1000], embeddings [512, 512], maps [64, 16, 16, 64]."""
    n, classes, width = (8, 10, 16) if small else (512, 1000, 512)
    b, size, channels = (4, 8, 4) if small else (64, 16, 64)
    z, e, m = (n, classes), (n, width), (b, size, size, channels)
    pairs = {"axis": 0, "expected": (2, 2)}
    towers, scales = ((n, width // 4), (n, width // 4)), {"student_scale": 1.0, "teacher_scale": 1.0}
    biased = scales | {"student_bias": 0.0, "teacher_bias": 0.0}
    return {
        "giou_loss": Case(((n, 4),), ((n, 4),)),
        "diou_loss": Case(((n, 4),), ((n, 4),)),
        "focal_feature_loss": Case((m,), (m, m[:3]), _focal),
        "focal_attention_loss": Case((m,), (m,)),
        "intra_class_loss": Case((m,), (m, Input(m[:3], 10)), _intra_class),
        "margin_mse_loss": Case((z,), (z,)),
        "listwise_kl_loss": Case((z,), (z,)),
        "ranking_distillation_loss": Case((z,), (z,)),
        "relaxed_ranking_loss": Case(((n, 10),), (z,)),
        "collaborative_loss": Case((z,), (z,)),
        "affinity_kl_loss": Case(towers, towers, functools.partial(multimodal.affinity_kl_loss, **scales), **pairs),
        "affinity_ensemble_loss": Case(towers, (*towers, *towers), _affinity_ensemble, **pairs),
        "affinity_interactive_loss": Case(
            towers, towers, functools.partial(multimodal.affinity_interactive_loss, scale=1.0), **pairs
        ),
        "affinity_sigmoid_loss": Case(
            towers, towers, functools.partial(multimodal.affinity_sigmoid_loss, **biased), **pairs
        ),
        "policy_kl_loss": Case((z,), (z,)),
        "distribution_matching_loss": Case((e,), (e, Input((n,), 10), Input((n,), 10)), _distribution),
        "gradient_matching_loss": Case(((width, width),), ((width, width),)),
        "trajectory_matching_loss": Case(((width, width),), ((width, width),) * 2),
        "ctc_sequence_loss": Case(((b, 50, 30),), (Input((b, 4, 10), 29), (b, 4)), _ctc_sequence),
    }
