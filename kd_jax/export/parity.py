"""Whether an exported file answers what the network answers in JAX, on real examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kd_jax.export.network import Run

# Float formats differ by the order of their sums. Whole numbers of 8 bits are rounded: what counts is what is answered.
LARGEST, EQUAL, EQUAL_INT8 = 1e-3, 0.99, 0.9


class ParityFailed(ValueError):
    """An exported file answers otherwise than the network."""


class Gate(NamedTuple):
    """What passes: `largest` difference, relative to the largest output or 1, None for any; the least share `equal`."""

    largest: float | None
    equal: float


def gates_of(tolerance: float, agreement: float | None) -> tuple[Gate, Gate]:
    """Returns the gates of float formats and of weights of 8 bits; without an `agreement` each has its own."""
    if tolerance < 0 or not 0 <= (agreement or 0) <= 1:
        raise ValueError(f"tolerance={tolerance} is at least 0, and agreement={agreement} a share, from 0 to 1.")
    shares = (EQUAL, EQUAL_INT8) if agreement is None else (agreement, agreement)
    return Gate(tolerance, shares[0]), Gate(None, shares[1])


class Parity(NamedTuple):
    largest_difference: float
    share_equal: float
    examples: int

    def failure(self, gate: Gate, scale: float) -> str:
        """Returns what does not pass, "" where all does; `scale` is the largest output."""
        limit = None if gate.largest is None else gate.largest * max(1.0, scale)
        if not np.isfinite(self.largest_difference):
            return "its answers are not finite"
        if limit is not None and self.largest_difference > limit:
            return f"its outputs differ by up to {self.largest_difference:.3g} (at most {limit:.3g})"
        if self.share_equal < gate.equal:
            return f"only {self.share_equal:.1%} of its answers are the same (at least {gate.equal:.1%})"
        return ""


def compare(
    run: Run, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], answers: Callable[[Any], Any] | None
) -> tuple[Parity, list[np.ndarray]]:
    """Returns (how far what `run` answers is from `expected`, the leaves of the network's output; what it answers).

    `answers` maps these leaves to what the task predicts, an array or several; None: the place of the largest value of
    the first one on its last axis.
    """
    got = run(*inputs)
    shapes = [tuple(x.shape) for x in got], [tuple(x.shape) for x in expected]
    if shapes[0] != shapes[1]:
        raise ParityFailed(f"its outputs have the shapes {shapes[0]}, those of the network {shapes[1]}")
    differences = [np.abs(np.asarray(a, np.float64) - b).max(initial=0) for a, b in zip(got, expected, strict=True)]
    largest = float(np.max(differences)) if np.isfinite(differences).all() else float("inf")
    told, wanted = ([np.asarray(x) for x in jax.tree.leaves((answers or _best)(x))] for x in (got, expected))
    same = [_same(a, b) for a, b in zip(told, wanted, strict=True)]
    if answers is None or (len(same) == 1 and same[0].ndim > 2):  # a mask is an answer at every pixel
        share = same[0].mean()
    else:
        share = np.all([x.reshape(len(x), -1).all(1) for x in same], axis=0).mean()
    return Parity(largest, float(share), len(expected[0])), got


def _same(told: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of the answers are the same, bool of their shape; floats may differ as the outputs may."""
    if told.dtype.kind != "f":
        return told == wanted
    return np.isclose(told, wanted, rtol=0, atol=LARGEST * max(1.0, float(np.abs(wanted).max(initial=0))))


def _best(leaves: Sequence[np.ndarray]) -> np.ndarray:
    logits = leaves[0]
    return logits.argmax(-1) if logits.ndim > 1 and logits.shape[-1] > 1 else logits


def check(parity: Parity, gate: Gate, expected: Sequence[np.ndarray], format: str, files: Sequence[Path]) -> None:
    """Raises ParityFailed, with the files removed, where the gate does not pass."""
    scale = max(float(np.abs(np.asarray(x, np.float64)).max(initial=0)) for x in expected)
    if problem := parity.failure(gate, scale):
        for file in files:
            file.unlink(missing_ok=True)
        raise ParityFailed(
            f"{format}: on {parity.examples} real examples {problem}; the file is removed. --tolerance and --agreement "
            "say what passes."
        )
