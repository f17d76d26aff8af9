"""What classification and next-token prediction share: a softmax over classes, one integer label for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import metrics
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.tasks.common import comparable, require_shape, sums_of
from kd_jax.types import Array, Outputs, Term

Sums = dict[str, tuple[Array, Array]]

# A further metric is a function of (logits, labels), or of (logits, the reference's logits), and a line here.
OF_LABELS = {"accuracy": metrics.accuracy, "nll": metrics.nll}
OF_REFERENCE = {"agreement": metrics.agreement, "kl": metrics.kl}


def cross_entropy(path: str = "student.logits") -> dict[str, Term]:
    """Returns the cross-entropy of the logits at `path` where there is a label.

    `batch.target` is the label, or the mixture of two (mixup).
    """
    return {"ce": Term(cross_entropy_loss, (path,), ("batch.target",), where="batch.labelled")}


def watch(path: str, batch: str) -> dict[str, Term]:
    """Returns the accuracy of the logits at `path` where `batch` has a label."""
    return {"accuracy": Term(metrics.accuracy, (path,), (f"{batch}.label",), where=f"{batch}.labelled")}


def check_classes(outputs: Outputs, labels: Any, source: Any, kind: str) -> None:
    """Raises ValueError unless the main output has the shape of the labels and one logit a class of the source."""
    logits, wanted = outputs.logits, jnp.shape(labels)
    shape = jnp.shape(logits) if isinstance(logits, jax.Array | jax.ShapeDtypeStruct) else ()
    classes = source.num_classes if source is not None else (shape or (0,))[-1]
    if shape[:-1] == wanted and len(shape) > len(wanted) and shape[-1] != classes:
        raise ValueError(f"it has {shape[-1]} classes, {source.name} has {classes}")
    require_shape(outputs, (*wanted, classes), kind)
    if classes < 2:
        raise ValueError("the softmax of one class is 1 whatever the network says: classes are at least two")


def class_sums(logits: Array, labels: Array, labelled: Array, reference: Outputs | None, compared: Array) -> Sums:
    """Returns the metrics of the labels and the calibration bins where `labelled`, those of the reference where
    `compared`."""
    flat = [x.reshape(-1, *x.shape[labels.ndim :]) for x in (logits, labels, labelled)]
    confidence, hits, counts = metrics.calibration_bins(*flat)
    sums = sums_of(OF_LABELS, logits, labels, labelled)
    sums |= {"bins/confidence": (confidence, counts), "bins/hits": (hits, counts)}
    others = comparable(reference, logits)
    return sums if others is None else sums | sums_of(OF_REFERENCE, logits, others, compared)


def calibration_error(sums: Mapping[str, tuple[Any, Any]]) -> float:
    """Returns the expected calibration error of the bins in the sums of a whole split."""
    confidence, counts = sums["bins/confidence"]
    return float(metrics.expected_calibration_error(confidence, sums["bins/hits"][0], counts))
