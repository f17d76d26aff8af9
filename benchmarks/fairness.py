"""What students inherit of their teacher's bias: configs/fairness.py by method and weights, mean +- standard deviation.

python -m benchmarks.fairness [--data adult compas] [--seeds 5] [--workdir runs/fairness]

Every seed has a teacher of its own. Numbers are those of the last step on the test set, in percent but for kappa;
nothing was tuned on it. Interrupted runs go on.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.main_table import finished
from configs import fairness
from kd_jax.train import run as train

# What is trained: words of the config, and of which networks the table has a row.
SETTINGS = {
    "response": ("response", ("teacher", "baseline", "student")),
    "dkd": ("dkd", ("student",)),
    "feature": ("feature", ("student",)),
    "500 people": ("response,few", ("baseline", "student")),
    "both balanced": ("response,balanced", ("teacher", "baseline", "student")),
    "sex and race read": ("response,sensitive", ("teacher", "baseline", "student")),
    "read, balanced teacher": ("response,sensitive,balanced_teacher", ("teacher", "student")),
    "read, balanced student": ("response,sensitive,balanced", ("baseline", "student")),
    "read, both balanced": ("response,sensitive,balanced", ("student",)),
    "read, 500 people": ("response,few,sensitive", ("baseline", "student")),
    "read, 500 people, balanced teacher": ("response,few,sensitive,balanced_teacher", ("student",)),
}


def configure(data: str, setting: str, seed: int, root: Path) -> ConfigDict:
    """The config of a setting; settings whose teachers learn alike share one a seed."""
    words = SETTINGS[setting][0].split(",")
    config = fairness.get_config(",".join((data, *words)))
    config.update({"seed": seed, "report": False, "baseline": "baseline" in SETTINGS[setting][1]})
    kind = ["sensitive"] if "sensitive" in words else []
    if setting.endswith("balanced student"):  # of a teacher that is not
        folder = teacher_folder(root, data, kind, seed)
        config.teacher.checkpoint = str(folder / "export" / "last" / "student")
        return config
    kind += ["balanced"] if {"balanced", "balanced_teacher"} & {*words} else []
    config.teacher.seed, config.teacher.workdir = seed, str(teacher_folder(root, data, kind, seed))
    return config


def teacher_folder(root: Path, data: str, kind: Sequence[str], seed: int) -> Path:
    """Where the teacher of a kind lies."""
    return root / data / "teachers" / "-".join((*kind, str(seed)))


def numbers(results: Mapping[str, Any], role: str) -> dict[str, float | None]:
    """The columns of the table of one network."""
    measured, last = results["models"][role]["measures"], results["models"][role]["last"]["test"]
    groups, errors = measured["groups"], measured.get("inherited", {})
    made = {"accuracy": last["accuracy"], "worst class": groups["worst_class"]}
    for field in ("sex", "race"):
        made |= {f"DP {field}": groups[field]["demographic_parity"], f"EO {field}": groups[field]["equalised_odds"]}
    made |= {"worst by sex": groups["sex"]["worst_group"]}
    names = {"inherited": "inherited", "inherited_chance": "chance", "disagreement": "disagrees"}
    made |= {column: errors.get(name) for name, column in names.items()}
    made = {name: None if value is None else 100 * value for name, value in made.items()}
    return made | {"kappa": errors.get("consistency")}


def folder(root: Path, data: str, setting: str, seed: int) -> Path:
    return root / data / setting.replace(",", "").replace(" ", "_") / str(seed)


def rows(data: str, setting: str, seeds: int, root: Path) -> Iterator[dict[str, Any]]:
    """Rows of the networks of a setting, from runs that are finished."""
    for role in SETTINGS[setting][1]:
        paths = [folder(root, data, setting, seed) / train.RESULTS for seed in range(seeds)]
        values = [numbers(json.loads(path.read_text()), role) for path in paths]
        columns = {name: [v[name] for v in values] for name in values[0]}
        digits = {name: 2 if name == "kappa" else 1 for name in columns}
        cells = {n: "-" if None in v else spread(v, digits[n]) for n, v in columns.items()}
        yield {"data": data, "setting": setting, "network": role, **cells}


def spread(values: list[float], digits: int) -> str:
    """Mean +- standard deviation."""
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(fairness.DATA), choices=fairness.DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/fairness")
    args = parser.parse_args()
    root = Path(args.workdir)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    for seed, data, setting in itertools.product(range(args.seeds), args.data, SETTINGS):
        config, directory = configure(data, setting, seed, root), folder(root, data, setting, seed)
        finished(directory, config) or train.run(config, directory)
    made = [row for data in args.data for setting in SETTINGS for row in rows(data, setting, args.seeds, root)]
    common.write("fairness", made, seeds=args.seeds)


if __name__ == "__main__":
    main()
