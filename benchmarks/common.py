"""What the benchmarks share: networks at work on real data, and a table with its machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from kd_jax.config import compose
from kd_jax.core.bind import bind, init_state
from kd_jax.data.load import load
from kd_jax.system import parallel, workdir
from kd_jax.train import jobs
from kd_jax.train.scheme import make_scheme
from kd_jax.types import Role, Scheme

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[1],
        "system": platform.platform(),
        "versions": workdir.versions(),
        "git": workdir.git_hash(),
    }


def write(name: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Prints the rows as a table and leaves them in benchmarks/results/<name>.json with machine and command."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    text = [[str(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *text, strict=True)]
    for line in (columns, *text):
        print("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    spec = sys.modules["__main__"].__spec__  # of python -m
    command = " ".join(["python", "-m", spec.name if spec else f"benchmarks.{name}", *sys.argv[1:]])
    record = {"command": command, "machine": machine(), **facts, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def alternate(programs: Mapping[Any, Callable[[], Any]], seconds: float) -> dict[Any, float]:
    """Returns median milliseconds of each, in turns: five rounds and one to warm up, or more while `seconds` last."""
    times: dict[Any, list[float]] = {name: [] for name in programs}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 6 or (time.perf_counter() < end and rounds < 50):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(1e3 * (time.perf_counter() - start))
        rounds += 1
    return {name: median(t[1:]) for name, t in times.items()}


def spread(values: Sequence[float]) -> str:
    """Returns mean ± standard deviation over the seeds; 0 where there is one."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


def median(values: list[float]) -> float:
    return statistics.median(values)


def digits_scheme(config: Any, names: str, splits: Any) -> Scheme:
    """Returns the scheme of a config with other terms; a teacher of random weights costs what a trained one does."""
    models = {r: jobs.make_model(config[r].model, splits.train) for r in ("student", "teacher")}
    roles = {"student": Role(models["student"], group="student"), "teacher": Role(models["teacher"])}
    return make_scheme(config, config.train, compose(names), roles, splits._asdict())


def first_state(scheme: Scheme, batch: Mapping[str, jax.Array]) -> tuple[Scheme, Any]:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    scheme, inputs = bind(scheme, shapes)
    return scheme, jax.jit(lambda key: init_state(scheme, inputs, key, {}))(jax.random.key(0))


def one_device() -> Any:
    return parallel.make_mesh({"data": 1, "fsdp": 1, "model": 1})


__all__ = ["alternate", "digits_scheme", "first_state", "load", "machine", "median", "one_device", "write"]
