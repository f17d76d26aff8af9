"""When does distillation stop helping? Students of one family from half the teacher's size to a thousandth.

python -m benchmarks.capacity [--seeds 5] [--widths 48 10 ...] [--workdir runs/capacity] [--table]

configs/capacity.py with the labels of 100 images and with all of them; every width is a sweep over seeds, with and
without the teacher. Test accuracy at the last step, mean +- standard deviation over seeds, as
benchmarks/results/capacity.json and capacity.png. Nothing is chosen on the test set. Interrupted sweeps go on, and
--table makes the table of what is finished.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

from benchmarks import common
from configs import capacity
from kd_jax.models.adapters import as_model
from kd_jax.models.mlp import mlp
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import Spec

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402

WIDTHS = (360, 150, 48, 29, 17, 10, 6, 4, 3)
SETTINGS = {"": "labels of 100 images, the teacher's answers to 1,257", "all": "labels of all 1,257 images"}
COLOURS = {0.0: ("tab:gray", "alone"), 0.9: ("tab:blue", "distilled")}


def parameters(widths: tuple[int, ...]) -> int:
    """Counts the parameters of a network of the family."""
    params, _ = jax.eval_shape(as_model(mlp(10, widths)).init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    return sum(x.size for x in jax.tree.leaves(params))


def swept(flag: str, width: int, seeds: int, root: Path) -> dict[str, Any]:
    """Returns sweep.json of one size in one setting; weight 0 of the teacher is the student alone, in that program."""
    directory, config = folder(root, flag, width), capacity.get_config(flag)
    if not (directory / sweep.RESULTS).exists():
        config.baseline, config.student.model.kwargs.widths = False, (width, width)
        config.teacher.workdir = str(root / (flag or "few") / "teacher")
        sweep.run(config, Spec({"seed": tuple(range(seeds)), "terms.kd.weight": (*COLOURS,)}, {}), directory)
    return json.loads((directory / sweep.RESULTS).read_text())


def folder(root: Path, flag: str, width: int) -> Path:
    return root / (flag or "few") / str(width)


def row_of(flag: str, width: int, results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of a size: both accuracies and their difference over the seeds."""
    scores: dict[float, dict[int, float]] = {}
    for one in results["runs"]:
        scores.setdefault(one["point"]["terms.kd.weight"], {})[one["point"]["seed"]] = 100 * one["test"]
    alone, distilled = scores[0.0], scores[0.9]
    count, whole = parameters((width, width)), parameters((512, 512))
    return {
        "labels": flag or "100",
        "widths": width,
        "parameters": f"{count:,}",
        "smaller": f"{whole / count:.0f}x" if whole / count >= 10 else f"{whole / count:.1f}x",
        "alone": common.spread([*alone.values()]),
        "distilled": common.spread([*distilled.values()]),
        "gain": common.spread([distilled[seed] - alone[seed] for seed in alone]),
        "scores": {"alone": [*alone.values()], "distilled": [*distilled.values()]},
    }


def plot(table: list[dict[str, Any]], teachers: Mapping[str, float]) -> None:
    """Draws accuracy over how many times smaller the student is, a panel a setting."""
    shown = {flag: title for flag, title in SETTINGS.items() if flag in teachers}
    size = dict(figsize=(4.8 * len(shown), 3.6), sharey=True, squeeze=False)
    figure, ((*panels,),) = pyplot.subplots(1, len(shown), layout="constrained", **size)
    whole = parameters((512, 512))
    for axes, (flag, title) in zip(panels, shown.items(), strict=True):
        of_panel = [row for row in table if row["labels"] == (flag or "100")]
        smaller = [whole / parameters((row["widths"],) * 2) for row in of_panel]
        for colour, name in COLOURS.values():
            scores = np.array([row["scores"][name] for row in of_panel])
            mean, deviation = scores.mean(1), scores.std(1, ddof=1) if scores.shape[1] > 1 else 0 * scores[:, 0]
            axes.plot(smaller, mean, marker="o", markersize=4, color=colour, label=name)
            axes.fill_between(smaller, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(teachers[flag], color="black", linestyle="--", linewidth=1, label="teacher")
        axes.set(xscale="log", xlabel="times smaller than the teacher", title=title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].legend()
    figure.savefig(common.RESULTS / "capacity.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/capacity")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    root, table, teachers = Path(args.workdir), [], {}
    pairs = [*itertools.product(SETTINGS, args.widths)]
    done = [pair for pair in pairs if (folder(root, *pair) / sweep.RESULTS).exists()]
    for flag, width in done if args.table else pairs:
        results = swept(flag, width, args.seeds, root)
        teachers[flag] = 100 * results["models"]["teacher"]["test"]["mean"]
        table.append(row_of(flag, width, results))
    plot(table, teachers)
    shown = [{k: v for k, v in row.items() if k != "scores"} for row in table]
    common.write("capacity", shown, seeds=args.seeds, teacher=teachers)


if __name__ == "__main__":
    main()
