"""Classification: one class of several an example, by softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import metrics
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.tasks.classify_show import show
from kd_jax.tasks.common import calibration_sums, comparable, means, require_labels, require_shape, sums_of
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

# A further metric is a function of (logits, labels), or of (logits, the reference's logits), and a line here.
OF_LABELS = {"accuracy": metrics.accuracy, "nll": metrics.nll}
OF_REFERENCE = {"agreement": metrics.agreement, "kl": metrics.kl}
ROWS = {
    "accuracy": ("accuracy", "%"),
    "nll": ("NLL", ""),
    "ece": ("calibration error (ECE)", "%"),
    "agreement": ("agrees with teacher", "%"),
    "kl": ("KL from teacher", ""),
}
HEADLINES = {
    "accuracy": Headline("accuracy", +1, "%", "accuracy_error"),
    "nll": Headline("nll", -1, "nats an example", "nll_error"),
}


def task(source: Any = None, headline: str = "accuracy") -> Task:
    """Returns the task of one class an example: cross-entropy, accuracy, nll, calibration, agreement with a teacher.

    Labels are integers [batch], -1 = none; networks answer [batch, classes]. `headline` is "accuracy" or "nll".
    """
    if headline not in HEADLINES:
        raise ValueError(f"config.task.kwargs.headline is {' or '.join(map(repr, HEADLINES))}, not {headline!r}.")
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        finish=finish,
        headline=HEADLINES[headline],
        rows=ROWS,
        watch=watch,
        show=show,
        name="classify",
    )


def terms(source: Any) -> dict[str, Term]:
    """Returns the cross-entropy on labelled examples; `batch.target` is the label, or a mixture of two after mixup."""
    require_labels(source, True, (1,), "one integer an example, its class")
    return {"ce": Term(cross_entropy_loss, ("student.logits",), ("batch.target",), where="batch.labelled")}


def watch(path: str, batch: str) -> dict[str, Term]:
    """Returns the accuracy of the logits at `path` on the labelled examples of `batch`."""
    return {"accuracy": Term(metrics.accuracy, (path,), (f"{batch}.label",), where=f"{batch}.labelled")}


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    label = batch["label"]
    shape = jnp.shape(outputs.logits) if isinstance(outputs.logits, jax.Array | jax.ShapeDtypeStruct) else ()
    classes = source.num_classes if source is not None else (shape or (0,))[-1]
    if len(shape) == 2 and shape[-1] != classes:
        raise ValueError(f"it has {shape[-1]} classes, {source.name} has {classes}")
    require_shape(outputs, (*jnp.shape(label), classes), "[batch, classes]")
    if classes < 2:
        raise ValueError("the softmax of one class is 1 whatever the network says: classes are at least two")


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    """Returns sums over a batch; rows without a label count only in the comparison with the reference."""
    logits, labels, mask = run().logits, batch["label"], batch["mask"]
    labelled = mask & (labels >= 0)
    classes = jax.nn.one_hot(labels, logits.shape[-1]) * labelled[:, None]
    hits = metrics.accuracy(logits, labels)
    nll = metrics.nll(logits, labels)
    totals = sums_of(OF_LABELS, logits, labels, labelled)
    totals["per_class_accuracy"] = ((classes * hits[:, None]).sum(0), classes.sum(0))
    totals["moments/nll"] = (jnp.where(labelled, nll * nll, 0.0).sum(), labelled.sum())
    totals |= calibration_sums(metrics.calibration_bins(logits, labels, labelled))
    others = comparable(reference, logits)
    return totals if others is None else totals | sums_of(OF_REFERENCE, logits, others, mask)


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means, ece, and standard errors: sqrt(p (1 - p) / n) of the accuracy, sqrt(var / n) of the nll."""
    values, count = means(sums), float(sums["accuracy"][1])
    values["ece"] = values["accuracy_error"] = values["nll_error"] = None
    if count:
        confidence, counts = sums["bins/confidence"]
        values["ece"] = float(metrics.expected_calibration_error(confidence, sums["bins/hits"][0], counts))
        p, nll = values["accuracy"], values["nll"]
        values["accuracy_error"] = math.sqrt(max(0.0, p * (1 - p)) / count)
        values["nll_error"] = math.sqrt(max(float(sums["moments/nll"][0]) / count - nll * nll, 0.0) / count)
    return values
