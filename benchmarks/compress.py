"""Chains of compression: every step's accuracy, parameters and bytes over seeds, and single steps beside the chain.

python -m benchmarks.compress [--seeds 5] [--runs digits ...] [--workdir runs/compress] [--table] [--keep]

A run is a word list of configs/compress.py. The teacher is one for all seeds of a data set and its labels; a seed
changes the order of the data, their augmentation, and where a network starts anew. Accuracy is that of the test split
at the step of the last stage that the validation split chose; "bytes" are those of the whole packed file that
kd_jax.load reads, the teacher's in float32. Latencies are those of seed 0. Runs that are finished are read, so that an
interrupted call goes on; --table makes the table of what is finished; with --keep the record's rows of other runs
stay.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.main_table import finished
from kd_jax.train import run as train

RUNS = (
    *("digits", "digits,few", "digits,few,labels", "fashion_mnist"),
    *(f"digits,{c}" for c in ("prune_only", "lowrank_only", "int8_only", "int4_only", "distill_only")),
    *("digits,labels", "digits,resnet"),
)


def configure(words: str, seed: int, root: Path) -> ConfigDict:
    config = importlib.import_module("configs.compress").get_config(words)
    config.update({"seed": seed, "report": seed == 0, "baseline": False})
    shared = [word for word in words.split(",") if word in ("digits", "fashion_mnist", "resnet")]
    config.teacher.workdir = str(root / "_".join(["teacher", *shared]))
    return config


def chains(words: str, seeds: int, root: Path, train_them: bool) -> list[list[dict[str, Any]]]:
    """Returns results["chain"] of every seed that is there, or is trained now."""
    made = []
    for seed in range(seeds):
        config, directory = configure(words, seed, root), root / words.replace(",", "-") / str(seed)
        results = finished(directory, config) or (train.run(config, directory) if train_them else None)
        made += [results["chain"]] if results else []
    return made


def rows_of(words: str, chains_of_seeds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns a row for the network after each step."""
    rows = []
    for number, entries in enumerate(zip(*chains_of_seeds, strict=True)):
        first = entries[0]
        latency = first["latency_ms"]
        rows.append(
            {
                "run": words,
                "number": number,
                "step": first["step"],
                "accuracy": common.spread([100 * e["accuracy"]["mean"] for e in entries]),
                "share": common.spread([100 * e["share_of_teacher"] for e in entries]),
                "lowest share": f"{min(100 * e['share_of_teacher'] for e in entries):.2f}",
                "parameters": first["parameters"],
                "bytes": round(common.median([e["bytes_on_disk"] for e in entries])),
                "smaller": f"{common.median([e['smaller'] for e in entries]):.1f}",
                "ms": f"{latency['1']:.2f}" if latency else "-",
                "seeds": len(entries),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="*", default=RUNS, choices=RUNS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/compress")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--keep", action="store_true", help="keep the record's rows of other runs")
    args = parser.parse_args()
    root = Path(args.workdir)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    rows = [row for words in args.runs for row in rows_of(words, chains(words, args.seeds, root, not args.table))]
    if args.keep:
        old = json.loads((common.RESULTS / "compress.json").read_text())["rows"]
        rows += [row for row in old if row["run"] not in args.runs]
        rows.sort(key=lambda row: RUNS.index(row["run"]))
    common.write("compress", rows)


if __name__ == "__main__":
    main()
