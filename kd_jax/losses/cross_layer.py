"""SemCKD: every stage of the student learns from every stage of the teacher, by weights that attention learns."""

from __future__ import annotations

import jax.numpy as jnp

from kd_jax.losses._numerics import mean_rest, pool_to_smaller, require_maps, require_same_shape, to_float
from kd_jax.types import Array


def semantic_calibration_loss(attention: Array, *maps: Array) -> Array:
    """Computes sum_ij a_ij mean (s_ij - t_j)^2 / n, of n stages of the student and m of the teacher (SemCKD).

    attention [batch, n, m], each row of it a distribution over the teacher's stages; maps: s_ij [batch, height, width,
    channels of t_j] for i = 1, 1, ..., then the m maps t_j of the teacher; of a pair the larger map is pooled to the
    smaller. Returns [batch]. Raises ValueError on other numbers of maps, channels or batch sizes. Chen, Mei, Zhang,
    Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", 2021, arXiv 2012.03236; as the authors'
    code.
    """
    a, *floats = to_float(attention, *maps)
    if a.ndim != 3 or len(floats) != (a.shape[1] + 1) * a.shape[2]:
        raise ValueError(
            f"semantic_calibration_loss: attention [batch, n, m] with n m maps of the student and m of the teacher, "
            f"got {a.shape} and {len(floats)} maps"
        )
    stages, targets = a.shape[1:]
    students, teachers = floats[: stages * targets], floats[stages * targets :]
    total = jnp.zeros(a.shape[:1], a.dtype)
    for k, student in enumerate(students):
        i, j = divmod(k, targets)
        require_maps("semantic_calibration_loss", student, teachers[j])
        s, t = pool_to_smaller(student, teachers[j])
        require_same_shape("semantic_calibration_loss", s, t)
        total = total + a[:, i, j] * mean_rest((s - t) ** 2)
    return total / stages
