"""What students lost beside accuracy: every measure of kd_jax.measure for teacher, baseline and student on digits.

python -m benchmarks.measures [--seeds 5] [--workdir runs/measures]

One teacher with all labels; a seed repeats baseline and student, which have 100. Last step, test set, mean ± standard
deviation; nothing was tuned on it. Finished runs are read, so that an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kd_jax
from benchmarks import common
from kd_jax.config import small_digits

MEASURES = ("corruptions", "attacks", "ood", "cka", "sharpness")  # besides those that a report has anyway
# (line, where it is in the scores or measures of a network, factor, digits, unit)
LINES = (
    ("accuracy on the test set", "scores.accuracy", 100, 1, "%"),
    ("calibration error (ECE)", "scores.ece", 100, 1, "%"),
    ("temperature by validation", "calibration.temperature", 1, 2, ""),
    ("ECE after it", "calibration.ece", 100, 1, "%"),
    ("AURC", "selective.aurc", 1, 4, ""),
    ("accuracy on the surest 80%", "selective.accuracy_at_coverage", 100, 1, "%"),
    ("AUROC against shuffled pixels, by confidence", "ood.auroc_max_softmax", 100, 1, "%"),
    ("the same by energy", "ood.auroc_energy", 100, 1, "%"),
    ("accuracy on corrupted pictures", "corruptions.accuracy", 100, 1, "%"),
    ("mCE, baseline = 100%", "corruptions.mce", 100, 1, "%"),
    ("accuracy under FGSM, 8/255", "attacks.fgsm", 100, 1, "%"),
    ("accuracy under PGD-10, 8/255", "attacks.pgd", 100, 1, "%"),
    ("CKA with the teacher, mean of layers", "cka.mean", 1, 2, ""),
    ("rise of the training loss within 0.05", "sharpness.sharpness", 1, 3, ""),
    ("largest eigenvalue of the Hessian", "sharpness.hessian", 1, 0, ""),
    ("energy of an answer, proxy", "energy.microjoules", 1, 1, " µJ"),
)
ROLES = ("teacher", "baseline", "student")


def run(seed: int, root: Path) -> dict[str, Any]:
    """Returns {role: its scores and measures} of one seed."""
    config = small_digits()
    config.terms = kd_jax.compose("response")
    config.seed, config.teacher.workdir = seed, str(root / "teacher")
    config.measure = MEASURES
    models = kd_jax.run(config, root / f"seed{seed}")["models"]
    return {role: {"scores": models[role]["last"]["test"], **models[role]["measures"]} for role in ROLES}


def number(network: Mapping[str, Any], place: str) -> float | None:
    measure, _, name = place.partition(".")
    return network.get(measure, {}).get(name)


def cell(values: list[float | None], factor: float, digits: int, unit: str, spread: bool) -> str:
    """Returns mean ± standard deviation, "-" where the network has no such number."""
    numbers = [factor * value for value in values if value is not None]
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if spread else ""
    return f"{statistics.mean(numbers):.{digits}f}{deviation}{unit}"


def rows_of(runs: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns a row a line of the table; the teacher is the same in all runs, its numbers are those of the first."""
    rows = []
    for line, place, *form in LINES:
        row = {"measure": line}
        for role in ROLES:
            values = [number(run[role], place) for run in (runs[:1] if role == "teacher" else runs)]
            row[role] = cell(values, *form, spread=len(values) > 1)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/measures")
    args = parser.parse_args()
    runs = [run(seed, Path(args.workdir)) for seed in range(args.seeds)]
    common.write("measures", rows_of(runs), seeds=args.seeds)


if __name__ == "__main__":
    main()
