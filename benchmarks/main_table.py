"""What distillation gains with each kind of knowledge: mean +- standard deviation over seeds (docs/results.md).

python -m benchmarks.main_table [--data digits100 digitsall fashion] [--seeds 5] [--workdir runs/main_table]

One teacher for all seeds; every student has the same data, steps and optimizer as its baseline. Weights and
temperatures are the published ones of the presets: nothing was tuned on these data. Accuracy is that of the last step
on the test set. A run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import common
from configs import cifar_resnet
from kd_jax.config.fields import settled
from kd_jax.system.log import NonFiniteLoss
from kd_jax.system.workdir import plain
from kd_jax.train import run as train

KNOWLEDGE = ("response", "feature", "relation", "response+feature+relation")
DATA = {
    "digits100": ("digits", {"labels": 100}),
    "digitsall": ("digits", {"labels": 0}),
    "fashion": ("fashion_mnist", {}),
}


def accuracies(results: dict, model: str) -> tuple[float, float]:
    """Returns test accuracy in percent at the last step and at the best by validation."""
    return tuple(100 * results["models"][model][w]["test"]["accuracy"] for w in ("last", "best"))


def summary(pairs: list[tuple[float, float]]) -> dict[str, str]:
    last, best = zip(*pairs, strict=True)
    return {"last step": common.spread(last), "best by validation": common.spread(best)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/main_table")
    args = parser.parse_args()
    rows = [
        r for d in args.data for r in table(d, KNOWLEDGE, args.seeds, Path(args.workdir) / d, partial(configure, d))
    ]
    common.write("main_table", rows, seeds=args.seeds)


def configure(data: str, knowledge: str) -> ConfigDict:
    name, changes = DATA[data]
    config = cifar_resnet.get_config(f"{name},{knowledge}")
    config.data.update(changes)
    return config


def finished(directory: Path, config: ConfigDict) -> dict[str, Any] | None:
    """Returns what a run of this very config left, without planning it again."""
    path = directory / train.RESULTS
    results = json.loads(path.read_text()) if path.exists() else {}
    return results if results.get("config") == plain(settled(config)) else None


def table(
    data: str, methods: Sequence[str], seeds: int, root: Path, configure: Callable[[str], ConfigDict]
) -> list[dict[str, Any]]:
    """Rows of teacher, baseline and every method; `configure(method)` is its config.

    A method of which a seed diverged has no mean: its row says how many did.
    """
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    by_method: dict[str, list[tuple[float, float]]] = {}
    diverged: Counter[str] = Counter()
    for knowledge in methods:
        for seed in range(seeds):
            config = configure(knowledge)
            config.update({"seed": seed, "report": False, "baseline": knowledge == methods[0]})
            config.teacher.workdir = str(root / "teacher")
            directory = root / knowledge / str(seed)
            try:
                results = finished(directory, config) or train.run(config, directory)
            except NonFiniteLoss as e:  # a published weight may be too large for these networks: that is its row
                print(f"{knowledge}, seed {seed}: {e}")
                diverged[knowledge] += 1
                continue
            if knowledge == methods[0]:
                by_method.setdefault("baseline (labels only)", []).append(accuracies(results, "baseline"))
            by_method.setdefault(knowledge, []).append(accuracies(results, "student"))
    teacher = results["models"]["teacher"]["last"]["test"]["accuracy"]
    facts = {"data": data, "train": results["data"]["train"], "labelled": results["data"]["labelled"]}
    rows = [facts | {"knowledge": "teacher", "last step": f"{100 * teacher:.2f}"}]
    scores = {name: summary(pairs) for name, pairs in by_method.items()}
    for name, count in diverged.items():
        scores[name] = dict.fromkeys(("last step", "best by validation"), f"{count} of {seeds} diverged")
    return rows + [facts | {"knowledge": name, **of} for name, of in scores.items()]


if __name__ == "__main__":
    main()
