"""What students inherit of their teacher's bias: configs/fairness.py by method and weights, mean +- standard deviation.

python -m benchmarks.fairness [--data adult compas] [--seeds 5] [--workdir runs/fairness] [--table]

A setting is one sweep: its seeds, with the teacher and alone (weight 0 of the teacher's terms), in one program; there
is one teacher a kind. Numbers are those of the last step on the test set, in percent but for kappa; nothing was tuned
on it. Interrupted sweeps go on, and --table makes the table of what is finished.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import kd_jax
from benchmarks import common
from configs import fairness
from kd_jax.data.load import load
from kd_jax.data.source import Source
from kd_jax.measure.groups import by_group, counts, worst_class
from kd_jax.measure.inherited import inherited
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import Spec

# What is trained: words of the config, and of which networks the table has a row.
SETTINGS = {
    "response": ("response", ("teacher", "alone", "distilled")),
    "dkd": ("dkd", ("distilled",)),
    "feature": ("feature", ("distilled",)),
    "500 people": ("response,few", ("alone", "distilled")),
    "both balanced": ("response,balanced", ("teacher", "alone", "distilled")),
    "sex and race read": ("response,sensitive", ("teacher", "alone", "distilled")),
    "read, balanced teacher": ("response,sensitive,balanced_teacher", ("teacher", "distilled")),
    "read, balanced student": ("response,sensitive,balanced", ("alone", "distilled")),
    "read, both balanced": ("response,sensitive,balanced", ("distilled",)),
}
WEIGHT = "terms.kd.weight"
SMALLEST = 30  # examples of a rate that counts in a gap, as measure.groups has it


def configure(data: str, setting: str, root: Path) -> ConfigDict:
    """Returns the config of a setting; settings whose teachers learn alike share one."""
    words = SETTINGS[setting][0].split(",")
    config = fairness.get_config(",".join((data, *words)))
    config.baseline, config.measure = False, ()
    kind = ["sensitive"] if "sensitive" in words else ["plain"]
    if setting.endswith("balanced student"):  # of a teacher that is not
        config.teacher.checkpoint = str(teacher_folder(root, data, kind) / "export" / "last" / "student")
        return config
    kind += ["balanced"] if {"balanced", "balanced_teacher"} & {*words} else []
    config.teacher.workdir = str(teacher_folder(root, data, kind))
    return config


def teacher_folder(root: Path, data: str, kind: Sequence[str]) -> Path:
    """Returns where the teacher of a kind lies."""
    return root / data / "teachers" / "-".join(kind)


def folder(root: Path, data: str, setting: str) -> Path:
    return root / data / setting.replace(",", "").replace(" ", "_")


def choices(setting: str, seeds: int) -> dict[str, tuple[Any, ...]]:
    """Returns what the sweep of a setting varies."""
    weights = (0.0, 0.9) if "alone" in SETTINGS[setting][1] else ()
    return {"seed": tuple(range(seeds)), **({WEIGHT: weights} if weights else {})}


def numbers(export: str, test: Source, teacher: np.ndarray | None) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the columns of the table of one network, and its answers to the test set."""
    x, labels = test.in_memory()
    answers = np.asarray(kd_jax.load(export).predict(x))
    whole = counts(answers, labels, np.zeros_like(labels), 1, test.num_classes)[0]
    made = {"accuracy": np.mean(answers == labels), "worst class": worst_class(whole)["worst_class"]}
    for field, names in test.levels.items():
        pairs = counts(answers, labels, test.fields[field], len(names), test.num_classes)
        gaps = by_group(pairs, names, SMALLEST)
        made |= {f"DP {field}": gaps["demographic_parity"], f"EO {field}": gaps["equalised_odds"]}
    errors = {} if teacher is None else inherited(answers, teacher, labels)
    shown = {"inherited": "inherited", "inherited_chance": "chance", "disagreement": "disagrees"}
    made |= {column: errors.get(name) for name, column in shown.items()}
    made = {name: None if value is None else 100 * value for name, value in made.items()}
    return made | {"kappa": errors.get("consistency")}, answers


def rows(data: str, setting: str, root: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of the networks of a finished setting."""
    results = json.loads((folder(root, data, setting) / sweep.RESULTS).read_text())
    config = configure(data, setting, root)
    test = load(config.data).test
    place = config.teacher.checkpoint or str(Path(config.teacher.workdir) / "export" / "last" / "student")
    of_teacher, teacher = numbers(place, test, None)
    columns_of: dict[str, list[dict[str, Any]]] = {"teacher": [of_teacher]}
    for run in results["runs"]:
        name = "alone" if run["point"].get(WEIGHT) == 0.0 else "distilled"
        columns_of.setdefault(name, []).append(numbers(f"{run['export']}/student", test, teacher)[0])
    for name in SETTINGS[setting][1]:
        columns = {column: [v[column] for v in columns_of[name]] for column in of_teacher}
        digits = {column: 2 if column == "kappa" else 1 for column in columns}
        cells = {c: "-" if None in v else spread(v, digits[c]) for c, v in columns.items()}
        yield {"data": data, "setting": setting, "network": name, **cells}


def spread(values: list[float], digits: int) -> str:
    """Returns mean +- standard deviation over seeds; the mean alone of one."""
    error = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(fairness.DATA), choices=fairness.DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/fairness")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    root = Path(args.workdir)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    pairs = [*itertools.product(args.data, SETTINGS)]
    for data, setting in [] if args.table else pairs:
        directory = folder(root, data, setting)
        if not (directory / sweep.RESULTS).exists():
            sweep.run(configure(data, setting, root), Spec(choices(setting, args.seeds), {}), directory)
    done = [pair for pair in pairs if (folder(root, *pair) / sweep.RESULTS).exists()]
    common.write("fairness", [row for pair in done for row in rows(*pair, root)], seeds=args.seeds)


if __name__ == "__main__":
    main()
