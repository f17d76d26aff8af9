"""What `python -m kd_jax.export` does with its arguments, and the table that it prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_jax.export import examples as real
from kd_jax.export.parity import LARGEST
from kd_jax.export.run import export
from kd_jax.files import path_of, read_json
from kd_jax.report import write_report
from kd_jax.report.exported import FOLDER, RECORD
from kd_jax.system.workdir import CONFIG
from kd_jax.train.found import find_export
from kd_jax.train.run import RESULTS
from kd_jax.train.student import Student, load


def command(asked: argparse.Namespace) -> None:
    """Exports as the arguments say; prints a line a file."""
    place = path_of(asked.path, "RUN_OR_EXPORT")
    folder, student = find_export(place, asked.which), load(place, which=asked.which)
    data = path_of(asked.data, "--data") if asked.data else None
    examples = real.of_file(data, student) if data else real.of_run(folder, student)
    formats = [name for name in asked.to.split(",") if name]
    if asked.teacher and "web" not in formats:
        raise ValueError("--teacher is of the page: add web to --to.")
    out = path_of(asked.out, "--out") if asked.out else _out(folder)
    records = export(
        student,
        formats,
        out,
        examples,
        teacher=_teacher(asked.teacher, folder) if "web" in formats else None,
        int8=asked.int8,
        preparation=asked.inputs == "raw",
        tolerance=LARGEST if asked.tolerance is None else asked.tolerance,
        agreement=asked.agreement,
    )
    print(table(records))
    if (
        (training := _training(folder))
        and out == training / FOLDER
        and (results := read_json(training.parent / RESULTS))
    ):
        write_report(results, training.parent)
    print(f"Written to {out}: {', '.join(r['file'] for r in records)}, {RECORD}")


def table(records: Sequence[dict[str, Any]]) -> str:
    """Returns a line a file: size, largest difference, equal answers, latency at batch 1 and 64 beside JAX's."""
    head = ("format", "bytes", "difference", "equal", "1: ms", "64: ms", "JAX 1", "JAX 64", "peak MB")
    rows = [head, *(_row(record) for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    result, memory = record["parity"], record.get("peak_memory_bytes")
    compared = (f"{result['largest_difference']:.1e}", f"{result['share_equal']:.1%}") if result else ("-", "-")
    times = []
    for name in ("latency_ms", "jax_latency_ms"):
        spread = record.get(name.replace("_ms", "_spread_ms"), {})
        for batch in ("1", "64"):
            value = record.get(name, {}).get(batch)
            shown = "-" if value is None else f"{value:.3g}"
            times.append(f"{shown} ({spread[batch][0]:.3g}-{spread[batch][1]:.3g})" if batch in spread else shown)
    return (record["format"], f"{record['bytes']:,}", *compared, *times, f"{memory / 1e6:.0f}" if memory else "-")


def _training(folder: Path) -> Path | None:
    """The folder of the training that an export lies in, None for an export that was copied elsewhere."""
    return next((p for p in folder.parents if (p / CONFIG).is_file()), None)


def _out(folder: Path) -> Path:
    return (_training(folder) or folder.parent) / FOLDER


def _teacher(path: Path | None, folder: Path) -> Student:
    if path is not None:
        return load(path_of(path, "--teacher"))
    training = _training(folder)
    place = training.parent / "teacher" if training else None
    if place is None or not (place / "export").is_dir():
        raise ValueError("The page shows the teacher beside the student, and none was trained here: give --teacher=.")
    return load(place)
