"""Weights that make a sensitive attribute and the label independent in the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from kd_jax.losses.task import cross_entropy_loss
from kd_jax.resolve import near
from kd_jax.types import Array, Term


def reweighing(labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Returns the weights P(group) P(class) / P(group, class), float64 [groups, classes]; 0 where no example is.

    `labels` int [n], -1 = none, which do not count; `groups` int [n]. Of the weighted examples of a class the same
    share is of a group as of all examples, and the weights have the mean 1. Kamiran, Calders, "Data Preprocessing
    Techniques for Classification without Discrimination", Knowledge and Information Systems 33, 2012.
    """
    there = labels >= 0
    pairs = np.zeros((int(groups.max()) + 1, classes))
    np.add.at(pairs, (groups[there], labels[there]), 1.0)
    independent = pairs.sum(1, keepdims=True) * pairs.sum(0) / pairs.sum()
    return np.divide(independent, pairs, out=np.zeros_like(pairs), where=pairs > 0)


def weighted_cross_entropy(logits: Array, labels: Array, *, groups: Array, weights: Sequence[Sequence[float]]) -> Array:
    """Computes weights[group, label] * cross-entropy, [batch]; logits [batch, classes], labels and groups int [batch].

    An example without a label (-1) is to be masked. ValueError for labels that are probabilities (mixup).
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError("reweigh needs the class of each example, and mixup and cutmix make mixtures of two.")
    return jnp.asarray(weights, jnp.float32)[groups, jnp.maximum(labels, 0)] * cross_entropy_loss(logits, labels)


def reweighed(terms: Mapping[str, Term], source: Any, field: str) -> dict[str, Term]:
    """Returns the task's cross-entropy with the weights of the labelled examples of a source, by its field.

    ValueError for a field that is not there, is no number of a group, or is the same for all labelled examples.
    """
    if field not in source.fields:
        raise ValueError(
            f"config.task.kwargs.reweigh={field!r}; the fields of {source.name} are "
            f"{sorted(source.fields) or 'none'}. {near(field, source.fields)}"
        )
    if source.labels is None:
        raise ValueError(f"config.task.kwargs.reweigh={field!r} needs all labels of {source.name}, which is streamed.")
    groups = np.asarray(source.fields[field])
    if groups.ndim != 1 or groups.dtype.kind not in "iub" or groups.min(initial=0) < 0:
        raise ValueError(
            f"config.task.kwargs.reweigh={field!r}: a group is a number from 0 on for each example, and the field is "
            f"{groups.dtype} {groups.shape}."
        )
    if len(np.unique(groups[source.labelled])) < 2:
        raise ValueError(
            f"config.task.kwargs.reweigh={field!r}: all labelled examples of {source.name} are of one group, so there "
            "is nothing to balance."
        )
    weights = tuple(map(tuple, reweighing(source.labels, groups.astype(np.int64), source.num_classes).tolist()))
    (ce,) = terms.values()
    return {
        "ce": Term(
            weighted_cross_entropy,
            ce.inputs,
            ce.targets,
            kwargs={"weights": weights},
            options={"groups": f"batch.{field}"},
            where=ce.where,
        )
    }
