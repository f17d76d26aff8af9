"""Every published method of the library on the same tasks, beside the baseline: mean +- standard deviation over seeds.

python -m benchmarks.methods [--data digits fashion] [--seeds 3] [--methods kd crd ...] [--workdir runs/methods]

Weights, temperatures and taps are the published ones for CIFAR, untuned here. Runs are shorter and networks smaller
than in benchmarks.main_table, so that over 40 methods take an hour on one core. A run that was interrupted goes on
where it was; several processes may share the work with --data or --methods and one workdir, and a last call without
them prints the whole table. --keep leaves the record's rows of other methods as they are, each with its commit: for a
change that touches some methods alone.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.main_table import table
from configs import cifar_resnet
from kd_jax.config import PRESETS
from kd_jax.system.workdir import git_hash
from kd_jax.train.run import RESULTS

ALIASES = ("supervised", "response", "attention", "relation")
METHODS = tuple(n for n in PRESETS if n not in ALIASES)
# FSP and IRG compare what has the channels of teacher and student in it, and those of the Fashion-MNIST pair differ.
NOT_APPLICABLE = {"digits": (), "fashion": ("fsp", "irg")}


def configure(data: str, method: str) -> ConfigDict:
    """Returns the config of digits (ResNet20 to ResNet8 of half the width, 100 labels, 400 steps) or Fashion-MNIST."""
    config = cifar_resnet.get_config(f"{'digits' if data == 'digits' else 'fashion_mnist'},{method}")
    if data == "digits":
        for network in (config.student, config.teacher):
            network.model.kwargs = ConfigDict({"widths": (8, 16, 32), "stem_width": 8})
    else:
        config.data.eval_limit = 2000
    config.train.steps = config.eval_every = 400 if data == "digits" else 300
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(NOT_APPLICABLE), choices=list(NOT_APPLICABLE))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--workdir", default="runs/methods")
    parser.add_argument("--finished", action="store_true", help="leave out what is not trained yet")
    parser.add_argument("--keep", action="store_true", help="keep the record's rows of methods that are not named")
    args = parser.parse_args()
    rows = []
    for data in args.data:
        root = Path(args.workdir) / data
        methods = ["kd", *(m for m in args.methods if m not in ("kd", *NOT_APPLICABLE[data]))]
        if args.finished:
            methods = [m for m in methods if all((root / m / str(s) / RESULTS).exists() for s in range(args.seeds))]
        rows += table(data, methods, args.seeds, root, partial(configure, data))
    rows = [row | {"git": git_hash()} for row in rows]
    common.write("methods", with_record(rows) if args.keep else rows, seeds=args.seeds)


def with_record(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows, and those of the record for other methods, in the order of the presets."""
    record = json.loads((common.RESULTS / "methods.json").read_text())
    new = {(row["data"], row["knowledge"]) for row in rows}
    old = [{"git": record["machine"]["git"], **row} for row in record["rows"]]
    order = {name: i for i, name in enumerate(METHODS)}
    merged = [row for row in old if (row["data"], row["knowledge"]) not in new] + rows
    return sorted(merged, key=lambda row: (row["data"], order.get(row["knowledge"], -1)))


if __name__ == "__main__":
    main()
