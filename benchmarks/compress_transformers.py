"""A decoder and MiniLM made smaller by chains of pruning, distilling and rounding: scores after every step, and speed.

python -m benchmarks.compress_transformers decoder encoder speed [--seeds 3] [--workdir runs/compress] [--finished]

decoder   the chain of configs/compress.py:decoder on the King James Bible, recovered by forward KL and by labels; test
          perplexity after every step. Networks as in configs/language.py:small, with three layers in place of two
encoder   that of configs/compress.py:encoder; test accuracy after every step
speed     MiniLM as trained, and the end of that chain, in JAX and as float32 and int8 in ONNX Runtime, in rounds that
          all share, with the accuracy of the int8 files

All seeds share a teacher; numbers are of the last step, nothing was tuned or chosen on the test texts. Every finished
run stays, so an interrupted one goes on; --finished makes the tables of what there is.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.main_table import finished
from configs import compress
from kd_jax.data.load import load as load_data
from kd_jax.export import deployed, latency, onnx
from kd_jax.export.network import function_of
from kd_jax.train import run as train
from kd_jax.train.student import Student, load

ARMS = {"decoder": ("decoder", "decoder,labels"), "encoder": ("encoder",)}


def configure(variant: str, seed: int, root: Path) -> ConfigDict:
    config = compress.get_config(variant)
    config.update(dict(seed=seed, report=False, baseline=False))
    config.data.validation = 0.0 if variant.startswith("encoder") else config.data.validation
    config.teacher.workdir = str(root / variant.partition(",")[0] / "teacher")
    if variant.startswith("decoder"):
        config.data.update(dict(length=32, eval_limit=1024))
        config.teacher.model.kwargs.update(dict(width=64, hidden=192))
        config.student.model.kwargs.update(dict(width=48, head_width=16, hidden=96))
        config.teacher.train.steps, config.train.steps = 800, 480
        config.eval_every = 480
    else:
        config.train.steps, config.eval_every = 160, 160
    return config


def runs_of(variant: str, seeds: int, root: Path, only_finished: bool) -> list[dict[str, Any]]:
    """Returns results.json of the seeds that are done; without `only_finished` all of them are."""
    finished_runs = []
    for seed in range(seeds):
        config, directory = configure(variant, seed, root), folder(variant, seed, root)
        results = finished(directory, config)
        if results is None and not only_finished:
            results = train.run(config, directory)
        if results is not None:
            finished_runs.append(results)
    return finished_runs


def spread(values: list[float]) -> str:
    """Returns mean ± standard deviation over the seeds; of one seed the value alone."""
    return common.spread(values) if len(values) > 1 else f"{values[0]:.2f}"


def folder(variant: str, seed: int, root: Path) -> Path:
    return root / variant.replace(",", "_") / str(seed)


def chain_rows(variant: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for every step of the chain, over the seeds."""
    rows = []
    for number, entry in enumerate(results[0]["chain"] if results else ()):
        entries = [r["chain"][number] for r in results]
        scores = [e["accuracy"]["mean"] for e in entries]
        first = [r["chain"][0]["accuracy"]["mean"] for r in results]
        row: dict[str, Any] = {"variant": variant, "step": entry["step"], "seeds": len(results)}
        if variant.startswith("decoder"):
            row["perplexity"] = spread([math.exp(s) for s in scores])
            row["of the teacher's"] = spread([math.exp(s - f) for s, f in zip(scores, first, strict=True)])
        else:
            row["accuracy"] = spread([100 * s for s in scores])
            row["retention"] = spread([100 * s / f for s, f in zip(scores, first, strict=True)])
        size = common.median([e["bytes_on_disk"] for e in entries])
        smaller = common.median([e["smaller"] for e in entries])
        rows.append({**row, "parameters": entry["parameters"], "bytes": round(size), "smaller": f"{smaller:.1f}x"})
    return rows


def speed_rows(root: Path) -> list[dict[str, Any]]:
    """Measures latency of one text and accuracy of the files of MiniLM before and after the chain, of seed 0."""
    directory = folder("encoder", 0, root)
    files = sorted((directory / "chain").glob("*.safetensors"), key=lambda p: int(p.name.partition("_")[0]))
    networks = {"teacher": load(files[0]), "student": load(files[-1])}
    test = load_data(configure("encoder", 0, root).data).test
    tokens, labels = test.in_memory()
    raw = {"tokens": tokens, "token_mask": test.fields["token_mask"]}
    programs, sizes, scores = {}, {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, network in networks.items():
            for kind, (run, size) in _runs(network, Path(scratch) / name).items():
                inputs = [i.name for i in deployed.raw_inputs(network)]
                programs[f"{name}, {kind}"] = (run, [raw[i][:1] for i in inputs])
                sizes[f"{name}, {kind}"] = size
                if "int8" in kind or kind == "JAX":
                    answers = [run(*(raw[i][r : r + 1] for i in inputs))[0][0].argmax() for r in range(len(labels))]
                    scores[f"{name}, {kind}"] = float((np.array(answers) == labels).mean())
        measured = latency.latencies(programs)
    slowest = {kind: measured[f"teacher, {kind}"]["latency_ms"]["1"] for kind in ("JAX", "onnx", "onnx int8")}
    rows = []
    for name, values in measured.items():
        kind, ms = name.partition(", ")[2], values["latency_ms"]["1"]
        low, high = values["latency_spread_ms"]["1"]
        score = f"{100 * scores[name]:.2f}" if name in scores else ""
        row = {"network": name, "accuracy": score, "bytes": sizes[name], "ms": f"{ms:.2f}"}
        row |= {"quartiles": f"{low:.2f} to {high:.2f}", "faster than the teacher there": f"{slowest[kind] / ms:.2f}x"}
        rows.append({**row, "faster than the teacher in JAX": f"{slowest['JAX'] / ms:.2f}x"})
    return rows


def _runs(network: Student, scratch: Path) -> dict[str, tuple[Any, int]]:
    """{kind: (what answers to raw examples, bytes of its file)}."""
    scratch.mkdir()
    leaving = deployed.with_preparation(network)
    call = jax.jit(function_of(*leaving[:3]))
    weights = sum(x.nbytes for x in jax.tree.leaves(network.params))
    path = onnx.write(*leaving, scratch)
    small = onnx.quantise(path, "dynamic", ())
    return {
        "JAX": (lambda *x: [np.asarray(y) for y in call(*x)], weights),
        "onnx": (onnx.read(path), path.stat().st_size),
        "onnx int8": (onnx.read(small), small.stat().st_size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("decoder", "encoder", "speed"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/compress_transformers")
    parser.add_argument("--finished", action="store_true", help="train nothing: the table of the runs that are done")
    args = parser.parse_args()
    root = Path(args.workdir)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    for part in args.parts:
        rows = speed_rows(root) if part == "speed" else []
        for variant in ARMS.get(part, ()):
            rows += chain_rows(variant, runs_of(variant, args.seeds, root, args.finished))
        common.write(f"compress_{part}", rows)


if __name__ == "__main__":
    main()
