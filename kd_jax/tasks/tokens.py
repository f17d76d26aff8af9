"""Prediction of the next token: perplexity over all tokens that have a label."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.resolve import near
from kd_jax.tasks import bits
from kd_jax.tasks.common import entropy, means, require_labels
from kd_jax.tasks.logits import calibration_error, check_classes, class_sums, class_values, cross_entropy, watch
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

ARRAYS = (jax.Array, jax.ShapeDtypeStruct)
ROWS = {
    "perplexity": ("perplexity", ""),
    "nll": ("NLL, nats a token", ""),
    "nll_error": ("its standard error", ""),
    "bits_per_byte": ("bits per byte", ""),
    "accuracy": ("next token right", "%"),
    "ece": ("calibration error (ECE)", "%"),
    "agreement": ("agrees with teacher", "%"),
    "kl": ("KL from teacher", ""),
}
HEADLINES = {
    "nll": Headline("nll", -1, "nats", "nll_error"),
    "bits_per_byte": Headline("bits_per_byte", -1, "bits", "bits_error"),
}


def task(source: Any = None, headline: str = "nll") -> Task:
    """Returns the task of language models: labels [batch, length], -1 where none counts; logits [batch, length, V].

    `headline` "nll" is in nats a token; "bits_per_byte" compares networks of different tokenizers, on data with the
    field label_bytes (tasks/bits.py). Raises ValueError for another word, and for data without that field.
    """
    if headline not in HEADLINES:
        raise ValueError(f"headline={headline!r}. {near(headline, HEADLINES)}")
    bytewise = headline == "bits_per_byte"
    if bytewise and source is not None and bits.ENTRY not in {**source.fields, **source.example(0)}:
        raise ValueError(f"headline={headline!r}: {source.name} does not say how many bytes its labels spell.")
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        finish=finish,
        headline=HEADLINES[headline],
        chance=None if bytewise else entropy,
        rows=ROWS,
        watch=watch,
        name="tokens",
        predict=next_tokens,
        predicts="at each token the id of the likeliest next one",
    )


def next_tokens(logits: Array) -> Array:
    """Returns the id of the likeliest token at each place, int32 [batch, length]."""
    return jnp.argmax(logits, -1)


def terms(source: Any) -> dict[str, Term]:
    """Returns the cross-entropy of the tokens that have a label."""
    require_labels(source, True, (2,), "an integer at every token")
    return cross_entropy()


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    """Raises ValueError unless the output is [batch, length, vocabulary], or wider: heads are padded with rows."""
    classes = (jnp.shape(outputs.logits) or (0,))[-1] if isinstance(outputs.logits, ARRAYS) else 0
    wide = source is not None and classes > source.num_classes
    check_classes(outputs, batch["label"], None if wide else source, "[batch, length, vocabulary]")


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    """Returns sums over all tokens that have a label (>= 0), and moments over sequences for the standard error.

    The moments are over sequences because the tokens of one are not independent. s is the summed nll of a sequence, n
    its number of tokens.
    """
    labels, mask = batch["label"], batch["mask"]
    counted = mask[:, None] & (labels >= 0)
    values = class_values(run(), labels, reference)
    nll = values["nll"]
    s, n = jnp.where(counted, nll, 0.0).sum(1), counted.sum(1, dtype=jnp.float32)
    totals = class_sums(values, labels, counted, counted)
    if bits.ENTRY in batch:
        totals |= bits.sums(nll, batch[bits.ENTRY], counted)
    totals["moments/ss"] = (jnp.sum(s * s), jnp.sum(s * n))
    totals["moments/nn"] = (jnp.sum(n * n), jnp.sum(n))
    return totals


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means, ece, the number of tokens, perplexity = exp(nll), and the standard error of nll and of bits.

    That is sqrt(sum over sequences of (s - nll n)^2) / tokens, with sequences as the independent draws.
    """
    values = means(sums)
    (ss, sn), (nn, tokens), nll = sums["moments/ss"], sums["moments/nn"], values["nll"]
    values |= {"ece": None, "perplexity": None, "nll_error": None, "tokens": int(tokens)}
    if "bits_per_byte" in values:
        values["bits_error"] = bits.error(sums, values["bits_per_byte"])
    if tokens:
        values["ece"] = calibration_error(sums)
        values["perplexity"] = math.exp(min(nll, 700.0))
        variance = max(float(ss - 2 * nll * sn + nll * nll * nn), 0.0)
        values["nll_error"] = math.sqrt(variance) / max(float(tokens), 1.0)
    return values
