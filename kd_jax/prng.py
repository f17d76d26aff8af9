"""Random numbers as a pure function of (seed, stream, step): nothing stores a key, so resume is exact."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import jax


class Keys(NamedTuple):
    """The roots of what is random: `run` in the run itself, `view` in its pictures, which other seeds may share."""

    run: jax.Array
    view: jax.Array


def stream(root: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """Returns fold_in(fold_in(root, crc32(name)), step), a key that no other stream or step has.

    It does not depend on the order in which streams are asked for.
    """
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)
