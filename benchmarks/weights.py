"""Methods whose published weight does not carry over to these networks, with a weight that the validation split chose.

python -m benchmarks.weights [--data digits fashion] [--methods at uld ...] [--seeds 3] [--workdir runs/weights]

Tasks, networks and steps are those of benchmarks.methods. All terms but the cross-entropy are multiplied by 1, 0.1,
0.01 and 0.001; students of all factors and seeds are one program (kd_jax.sweep.programs). The factor with the best mean
accuracy on the validation split at the last step is taken; the test set chooses nothing. A run that was interrupted
goes on.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.methods import METHODS, configure
from kd_jax.sweep.programs import begun, programs_of, train_program
from kd_jax.system import parallel

FACTORS = (1.0, 0.1, 0.01, 0.001)
BELOW = {  # by more than three points on digits, by more than five on Fashion-MNIST, in the table of benchmarks.methods
    "digits": ("wttm", "uld", "at", "fsp"),
    "fashion": ("wttm", "uld", "at", "mlkd", "cat_kd", "nst", "affinity", "simkd", "cc"),
}


def chosen(data: str, method: str, seeds: int, root: Path) -> dict[str, Any]:
    """Returns the row of a method: the students of every factor, and which factor the validation split prefers."""
    config = configure(data, method)
    config.teacher.workdir = str(root / data / "teacher")
    directory = root / data / method
    config = begun(config, root)
    mesh = parallel.make_mesh(config.mesh.axes)
    weights = {f"terms.{name}.weight": term.weight for name, term in config.terms.items() if name != "ce"}
    points = [
        {"seed": seed, **{field: weight * factor for field, weight in weights.items()}}
        for factor in FACTORS
        for seed in range(seeds)
    ]
    runs = [r for p in programs_of(config, points, directory, mesh) for r in train_program(p, mesh)]
    factor_of = [FACTORS[points.index(run["point"]) // seeds] for run in runs]
    validation, test = (_by_factor(runs, factor_of, split) for split in ("validation", "test"))
    best = max(FACTORS, key=lambda f: statistics.mean(validation[f]))
    return {
        "data": data,
        "method": method,
        "published weight": common.spread(test[1.0]),
        "factor": f"{best:g}",
        "chosen by validation": common.spread(test[best]),
        "validation of " + ", ".join(f"{f:g}" for f in FACTORS): ", ".join(
            f"{statistics.mean(validation[f]):.1f}" for f in FACTORS
        ),
    }


def _by_factor(runs: list[dict[str, Any]], factor_of: list[float], split: str) -> dict[float, list[float]]:
    return {f: [100 * run[split] for run, its in zip(runs, factor_of, strict=True) if its == f] for f in FACTORS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(BELOW), choices=list(BELOW))
    parser.add_argument("--methods", nargs="*", default=(), choices=METHODS, help="other than those far below")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/weights")
    args = parser.parse_args()
    root = Path(args.workdir)
    rows = [chosen(d, m, args.seeds, root) for d in args.data for m in args.methods or BELOW[d]]
    common.write("weights", rows, seeds=args.seeds, factors=FACTORS)


if __name__ == "__main__":
    main()
