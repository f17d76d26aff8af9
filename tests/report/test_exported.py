"""The exported files stand in the report of their run: bytes that ship, parity, speed, accuracy."""

import json

from kd_jax import report
from kd_jax.report import exported


def record(format, bytes, milliseconds, accuracy):
    return {
        "format": format,
        "file": f"model.{format}",
        "bytes": bytes,
        "parity": {"largest_difference": 1.5e-7, "share_equal": 1.0, "examples": 360},
        "latency_ms": {"1": milliseconds, "64": milliseconds and 9 * milliseconds},
        "jax_latency_ms": {"1": 0.5, "64": 4.0},
        "peak_memory_bytes": 123_000_000,
        "accuracy": accuracy,
    }


def test_report_takes_the_formats_in(tmp_path):
    results = {"models": {"student": {"name": "cnn", "bytes": 40_000}}}
    assert "The exported files" not in report.write_report(results, tmp_path).read_text()
    folder = tmp_path / "student" / exported.FOLDER
    folder.mkdir(parents=True)
    records = [
        record("stablehlo", 60_000, 0.4, 0.95),
        record("litert", 45_678, 0.1, 0.95),
        record("web", 10**7, None, None),
    ]
    (folder / exported.RECORD).write_text(json.dumps(records))
    text = report.write_report(results, tmp_path).read_text()
    assert "The exported files" in text and "45,678" in text and "1.5e-07" in text and "123 MB" in text
    shown = exported.points({**results, "exports": exported.records_of(tmp_path)})
    assert shown == [
        ("student", "stablehlo", 0.4, 95.0, 60_000),
        ("student", "litert", 0.1, 95.0, 45_678),
        ("student", "jit", 0.5, 95.0, 40_000),
    ]
    assert "student litert" in text and "student web" in text and "accuracy against latency" in text
