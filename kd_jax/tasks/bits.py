"""Bits per byte of text: what networks of different tokenizers can be compared by.

A batch that has it says with `label_bytes` int [batch, length] how many bytes of the text each label adds, and -1 for
labels that spell none of it, such as the token that ends a text: those count neither bits nor bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from kd_jax.types import Array

ENTRY = "label_bytes"


def sums(nll: Array, spelled: Array, counted: Array) -> dict[str, tuple[Array, Array]]:
    """Returns bits and bytes of the counted labels, and their moments over sequences, as tasks/tokens.py of nats.

    nll in nats, spelled and counted [batch, length].
    """
    there = counted & (spelled >= 0)
    bits = jnp.where(there, nll, 0.0).sum(1) / math.log(2)
    size = jnp.where(there, spelled, 0).sum(1).astype(jnp.float32)
    return {
        "bits_per_byte": (bits.sum(), size.sum()),
        "bits/ss": (jnp.sum(bits * bits), jnp.sum(bits * size)),
        "bits/nn": (jnp.sum(size * size), size.sum()),
    }


def error(sums: Mapping[str, tuple[Any, Any]], value: float | None) -> float | None:
    """Returns the standard error of bits per byte, with sequences as the independent draws."""
    (ss, sn), (nn, size) = sums["bits/ss"], sums["bits/nn"]
    if value is None:
        return None
    return math.sqrt(max(float(ss - 2 * value * sn + value * value * nn), 0.0)) / float(size)
