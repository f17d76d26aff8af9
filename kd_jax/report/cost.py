"""What networks cost, in words: sizes and speeds against the teacher's, with what is not known of a timing."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

UNSTABLE = 0.5  # of the median: timings whose quartiles lie further apart are compared with nothing


def number(tree: Any, *path: str) -> float | None:
    """Returns the finite number at `path` in nested dicts, or None: any part may be missing, None or nan."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    if isinstance(tree, bool) or not isinstance(tree, numbers.Real) or not math.isfinite(tree):
        return None
    return float(tree)


def size_of(trained: Mapping[str, Mapping[str, Any]], one: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns a sentence on the student's size and speed against the teacher's, and the facts for the tiles."""
    comparisons = (
        (("parameters",), "is", "smaller", "larger", "as many parameters"),
        (("flops",), "needs", "fewer FLOPs", "more FLOPs", "as many FLOPs"),
        (("latency_ms", "1"), "is", f"faster on one {one}", f"slower on one {one}", f"as long on one {one}"),
        (("latency_ms", "128"), "is", *(f"{how} on 128 {one}s" for how in ("faster", "slower", "as long"))),
    )
    words, facts = [], []
    for path, verb, less, more, same in comparisons:
        pair = trained.get("teacher") or {}, trained["student"]
        teacher, student = (number(model, *path) for model in pair)
        if not teacher or not student or any(doubt(model, *path) for model in pair):
            continue
        ratio, how = max(teacher / student, student / teacher), less if teacher > student else more
        if ratio < 1.05 or _overlap(quartiles(pair[0], *path), quartiles(pair[1], *path)):
            words.append(f"{'takes' if same.startswith('as long') else 'needs'} about {same}")
            continue
        words.append(f"{verb} {times(ratio)} {how}")
        if path != ("latency_ms", "128"):  # one speed is enough for the tiles
            facts.append((times(ratio), f"{how} than the teacher"))
    return ([f"Against the teacher, the student {listed(words)}."] if words else []), facts


def quartiles(model: Mapping[str, Any], *path: str) -> tuple[float, float] | None:
    """Returns the quartiles of the latency at `path`; None where they are not known, or for another number."""
    spread = (model.get("latency_spread_ms") or {}).get(path[-1]) if path[0] == "latency_ms" else None
    return (float(spread[0]), float(spread[1])) if spread else None


def doubt(model: Mapping[str, Any], *path: str) -> str:
    """Returns why the number at `path` is compared with no other: "unstable" or "earlier"; "" where it can be."""
    if path[0] == "latency_ms" and model.get("latency_apart"):
        return "earlier"  # measured when the answers of a cached teacher were stored, in another state of the machine
    spread, median = quartiles(model, *path), number(model, *path)
    return "unstable" if spread and median and spread[1] - spread[0] > UNSTABLE * median else ""


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and max(one[0], other[0]) <= min(one[1], other[1])


def times(ratio: float) -> str:
    """Writes a ratio: 2.4×."""
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"


def duration(seconds: float) -> str:
    """Writes a time in the unit that fits: 80 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listed(words: list[str]) -> str:
    """Writes words as an enumeration: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
