"""What tasks share: sums of metrics of one example each, their means, standard errors, shapes that must agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.terms import masked_sum_and_count
from kd_jax.types import Array, Outputs

Metric = Callable[[Array, Array], Array]  # (logits, labels or logits of the reference) -> one value an example


def sums_of(metrics: Mapping[str, Metric], logits: Array, others: Array, mask: Array) -> dict[str, tuple[Array, Array]]:
    """Returns {name: (sum, count)} of the metrics where `mask` is True."""
    return {name: masked_sum_and_count(metric(logits, others), mask) for name, metric in metrics.items()}


def means(sums: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Returns sum / count of every number and, as a list, of every vector; None where nothing was counted.

    Names with a slash ("bins/hits") are no metrics by themselves and are left out.
    """
    values: dict[str, Any] = {}
    for name, (total, count) in sums.items():
        if "/" in name:
            continue
        if np.ndim(total) == 0:
            values[name] = ratio(total, count)
        else:
            values[name] = [ratio(t, c) for t, c in zip(total, count, strict=True)]
    return values


def ratio(total: Any, count: Any) -> float | None:
    """Returns total / count, or None where nothing was counted: a score that was not measured is not 0."""
    return float(total) / float(count) if float(count) > 0 else None


def frequencies(labels: np.ndarray) -> np.ndarray:
    """Returns how often each class occurs among the labels that are not -1, as shares; [] where there is none."""
    counts = np.bincount(labels[labels >= 0].reshape(-1))
    return counts[counts > 0] / max(counts.sum(), 1)


def entropy(labels: np.ndarray) -> float:
    """Returns the nll, in nats, of answers that are the frequencies of the labels."""
    shares = frequencies(labels)
    return float(-(shares * np.log(shares)).sum())


def standard_error(mean: float | None, mean_of_squares: float | None, count: float) -> float | None:
    """Returns sqrt((E[x^2] - E[x]^2) / n): the standard error of a mean over n independent examples."""
    if mean is None or mean_of_squares is None:
        return None
    return math.sqrt(max(mean_of_squares - mean * mean, 0.0) / max(float(count), 1.0))


def comparable(outputs: Outputs | None, logits: Array) -> Array | None:
    """Returns the reference's logits where they are of the shape of `logits`; other answers cannot be compared."""
    if outputs is None or not isinstance(outputs.logits, jax.Array) or outputs.logits.shape != logits.shape:
        return None
    return outputs.logits


def require_shape(outputs: Outputs, wanted: tuple[int, ...], kind: str) -> None:
    """Raises ValueError unless the main output is one array of the shape `wanted`, called `kind` in the message."""
    shape = jax.tree.map(jnp.shape, outputs.logits)
    if shape != wanted:
        raise ValueError(f"its output has shape {shape}; on this data it is {kind}, {wanted}")


def require_labels(source: Any, integer: bool, dims: tuple[int, ...], what: str) -> None:
    """Raises ValueError unless the labels of a source are of the kind that the task takes."""
    labels = None if source is None else source.labels
    if labels is not None and ((labels.dtype.kind == "i") != integer or labels.ndim not in dims):
        raise ValueError(
            f"The labels of {source.name} are {labels.dtype} {labels.shape}, and the task takes {what}. "
            "config.task.name names another: tasks.classify.task, tasks.multilabel.task, tasks.regress.task, "
            "tasks.tokens.task, tasks.segment.task, or my_package.file:task."
        )
