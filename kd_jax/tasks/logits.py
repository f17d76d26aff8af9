"""What classification and next-token prediction share: a softmax over classes, one integer label for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import metrics
from kd_jax.core.chunked import answer_of, scores
from kd_jax.core.terms import masked_sum_and_count
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.tasks.common import comparable, require_shape
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


def class_values(outputs: Outputs, labels: Array, reference: Outputs | None) -> dict[str, Array]:
    """Returns {metric: values of the shape of the labels} of the labels, the confidence, and those of the reference.

    The metrics of the reference are there where it can be compared. Logits that a network projects are built in chunks.
    """
    logits = answer_of(outputs)
    asked = {name: (metric, logits, labels) for name, metric in {**OF_LABELS, "confidence": metrics.confidence}.items()}
    if comparable(reference, outputs.logits) is not None:
        others = answer_of(reference)
        asked |= {name: (metric, logits, others) for name, metric in OF_REFERENCE.items()}
    return scores(asked)


def class_sums(values: Mapping[str, Array], labels: Array, labelled: Array, compared: Array) -> Sums:
    """Returns the sums of `class_values`: of the labels and the calibration bins where `labelled`, those of the
    reference where `compared`."""
    flat = [x.reshape(-1) for x in (values["confidence"], values["accuracy"], labels, labelled)]
    confidence, hits, counts = metrics.binned(*flat)
    sums = {name: masked_sum_and_count(values[name], labelled) for name in OF_LABELS}
    sums |= {"bins/confidence": (confidence, counts), "bins/hits": (hits, counts)}
    return sums | {name: masked_sum_and_count(values[name], compared) for name in OF_REFERENCE if name in values}


def calibration_error(sums: Mapping[str, tuple[Any, Any]]) -> float:
    """Returns the expected calibration error of the bins in the sums of a whole split."""
    confidence, counts = sums["bins/confidence"]
    return float(metrics.expected_calibration_error(confidence, sums["bins/hits"][0], counts))
