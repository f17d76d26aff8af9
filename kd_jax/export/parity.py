"""Whether an exported file answers what the network answers in JAX, on real examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

    `answers` maps the first leaf to what the task predicts; None: the place of the largest value on the last axis.
    """
    got = run(*inputs)
    shapes = [tuple(x.shape) for x in got], [tuple(x.shape) for x in expected]
    if shapes[0] != shapes[1]:
        raise ParityFailed(f"its outputs have the shapes {shapes[0]}, those of the network {shapes[1]}")
    differences = [np.abs(np.asarray(a, np.float64) - b).max(initial=0) for a, b in zip(got, expected, strict=True)]
    largest = float(np.max(differences)) if np.isfinite(differences).all() else float("inf")
    told, wanted = (np.asarray(_answers(x[0], answers)) for x in (got, expected))
    scale = max(1.0, float(np.abs(np.asarray(expected[0], np.float64)).max(initial=0)))
    same = np.isclose(told, wanted, rtol=0, atol=LARGEST * scale) if told.dtype.kind == "f" else told == wanted
    by_row = same.reshape(len(same), -1)
    alone = answers is None or told.ndim > 2  # a mask is an answer at every pixel
    share = by_row.mean() if alone else by_row.all(1).mean()
    return Parity(largest, float(share), len(expected[0])), got


def _answers(logits: np.ndarray, answers: Callable[[Any], Any] | None) -> Any:
    if answers is not None:
        return answers(logits)
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
