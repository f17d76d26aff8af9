"""A map and what all of its cells are together, as a connector; kd_jax.models.connectors says how one is called."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.adapters import LinenModel
from kd_jax.models.connectors import Shape, check_maps, dense
from kd_jax.types import Array, Model


def context_blocks(student: Shape, teacher: Shape) -> Model:
    """Returns (student's map + its context, teacher's map + its context), both inputs, each by a block of its own.

    The context of a map is W2 relu(LayerNorm(W1 sum over cells of softmax(w x) x)), W1 to half as many channels, and
    0 at the start, when the pair is the two maps as they are. With `feature_sum_loss` it is the global part of FGD:
    Yang et al., "Focal and Global Knowledge Distillation for Detectors", 2021, arXiv 2111.11837, with the blocks of
    GCNet (Cao et al., 2019, arXiv 1904.11492) as the authors' code has and starts them.
    ValueError unless both are maps of one shape: another width is aligned before, as `conv1x1` does.
    """
    check_maps("context_blocks", student, teacher)
    if student.shape[1:] != teacher.shape[1:]:
        raise ValueError(
            f"context_blocks adds to maps of one shape, got student {student.shape} and teacher {teacher.shape}; "
            "models.connectors.conv1x1 in another term aligns them: '<term>/connector.logits' is its result"
        )
    return LinenModel(ContextBlocks())


kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class ContextBlocks(nn.Module):
    @nn.compact
    def __call__(self, student: Array, teacher: Array) -> tuple[Array, Array]:
        return student + Context(name="student")(student), teacher + Context(name="teacher")(teacher)


class Context(nn.Module):
    """A map [batch, height, width, channels] -> [batch, 1, 1, channels]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cells = x.reshape(x.shape[0], -1, x.shape[-1])
        scores = nn.Dense(1, kernel_init=kaiming_fan_in, name="cells")(cells)
        context = jnp.sum(jax.nn.softmax(scores, axis=1) * cells, axis=1)
        context = nn.LayerNorm(epsilon=1e-5, name="norm")(dense(context, max(1, x.shape[-1] // 2), name="narrow"))
        zeros = nn.initializers.zeros
        return nn.Dense(x.shape[-1], kernel_init=zeros, bias_init=zeros, name="wide")(nn.relu(context))[:, None, None]
