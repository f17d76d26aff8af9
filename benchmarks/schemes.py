"""Every scheme's effect and cost: variants of configs/, beside teacher and plain student, mean +- standard deviation.

python -m benchmarks.schemes [--seeds 3] [--configs online graph ...] [--workdir runs/schemes]

A config takes part by its VARIANTS. Accuracy is that of the last step on the test set; weights were not tuned on it.
"ratio" is the time of a step against one of offline response distillation (`kd`) of the same student, batch and, if
there is one, teacher, in turns on this machine; stages count by their steps. Interrupted runs go on; two
processes may share the runs by --configs and --train-only, and a last call without them makes the table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.main_table import accuracies, finished, summary
from kd_jax.config import compose, part, supervised
from kd_jax.config.fields import teachers_of
from kd_jax.core.bind import init_optimizers
from kd_jax.core.terms import hyper_of
from kd_jax.files import write_json
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.system.workdir import fingerprint, plain
from kd_jax.train import run as train
from kd_jax.train.dispatch import compiled
from kd_jax.train.jobs import Job
from kd_jax.train.loop import begin

CONFIGS = tuple(
    path.stem
    for path in sorted(Path("configs").glob("*.py"))
    if "\nVARIANTS" in path.read_text(encoding="utf-8") and path.stem != "compress"  # benchmarks/compress.py
)
# Variants that differ little from others of the table, which is long enough.
LEFT_OUT = {
    "online": ("kdcl_naive", "kdcl_linear"),
    "self_distillation": ("pretrained_self",),
    "multi_teacher": ("losses",),
    "lifelong": tuple(f"{m},{s}" for m in ("lwf", "l2kd", "joint") for s in ("task", "domain")),
}
ROUNDS = 15


def configure(name: str, variant: str, seed: int, root: Path) -> ConfigDict:
    """The variant of a config; teachers that are trained alike are shared."""
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    config.update({"seed": seed, "report": False})
    for role, teacher in teachers_of(config).items():
        alike = {k: plain(teacher[k]) for k in ("model", "inputs", "seed", "train", "data")}
        alike |= {"own": plain(config.data), "extra": plain(config.extra), "prepare": plain(config.prepare)}
        teacher.workdir = str(root / "teachers" / f"{role}-{fingerprint(alike)}")
    return config


def effect(name: str, variant: str, seeds: int, root: Path) -> Iterator[dict[str, Any]]:
    """Rows of teachers, baseline, student and all else that the scheme evaluates."""
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        config = configure(name, variant, seed, root)
        fields = ("student", "data", "train", "prepare", "extra", "seed")
        kept = root / "baselines" / f"{fingerprint({k: plain(config[k]) for k in fields})}.json"
        wanted = config.baseline
        config.baseline = wanted and not kept.exists()  # variants of a config mostly share it
        directory = root / name / variant.replace(",", "-") / str(seed)
        results = finished(directory, config) or train.run(config, directory)
        if config.baseline:
            kept.parent.mkdir(exist_ok=True)
            write_json(kept, results["models"]["baseline"])
        elif wanted:
            results["models"]["baseline"] = json.loads(kept.read_text())
        for model, entry in results["models"].items():
            found.setdefault(model, []).append(accuracies(results, model) if "best" in entry else (_last(entry),) * 2)
            for other, scores in entry.get("others", {}).items():
                values = tuple(100 * scores[w]["test"]["accuracy"] for w in ("last", "best"))
                found.setdefault(f"{model}: {other}", []).append(values)
    for model, pairs in found.items():
        yield {"config": name, "variant": variant, "what": model, **summary(pairs)}


def _last(entry: Mapping[str, Any]) -> float:
    return 100 * entry["last"]["test"]["accuracy"]


def cost(name: str, variant: str, root: Path) -> float:
    """(time of a step) / (time of a step of `kd`), stages weighted by their steps, medians of interleaved rounds."""
    config = configure(name, variant, 0, root)
    own = train.jobs_of(config, root / "cost")[0]["student"]
    config.scheme, config.roles = ConfigDict(part("schemes.offline.build")), ConfigDict()
    config.terms = ConfigDict(compose("kd") if config.teacher.model.name else supervised())
    plainly = train.jobs_of(config, root / "cost")[0]["student"]
    steps: dict[int, list[Any]] = {}  # stages of the same phases share a program and its time
    for number, stage in enumerate(own.scheme.stages):
        steps.setdefault(id(stage.phases), [number, 0])[1] += stage.steps
    with jax.set_mesh(common.one_device()):
        calls = [_step(plainly, 0, root), *(_step(own, number, root) for number, _ in steps.values())]
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(ROUNDS):
            for call, seconds in zip(calls, times, strict=True):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
    base, *stages = map(common.median, times)
    counts = [count for _, count in steps.values()]
    return sum(n * t for n, t in zip(counts, stages, strict=True)) / sum(counts) / base


def _step(job: Job, number: int, root: Path) -> Callable[[], None]:
    """A step of a stage on a batch of its data, as the loop compiles it; a teacher of random weights costs the same."""
    stage, directory = job.scheme.stages[number], root / "cost" / "checkpoints"
    checkpoints = Checkpoints(directory, 1)
    run = begin(job.scheme, job.sources, job.settings, common.one_device(), checkpoints)
    checkpoints.close()
    for later in range(1, number + 1):
        run.state = init_optimizers(run.scheme, run.state, later)
    batch, hyper = next(iter(run.batches(stage.data, 0, 1))), hyper_of(stage)
    program, held = compiled(run, stage, [])[1], [run.state]

    def call() -> None:
        held[0], metrics = program(held[0], batch, hyper, run.keys)
        jax.block_until_ready(metrics)

    call()
    return call


def earlier(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the results file that this call did not make anew."""
    path, made = common.RESULTS / "schemes.json", {(row["config"], row["variant"]) for row in rows}
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in known if (row["config"], row["variant"]) not in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="*", default=CONFIGS, choices=CONFIGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/schemes")
    parser.add_argument("--train-only", action="store_true", help="leave the costs and the table to a later call")
    parser.add_argument("--finished", action="store_true", help="leave out what is not trained yet, and the costs")
    args = parser.parse_args()
    root, rows = Path(args.workdir), []
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    for name in args.configs:
        variants = importlib.import_module(f"configs.{name}").VARIANTS
        for variant in (v for v in variants if v not in LEFT_OUT.get(name, ())):
            seeds = [root / name / variant.replace(",", "-") / str(seed) / train.RESULTS for seed in range(args.seeds)]
            if args.finished and not all(path.exists() for path in seeds):
                continue
            found = list(effect(name, variant, args.seeds, root))
            if args.train_only:
                continue
            ratio = "-" if args.finished else f"{cost(name, variant, root):.2f}"
            rows += [{**row, "ratio": ratio if row["what"] == "student" else ""} for row in found]
    if not args.train_only:
        common.write("schemes", [*earlier(rows), *rows], seeds=args.seeds)


if __name__ == "__main__":
    main()
