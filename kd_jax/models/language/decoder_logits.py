"""Logits of decoders: how many exist at a time, and what builds them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.models.projected import Projected
from kd_jax.types import Array

# Of what exists at a time in losses and scores: tokens, and logits (16 MiB of float32; on a CPU 2 MiB, which stay in a
# core's cache). A product with the head waits for the head to be read where there are fewer tokens.
LEAST, LOGITS, LOGITS_ON_CPU = 64, 2**22, 2**19


def tokens_at_once(vocabulary: int, width: int) -> int:
    """Returns how many tokens' logits exist at a time: an eighth of the head, at least LEAST tokens or LOGITS."""
    return max(LEAST, width // 8, (LOGITS_ON_CPU if jax.default_backend() == "cpu" else LOGITS) // vocabulary)


def built(logits: Projected) -> Array:
    """Computes projected logits, the products summed in float32."""
    total = None
    for h, w, by_class in zip(logits.hidden, logits.heads, logits.by_class, strict=True):
        dims = "...d,vd->...v" if by_class else "...d,dv->...v"
        z = jnp.einsum(dims, h, w.astype(h.dtype), preferred_element_type=jnp.float32)
        total = z if total is None else total + z
    if total is not None and logits.bias is not None:
        total = total + logits.bias.astype(total.dtype)
    return softcapped(total, logits.softcap)


def softcapped(x: Array, cap: float) -> Array:
    return cap * jnp.tanh(x / cap) if cap else x
