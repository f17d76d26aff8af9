"""Several labels an example, each there or not, by sigmoid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import average_precision_score

from kd_jax.losses.task import binary_cross_entropy_loss
from kd_jax.tasks.common import comparable, means, require_shape, standard_error
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

ROWS = {
    "accuracy": ("labels right", "%"),
    "average_precision": ("mean average precision", "%"),
    "nll": ("NLL a label", ""),
    "agreement": ("agrees with teacher", "%"),
    "kl": ("KL from teacher, a label", ""),
}


def task(source: Any = None) -> Task:
    """Returns the task of labels [batch, labels] that are 0 or 1 (-1 or nan: not known), logits of the same shape.

    Headline is the share of labels that sigmoid(logit) > 1/2 gets right, averaged over examples.
    """
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        finish=finish,
        headline=Headline("accuracy", +1, "%", "accuracy_error"),
        collect=collect,
        rows=ROWS,
        watch=watch,
        name="multilabel",
        predict=labels_of,
        predicts="for each label 1 where its probability is above 1/2, else 0",
    )


def labels_of(logits: Array) -> Array:
    """Returns 1 where a label is there, that is where sigmoid(logit) > 1/2, else 0, int32 [batch, labels]."""
    return (logits > 0).astype(jnp.int32)


def terms(source: Any) -> dict[str, Term]:
    """Returns the binary cross-entropy, averaged over the labels that are known."""
    if source is not None and source.labels is not None and source.labels.ndim != 2:
        shape = source.labels.shape
        raise ValueError(f"The labels of {source.name} are {shape}, and the task takes [examples, labels] of 0 and 1.")
    return {"bce": Term(binary_cross_entropy_loss, ("student.logits",), ("batch.label",), where="batch.labelled")}


def soft_labels_loss(logits: Array, teacher_logits: Array) -> Array:
    """Returns losses.task.binary_cross_entropy_loss with the teacher's sigmoid(teacher_logits) as labels, [batch]."""
    return binary_cross_entropy_loss(logits, jax.nn.sigmoid(teacher_logits))


def watch(path: str, batch: str) -> dict[str, Term]:
    """Returns the share of labels that the logits at `path` get right."""
    return {"accuracy": Term(labels_right, (path,), (f"{batch}.label",), where=f"{batch}.labelled")}


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    require_shape(outputs, jnp.shape(batch["label"]), "[batch, labels]")


def _share(values: Array, there: Array) -> Array:
    return jnp.where(there, values, 0.0).sum(1) / jnp.maximum(there.sum(1), 1)


def _there(labels: Array) -> Array:
    return labels >= 0  # False for nan


def labels_right(logits: Array, labels: Array) -> Array:
    """Returns the share of an example's known labels that logit > 0 gets right, [batch]."""
    right = (logits > 0) == (labels > 0.5)
    return _share(right.astype(jnp.float32), _there(labels))


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    logits, labels, mask = run().logits.astype(jnp.float32), batch["label"], batch["mask"]
    there, count = _there(labels), batch["mask"] & _there(labels).any(1)
    right, n = labels_right(logits, labels), count.sum()
    nll = _share(_nll(logits, jnp.where(there, labels, 0)), there)
    hits = ((logits > 0) == (labels > 0.5)) & there & mask[:, None]
    totals = {
        "accuracy": (jnp.where(count, right, 0.0).sum(), n),
        "nll": (jnp.where(count, nll, 0.0).sum(), n),
        "per_label_accuracy": (hits.sum(0), (there & mask[:, None]).sum(0)),
        "moments/accuracy": (jnp.where(count, right * right, 0.0).sum(), n),
    }
    others = comparable(reference, logits)
    if others is not None:
        q = jax.nn.sigmoid(others.astype(jnp.float32))
        same = ((logits > 0) == (others > 0)).mean(1)
        kl = (_nll(logits, q) - _nll(others, q)).mean(1)
        totals["agreement"] = (jnp.where(mask, same, 0.0).sum(), mask.sum())
        totals["kl"] = (jnp.where(mask, kl, 0.0).sum(), mask.sum())
    return totals


def _nll(logits: Array, p: Array) -> Array:
    logits = logits.astype(jnp.float32)
    return -p * jax.nn.log_sigmoid(logits) - (1 - p) * jax.nn.log_sigmoid(-logits)


def collect(run: Run, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """Returns the logits and labels of every example, since the average precision sorts the whole split."""
    return {"logits": run().logits, "label": batch["label"]}


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the means, the standard error of the accuracy over examples, and the mean average precision.

    That is scikit-learn's, averaged over the labels which have examples with and without them.
    """
    values, count = means(sums), float(sums["accuracy"][1])
    square = float(sums["moments/accuracy"][0]) / count if count else None
    values["accuracy_error"] = standard_error(values["accuracy"], square, count)
    logits, labels = (np.asarray(collected["scored"][name], np.float32) for name in ("logits", "label"))
    precisions = []
    for scores, truth in zip(logits.T, labels.T, strict=True):
        there = truth >= 0
        if 0 < (truth[there] > 0.5).sum() < there.sum():
            precisions.append(average_precision_score(truth[there] > 0.5, scores[there]))
    values["average_precision"] = float(np.mean(precisions)) if precisions else None
    return values
