"""The tables of docs/compress.md from the rows of benchmarks/compress.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Lines = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # (columns, rows)
COLUMNS = ("run", "after", "accuracy", "of the teacher's", "parameters", "bytes", "times smaller", "seeds")


def of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Lines]:
    """Returns {name of the table: (columns, rows)}: whole chains with latencies, and single steps."""
    rows = list(rows)
    chains = [row for row in rows if not row["run"].endswith("_only")]
    single = [row for row in rows if row["run"].endswith("_only") and row["number"]]
    return {
        "compress": ((*COLUMNS, "ms"), [(*_cells(row, 0), row["ms"]) for row in chains]),
        "compress_single": (COLUMNS, [_cells(row, 1) for row in single]),
    }


def _cells(row: Mapping[str, Any], first: int) -> tuple[Any, ...]:
    run = f"`{row['run']}`" if row["number"] == first else ""
    size = f"{row['parameters']:,}", f"{row['bytes']:,}", row["smaller"], row["seeds"]
    return (run, row["step"], row["accuracy"], row["share"], *size)
