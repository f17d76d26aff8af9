"""Fields beyond images and text: teacher, student alone and student taught, by the headline of each task.

python -m benchmarks.fields [--only policy ...] [--variants dagger,breakout ...] [--workdir runs/fields] [--keep]

One teacher a row; seeds repeat the student, alone and taught; of a distilled data set they also draw the real images
that it is compared with. The last step counts, its test score; nothing is chosen by it. The recipes are those of the
configs. A finished run is read again; --keep leaves the record's other rows.
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
from kd_jax.config.fields import teachers_of
from kd_jax.config.files import config_of, load, locate
from kd_jax.resolve import near
from kd_jax.system.workdir import git_hash

# Of each config: (number of seeds, variants whose students alone are the same network on the same data), ...
ROWS: dict[str, tuple[tuple[int, tuple[str, ...]], ...]] = {
    "policy": (
        (5, ("dagger", "offline", "sharp", "student")),
        (5, ("value",)),
        (3, ("dagger,breakout",)),
        (3, ("two_tasks",)),
    ),
    "recommender": ((5, ("listwise", "rd", "rrd", "cd")),),
    "detection": (
        (3, ("response", "ld", "imitation", "fgd", "cwd", "mgd", "pseudo")),
        (3, ("response,crowns",)),
    ),
    "segmentation": (
        (3, ("pixel", "cwd", "ifvd", "pairwise", "structured")),
        (3, ("cwd,nuclei", "pixel,nuclei")),
    ),
    "speech": (
        (3, ("frame", "blank_free", "sequence")),
        (3, ("language",)),
        (3, ("commands",)),
        (3, ("whisper",)),
        (5, ("vad",)),
    ),
    "activity": ((5, ("response", "relation", "crd")), (5, ("response,accelerometer",))),
    "dataset_distillation": (
        (5, ("kernel", "distribution", "gradient", "trajectory", "soft")),
        (5, ("kernel,cnn", "distribution,cnn")),
        (5, ("kernel,10", "distribution,10", "gradient,10")),
        (5, ("kernel,50", "distribution,50")),
        (3, ("kernel,fashion_mnist", "distribution,fashion_mnist")),
        (3, ("kernel,10,fashion_mnist", "distribution,10,fashion_mnist")),
    ),
}
# Variants that other networks teach than the config's.
OWN_TEACHER = ("language", "commands", "whisper", "vad", "two_tasks", "soft")
SEEDED = {"dataset_distillation": ("label_seed",)}  # fields of config.data that are the seed, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--variants", nargs="*", help="these alone, and the student alone of each group that has one")
    parser.add_argument("--workdir", default="runs/fields")
    parser.add_argument("--keep", action="store_true", help="keep the record's rows of other configs")
    args = parser.parse_args()
    asked = groups_of(args, parser)
    path = common.RESULTS / "fields.json"
    if not args.keep:
        path.unlink(missing_ok=True)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (row for name, seeds, variants in asked for row in rows_of(name, variants, seeds, Path(args.workdir))):
        print(markdown([row]), flush=True)
        # Row by row: what is measured stays where the next one is stopped.
        before = json.loads(path.read_text())["rows"] if path.exists() else []
        rows = {(row["config"], row["variant"]): row for row in (*before, row | {"git": git_hash()})}
        common.write("fields", sorted(rows.values(), key=lambda row: list(ROWS).index(row["config"])))
    print(markdown(list(rows.values())))


def groups_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[tuple[str, int, tuple[str, ...]]]:
    """Returns (config, number of seeds, variants) of each group that has a variant of those that are asked for."""
    groups = [(name, seeds, variants) for name in args.only for seeds, variants in ROWS[name]]
    named = {variant for _, _, variants in groups for variant in variants}
    if unknown := sorted(set(args.variants or ()) - named):
        parser.error(f"--variants: there is no {unknown[0]!r} of {' '.join(args.only)}. {near(unknown[0], named)}")
    asked = [(name, seeds, tuple(v for v in group if v in (args.variants or named))) for name, seeds, group in groups]
    return [group for group in asked if group[2]]


def rows_of(name: str, group: tuple[str, ...], seeds: int, root: Path) -> Iterator[dict[str, Any]]:
    """Runs the variants of a group over the seeds; the student alone is trained beside the first of them."""
    alone: dict[str, Any] = {}
    for variant in group:
        results = [run(name, variant, seed, root, baseline=not alone) for seed in range(seeds)]
        headline = results[0]["headline"]
        measured = {role: scores(results, role, headline["metric"]) for role in results[0]["models"]}
        alone = alone or measured["baseline"]
        row = {"config": name, "variant": variant, "metric": headline["metric"], "unit": headline["unit"]}
        yield row | {"seeds": seeds, "baseline": alone} | measured


def run(name: str, variant: str, seed: int, root: Path, baseline: bool) -> dict[str, Any]:
    """Runs a variant with one seed."""
    config = config_of(load(locate(f"configs/{name}.py")), variant)
    config.seed, config.report, config.baseline = seed, False, baseline
    flags = "_".join(variant.split(",")[1:])
    apart = variant if variant in OWN_TEACHER else ""
    config.data.update(dict.fromkeys(SEEDED.get(name, ()), seed))
    for role, teacher in teachers_of(config).items():
        teacher.workdir = str(root / name / f"{role}_{apart or flags}")
        teacher.data.update(dict.fromkeys(SEEDED.get(name, ()), 0))  # one teacher for all seeds
    return kd_jax.run(config, root / name / variant.replace(",", "_") / str(seed))


def scores(results: list[dict[str, Any]], role: str, metric: str) -> dict[str, Any]:
    """Returns the mean over runs of a role's test score at the last step, and its spread."""
    values = [result["models"][role]["last"]["test"][metric] for result in results]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "scores": values}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as docs/tasks.md shows them."""
    lines = ["| config | metric | seeds | teacher | student alone | student taught |", "|---|---|---|---|---|---|"]
    for row in rows:
        factor, sign = (100, " %") if row["unit"] == "%" else (1, "")
        digits = 1 if factor * abs(row["student"]["mean"]) >= 10 or row["unit"] == "%" else 2
        teachers = [row[r] for r in row if isinstance(row[r], dict) and r not in ("baseline", "student")]
        cells = [" and ".join(f"{factor * teacher['mean']:.{digits}f}{sign}" for teacher in teachers) or "-"]
        spread = ((factor * row[r]["mean"], factor * row[r]["std"]) for r in ("baseline", "student"))
        cells += [f"{mean:.{digits}f} ± {std:.{digits}f}" for mean, std in spread]
        lines.append(f"| `{row['config']}:{row['variant']}` | {row['metric']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
