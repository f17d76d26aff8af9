"""Every scheme's effect and cost: variants of configs/, beside teacher and plain student, mean +- standard deviation.

python -m benchmarks.schemes [--seeds 3] [--configs online graph ...] [--workdir runs/schemes]

A config takes part by its VARIANTS. Accuracy is that of the last step on the test set; weights were not tuned on it.
"ratio" is the time of a step against one of offline response distillation (`kd`) of the same student, batch and, if
there is one, teacher, in turns on this machine; stages count by their steps. Interrupted runs go on where they were.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.main_table import accuracies, summary
from kd_jax import parallel, train
from kd_jax.config import teachers_of
from kd_jax.data.batches import train_batches
from kd_jax.knowledge import compose
from kd_jax.plan import Job
from kd_jax.presets import part, supervised
from kd_jax.state import init_optimizers
from kd_jax.step import make_train_step
from kd_jax.terms import hyper_of
from kd_jax.types import Stage
from kd_jax.workdir import fingerprint, plain

CONFIGS = tuple(
    path.stem for path in sorted(Path("configs").glob("*.py")) if "\nVARIANTS" in path.read_text(encoding="utf-8")
)
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
        results = train.run(config, root / name / variant.replace(",", "-") / str(seed))
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
    config.scheme = ConfigDict(part("schemes.offline.build"))
    config.terms = ConfigDict(compose("kd") if config.teacher.model.name else supervised())
    plainly = train.jobs_of(config, root / "cost")[0]["student"]
    distinct: list[tuple[Stage, int]] = []  # stages of the same phases share a program and its time
    for stage in own.scheme.stages:
        same = [i for i, (other, _) in enumerate(distinct) if other.phases is stage.phases]
        if same:
            distinct[same[0]] = (stage, distinct[same[0]][1] + stage.steps)
        else:
            distinct.append((stage, stage.steps))
    calls = [_step(plainly, plainly.scheme.stages[0]), *(_step(own, stage) for stage, _ in distinct)]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
    base, *stages = map(common.median, times)
    counts = [steps for _, steps in distinct]
    return sum(n * t for n, t in zip(counts, stages, strict=True)) / sum(counts) / base


def _step(job: Job, stage: Stage) -> Any:
    """A compiled step of a stage on a batch of its data; teachers have random weights, which cost the same."""
    mesh = common.one_device()
    sharding = parallel.batch_sharding(mesh)
    size, seed, share = job.settings.batch_size, job.settings.seed, job.settings.labelled_share
    batches = train_batches(
        job.sources[stage.data], batch_size=size, seed=seed, num_steps=1, sharding=sharding, labelled_share=share
    )
    batch = next(iter(batches))
    scheme, state = common.first_state(job.scheme, batch)
    if stage is not job.scheme.stages[0]:
        number = [s is stage for s in scheme.stages].index(True)
        state = init_optimizers(scheme, state, number)
    step, hyper, key = jax.jit(make_train_step(scheme, stage)), hyper_of(stage), jax.random.key(0)
    call = lambda: step(state, batch, hyper, key)  # noqa: E731
    jax.block_until_ready(call())
    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="*", default=CONFIGS, choices=CONFIGS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/schemes")
    args = parser.parse_args()
    root, rows = Path(args.workdir), []
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    for name in args.configs:
        for variant in importlib.import_module(f"configs.{name}").VARIANTS:
            found = list(effect(name, variant, args.seeds, root))
            ratio = f"{cost(name, variant, root):.2f}"
            rows += [{**row, "ratio": ratio if row["what"] == "student" else ""} for row in found]
    common.write("schemes", rows, seeds=args.seeds)


if __name__ == "__main__":
    main()
