"""Weights of four bits in files (MXFP4, of gpt-oss) as numbers: they are read so, and written as plain ones.

Rouhani et al., "Microscaling Data Formats for Deep Learning", 2023, arXiv 2310.10537: 32 numbers of 1 bit of sign, 2 of
exponent and 1 of mantissa share a power of two. A file has `NAME_blocks` uint8 [..., out, groups, 16], two numbers a
byte, the low half first, and `NAME_scales` uint8 [..., out, groups], the exponent of 2 and 127. bfloat16 holds each of
them exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np

BLOCKS, SCALES = "_blocks", "_scales"
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = np.array([*MAGNITUDES, *(-x for x in MAGNITUDES)], np.float32)
PAIRS = np.stack([np.tile(VALUES, 16), np.repeat(VALUES, 16)], -1)  # of each byte
BIAS = 127


def packed_of(names: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """Returns the tensors whose blocks and scales are both among `names`, without the endings, and all tensors."""
    there = list(names)
    whole = {name.removesuffix(BLOCKS) for name in there if name.endswith(BLOCKS)}
    packed = frozenset(name for name in whole if name + SCALES in there)
    parts = {name + part for name in packed for part in (BLOCKS, SCALES)}
    return packed, [*(name for name in there if name not in parts), *sorted(packed)]


def shape_of(blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape [..., in, out] of the numbers in blocks of this shape."""
    *stack, out, groups, half = blocks
    return *stack, groups * half * 2, out


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the numbers bfloat16 [..., in, out] of blocks and scales; ValueError where these do not fit."""
    if blocks.dtype != np.uint8 or scales.dtype != np.uint8 or blocks.shape[:-1] != scales.shape:
        raise ValueError(
            f"MXFP4: expected uint8 blocks [..., out, groups, 16] and scales [..., out, groups], got {blocks.dtype} "
            f"{blocks.shape} and {scales.dtype} {scales.shape}"
        )
    flat, powers = blocks.reshape(-1, *blocks.shape[-3:]), scales.reshape(-1, *scales.shape[-2:])
    *_, size, out = shape_of(blocks.shape)
    numbers = np.empty((len(flat), size, out), ml_dtypes.bfloat16)
    for i, (one, power) in enumerate(zip(flat, powers, strict=True)):  # an expert at a time: what is between is float32
        values = np.ldexp(PAIRS[one], power.astype(np.int32)[..., None, None] - BIAS)
        numbers[i] = values.reshape(out, size).T
    return numbers.reshape(shape_of(blocks.shape))
