"""Fields beyond images and text: teacher, student alone and student taught, by the headline of each task.

python -m benchmarks.fields [--only policy recommender ...] [--workdir runs/fields] [--keep]

One teacher a row; seeds repeat the student, alone and taught; of a distilled data set they also draw the real images
that it is compared with. The last step counts, its test score; nothing is chosen by it. The recipes are those of the
configs. A finished run is read again; --keep leaves the record's other rows. Where the config's students may share a
program (SWEPT) the seeds are a sweep, whose members see the same batches, and the student alone has weight 0 in place
of the teacher's terms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kd_jax
from benchmarks import common
from kd_jax.config.files import config_of, load, locate
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import Spec
from kd_jax.system.workdir import git_hash

# Of each config: (number of seeds, variants whose students alone are the same network on the same data), ...
ROWS = {
    "policy": ((5, ("dagger", "offline", "sharp", "student")), (5, ("value",))),
    "recommender": ((5, ("listwise", "rd", "rrd", "cd")),),
    "activity": ((5, ("response", "relation", "crd")), (5, ("response,accelerometer",))),
    "dataset_distillation": (
        (5, ("kernel", "distribution")),
        (5, ("kernel,10", "distribution,10")),
    ),
}
SWEPT = {"recommender": "terms.teacher.weight", "activity": "terms.kd.weight"}  # and the term of the teacher
CACHED = ("recommender",)  # whose teacher costs more than a step, and sees every example in one form
SEEDED = {"dataset_distillation": ("label_seed",)}  # fields of config.data that are the seed, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--workdir", default="runs/fields")
    parser.add_argument("--keep", action="store_true", help="keep the record's rows of other configs")
    args = parser.parse_args()
    path = common.RESULTS / "fields.json"
    before = json.loads(path.read_text())["rows"] if args.keep and path.exists() else []
    rows = {(row["config"], row["variant"]): row for row in before}
    asked = [(name, *group) for name in args.only for group in ROWS[name]]
    for row in (row for name, seeds, variants in asked for row in rows_of(name, variants, seeds, Path(args.workdir))):
        rows[row["config"], row["variant"]] = row | {"git": git_hash()}
        print(markdown([row]), flush=True)
        # Row by row: what is measured stays where the next one is stopped.
        common.write("fields", sorted(rows.values(), key=lambda row: list(ROWS).index(row["config"])))
    print(markdown(list(rows.values())))


def rows_of(name: str, group: tuple[str, ...], seeds: int, root: Path) -> Iterator[dict[str, Any]]:
    """Runs the variants of a group over the seeds; the student alone is trained beside the first of them."""
    alone: dict[str, Any] = {}
    for variant in group:
        if name in SWEPT:
            headline, measured = swept(name, variant, seeds, root, alone=not alone)
        else:
            results = [run(name, variant, seed, root, baseline=not alone) for seed in range(seeds)]
            headline = results[0]["headline"]
            measured = {role: scores(results, role, headline["metric"]) for role in results[0]["models"]}
        alone = alone or measured["baseline"]
        yield row_of(name, variant, headline, seeds) | {"baseline": alone} | measured


def row_of(name: str, variant: str, headline: dict[str, Any], seeds: int) -> dict[str, Any]:
    return {"config": name, "variant": variant, "metric": headline["metric"], "unit": headline["unit"], "seeds": seeds}


def swept(
    name: str, variant: str, seeds: int, root: Path, alone: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Trains the students of all seeds in one sweep, with `alone` also without the teacher's term."""
    config = config_of(load(locate(f"configs/{name}.py")), variant)
    config.report = config.baseline = False
    if name in CACHED:
        config.teacher.cache.update(dict(directory="auto", views=1))
    choices: dict[str, tuple[Any, ...]] = {"seed": tuple(range(seeds))}
    if alone:
        choices[SWEPT[name]] = (0.0, config[SWEPT[name]])
    results = sweep.run(config, Spec(choices, {}), root / name / variant.replace(",", "_"))
    tests: dict[str, list[float]] = {"baseline": [], "student": []}
    for one in results["runs"]:
        tests["baseline" if one["point"].get(SWEPT[name]) == 0.0 else "student"].append(one["test"])
    measured = {role: spread(values) for role, values in tests.items() if values}
    measured["teacher"] = spread([results["models"]["teacher"]["test"]["mean"]])
    return results["headline"], measured


def run(name: str, variant: str, seed: int, root: Path, baseline: bool) -> dict[str, Any]:
    """Runs a variant with one seed."""
    config = config_of(load(locate(f"configs/{name}.py")), variant)
    config.seed, config.report, config.baseline = seed, False, baseline
    flags = "_".join(variant.split(",")[1:])
    config.data.update(dict.fromkeys(SEEDED.get(name, ()), seed))
    if config.teacher.model.name:
        config.teacher.workdir = str(root / name / f"teacher_{flags}")
    return kd_jax.run(config, root / name / variant.replace(",", "_") / str(seed))


def scores(results: list[dict[str, Any]], role: str, metric: str) -> dict[str, Any]:
    """Returns the mean over runs of a role's test score at the last step, and its spread."""
    return spread([result["models"][role]["last"]["test"][metric] for result in results])


def spread(values: list[float]) -> dict[str, Any]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "scores": values}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as docs/tasks.md shows them."""
    lines = ["| config | metric | seeds | teacher | student alone | student taught |", "|---|---|---|---|---|---|"]
    for row in rows:
        factor, sign = (100, " %") if row["unit"] == "%" else (1, "")
        cells = [f"{factor * row['teacher']['mean']:.1f}{sign}" if "teacher" in row else "-"]
        cells += [f"{factor * row[r]['mean']:.1f} ± {factor * row[r]['std']:.1f}" for r in ("baseline", "student")]
        lines.append(f"| `{row['config']}:{row['variant']}` | {row['metric']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
