"""Prediction of the next token: perplexity over all tokens that have a label."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core import metrics
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.tasks.common import calibration_sums, comparable, means, require_labels, require_shape, sums_of
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

OF_LABELS = {"accuracy": metrics.accuracy, "nll": metrics.nll}
OF_REFERENCE = {"agreement": metrics.agreement, "kl": metrics.kl}
ROWS = {
    "perplexity": ("perplexity", ""),
    "nll": ("NLL, nats a token", ""),
    "nll_error": ("its standard error", ""),
    "accuracy": ("next token right", "%"),
    "ece": ("calibration error (ECE)", "%"),
    "agreement": ("agrees with teacher", "%"),
    "kl": ("KL from teacher", ""),
}


def task(source: Any = None) -> Task:
    """Returns the task of language models: labels [batch, length], -1 where none counts; logits [batch, length, V]."""
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        finish=finish,
        headline=Headline("nll", -1, "nats", "nll_error"),
        rows=ROWS,
        watch=watch,
        name="tokens",
    )


def terms(source: Any) -> dict[str, Term]:
    """Returns the cross-entropy of the tokens that have a label."""
    require_labels(source, True, (2,), "an integer at every token")
    return {"ce": Term(cross_entropy_loss, ("student.logits",), ("batch.target",), where="batch.labelled")}


def watch(path: str, batch: str) -> dict[str, Term]:
    """Returns the share of tokens that the logits at `path` predict."""
    return {"accuracy": Term(metrics.accuracy, (path,), (f"{batch}.label",), where=f"{batch}.labelled")}


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    label = batch["label"]
    shape = jnp.shape(outputs.logits) if isinstance(outputs.logits, jax.Array | jax.ShapeDtypeStruct) else ()
    size = source.num_classes if source is not None else (shape or (0,))[-1]
    if len(shape) == 3 and shape[:-1] == jnp.shape(label) and shape[-1] != size:
        raise ValueError(f"it has {shape[-1]} classes, {source.name} has {size}")
    require_shape(outputs, (*jnp.shape(label), size), "[batch, length, vocabulary]")


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    """Returns sums over all tokens that have a label (>= 0), and moments over sequences for the standard error.

    The moments are over sequences because the tokens of one are not independent. s is the summed nll of a sequence, n
    its number of tokens.
    """
    logits, labels, mask = run().logits, batch["label"], batch["mask"]
    counted = mask[:, None] & (labels >= 0)
    flat = [x.reshape(-1, *x.shape[2:]) for x in (logits, labels, counted)]
    nll = metrics.nll(logits, labels)
    s, n = jnp.where(counted, nll, 0.0).sum(1), counted.sum(1, dtype=jnp.float32)
    totals = sums_of(OF_LABELS, logits, labels, counted)
    totals |= calibration_sums(metrics.calibration_bins(*flat))
    totals["moments/ss"] = (jnp.sum(s * s), jnp.sum(s * n))
    totals["moments/nn"] = (jnp.sum(n * n), jnp.sum(n))
    others = comparable(reference, logits)
    return totals if others is None else totals | sums_of(OF_REFERENCE, logits, others, counted)


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means, ece, the number of tokens, perplexity = exp(nll), and the standard error of nll.

    That is sqrt(sum over sequences of (s - nll n)^2) / tokens, with sequences as the independent draws.
    """
    values = means(sums)
    (ss, sn), (nn, tokens), nll = sums["moments/ss"], sums["moments/nn"], values["nll"]
    values |= {"ece": None, "perplexity": None, "nll_error": None, "tokens": int(tokens)}
    if tokens:
        confidence, counts = sums["bins/confidence"]
        values["ece"] = float(metrics.expected_calibration_error(confidence, sums["bins/hits"][0], counts))
        values["perplexity"] = math.exp(min(nll, 700.0))
        variance = max(float(ss - 2 * nll * sn + nll * nll * nn), 0.0)
        values["nll_error"] = math.sqrt(variance) / max(float(tokens), 1.0)
    return values
