"""Perplexity and agreement with the teacher over the methods of configs/language.py, mean +- standard deviation.

python -m benchmarks.language [--seeds 3] [--methods word on_policy ...] [--workdir runs/language] [--finished]

The config's `small` networks; numbers are those of the last step on the test text. Nothing was tuned on it, and all
methods make the same number of steps with the same optimizer. "seconds" is the time of a student's training on this
machine, not measured in turns.
Interrupted runs go on; --finished makes the table of what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks import common
from benchmarks.main_table import finished
from benchmarks.schemes import configure
from configs.language import METHODS
from kd_jax.files import write_json
from kd_jax.system.workdir import fingerprint, plain
from kd_jax.train import run as train

METRICS = ("perplexity", "agreement", "kl")


def results_of(method: str, seed: int, root: Path, tokens: str) -> dict[str, Any]:
    """Returns {teacher, baseline, student: scores}; teacher and baselines are shared by all methods."""
    config = configure("language", f"{method},{tokens},small", seed, root)
    fields = ("student", "data", "train", "seed", "select")
    stored = root / "baselines" / f"{fingerprint({k: plain(config[k]) for k in fields})}.json"
    config.baseline = not stored.exists()
    directory = root / tokens / method / str(seed)
    models = (finished(directory, config) or train.run(config, directory))["models"]
    if config.baseline:
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_json(stored, {"baseline": models["baseline"]})
    return {**models, **json.loads(stored.read_text())}


def row(name: str, models: list[Mapping[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {"method": name, "seeds": len(models)}
    for metric in METRICS:
        values = [m["last"]["test"][metric] for m in models if metric in m["last"]["test"]]
        scale, digits = (100, 1) if metric == "agreement" else (1, 3)
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            line[metric] = f"{scale * statistics.mean(values):.{digits}f} +- {scale * spread:.{digits}f}"
    line["seconds"] = f"{statistics.median(m['train_seconds'] for m in models):.0f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", default="character", choices=("character", "bpe"))
    parser.add_argument("--workdir", default="runs/language")
    parser.add_argument("--finished", action="store_true", help="leave out what is not trained yet")
    args = parser.parse_args()
    root, rows = Path(args.workdir), []
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    for method in args.methods:
        seeds = range(args.seeds)
        done = [(root / args.tokens / method / str(seed) / train.RESULTS).exists() for seed in seeds]
        if args.finished and not all(done):
            continue
        results = [results_of(method, seed, root, args.tokens) for seed in seeds]
        if not rows:
            rows += [row("teacher", [results[0]["teacher"]]), row("baseline", [f["baseline"] for f in results])]
        rows.append(row(method, [f["student"] for f in results]))
    facts = {"seeds": args.seeds, "tokens": args.tokens}
    common.write("language", rows, **facts)


if __name__ == "__main__":
    main()
