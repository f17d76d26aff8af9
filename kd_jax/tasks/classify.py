"""Classification: one class of several an example, by softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.tasks.classify_show import show
from kd_jax.tasks.common import entropy, frequencies, means, require_labels
from kd_jax.tasks.logits import calibration_error, check_classes, class_sums, class_values, cross_entropy, watch
from kd_jax.tasks.reweigh import reweighed
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

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


def task(source: Any = None, headline: str = "accuracy", confusion: bool = False, reweigh: str = "") -> Task:
    """Returns the task of one class an example: cross-entropy, accuracy, nll, calibration, agreement with a teacher.

    Labels are integers [batch], -1 = none; networks answer [batch, classes]. `headline` is "accuracy" or "nll".
    With `confusion` the matrix of labels and answers is counted too, and with it the mean of the classes' F1.
    `reweigh` names a field of the data, the number of a group: cross-entropy then weighs examples so that group and
    class are independent (tasks/reweigh.py).
    """
    if headline not in HEADLINES:
        raise ValueError(f"config.task.kwargs.headline is {' or '.join(map(repr, HEADLINES))}, not {headline!r}.")
    return Task(
        terms=functools.partial(terms, reweigh=reweigh),
        check=functools.partial(check, source=source),
        sums=functools.partial(sums, confusion=confusion),
        finish=finish,
        headline=HEADLINES[headline],
        chance=entropy if headline == "nll" else majority,
        rows=ROWS | ({"macro_f1": ("F1, mean of classes", "%")} if confusion else {}),
        watch=watch,
        show=show,
        name="classify",
        predict=classes,
        predicts="the number of a class",
    )


def classes(logits: Array) -> Array:
    """Returns the number of the likeliest class along the last axis, int32."""
    return jnp.argmax(logits, -1)


def majority(labels: np.ndarray) -> float:
    """Returns the accuracy of always answering the commonest class of the labels; nan where there is none."""
    return float(frequencies(labels).max(initial=0.0)) or math.nan


def terms(source: Any, reweigh: str = "") -> dict[str, Term]:
    """Returns the cross-entropy on labelled examples, weighted by group and class where `reweigh` names a field."""
    require_labels(source, True, (1,), "one integer an example, its class")
    return reweighed(cross_entropy(), source, reweigh) if reweigh else cross_entropy()


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    """Raises ValueError unless the output is [batch, classes]."""
    check_classes(outputs, batch["label"], source, "[batch, classes]")


def sums(
    run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array, confusion: bool = False
) -> dict[str, Any]:
    """Returns sums over a batch; rows without a label count only in the comparison with the reference."""
    outputs, labels, mask = run(), batch["label"], batch["mask"]
    logits = outputs.logits
    labelled = mask & (labels >= 0)
    classes = jax.nn.one_hot(labels, logits.shape[-1]) * labelled[:, None]
    values = class_values(outputs, labels, reference)
    totals, nll, hits = class_sums(values, labels, labelled, mask), values["nll"], values["accuracy"]
    totals["per_class_accuracy"] = ((classes * hits[:, None]).sum(0), classes.sum(0))
    if confusion:
        answers = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
        totals["pairs/confusion"] = (jnp.einsum("bi,bj->ij", classes, answers), labelled.sum())
    totals["moments/nll"] = (jnp.where(labelled, nll * nll, 0.0).sum(), labelled.sum())
    return totals


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means, ece, and standard errors: sqrt(p (1 - p) / n) of the accuracy, sqrt(var / n) of the nll."""
    values, count = means(sums), float(sums["accuracy"][1])
    values["ece"] = values["accuracy_error"] = values["nll_error"] = None
    if count:
        values["ece"] = calibration_error(sums)
        p, nll = values["accuracy"], values["nll"]
        values["accuracy_error"] = math.sqrt(max(0.0, p * (1 - p)) / count)
        if "pairs/confusion" in sums:
            values |= confusion_of(np.asarray(sums["pairs/confusion"][0], np.float64))
        values["nll_error"] = math.sqrt(max(float(sums["moments/nll"][0]) / count - nll * nll, 0.0) / count)
    return values


def confusion_of(pairs: np.ndarray) -> dict[str, Any]:
    """Returns {macro_f1, confusion} of counts [label, answer]: the mean of 2 hits / (labels + answers) of the classes.

    Classes that are neither a label nor an answer are left out.
    """
    both = pairs.sum(0) + pairs.sum(1)
    f1 = 2 * np.diag(pairs)[both > 0] / both[both > 0]
    return {"macro_f1": float(f1.mean()), "confusion": pairs.astype(int).tolist()}
