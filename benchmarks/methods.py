"""Every published method of the library on the same task, beside the baseline: mean +- standard deviation over seeds.

python -m benchmarks.methods [--data digits100] [--seeds 3] [--methods kd crd ...] [--workdir runs/methods]

Teacher, data, steps and optimizer as in benchmarks.main_table; weights, temperatures and taps are the published ones
for CIFAR, untuned here. A run that was interrupted goes on where it was; several processes may share the work with
--methods and one workdir, and a last call without it prints the whole table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import common
from benchmarks.main_table import DATA, table
from kd_jax.presets import PRESETS

ALIASES = ("supervised", "response", "attention", "relation")
METHODS = tuple(n for n in PRESETS if n not in ALIASES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=["digits100"], choices=list(DATA))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--workdir", default="runs/methods")
    args = parser.parse_args()
    rows = table(args.data, ("kd", *(m for m in args.methods if m != "kd")), args.seeds, Path(args.workdir))
    common.write("methods", rows, seeds=args.seeds)


if __name__ == "__main__":
    main()
