"""Does a sweep pay its teacher once? Steps of n students in one program, and the whole time of a sweep.

python -m benchmarks.sweep [--rounds=15] [--total=4,16] [--steps=200]

On digits, batch 64, a convolutional teacher, a student of each kind. "limit" is (step of n students) / (teacher forward
+ n supervised steps of one student); "separate" is the same against n distillation steps of one student, each with its
teacher. Medians of rounds in which every program runs once; both ratios for vmap, for lax.map and unrolled. "total" is
the whole time of a sweep of n students (choice among the three, compiling, `--steps` steps, evaluation, checkpoints)
against that of n separate runs one after the other in this process; the compile cache is off, so that each run
compiles, as it would in a process of its own, whose start is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import common
from kd_jax.config import compose, small_digits, supervised
from kd_jax.core.many import KINDS, Members, stack
from kd_jax.core.step import answered
from kd_jax.core.terms import hyper_of
from kd_jax.sweep.fastest import fastest
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.train import loop
from kd_jax.train import run as train
from kd_jax.train.dispatch import compiled
from kd_jax.train.jobs import Job

COUNTS = (1, 4, 16)
STUDENTS = {
    "mlp": dict(name="models.mlp.mlp", kwargs=dict(widths=(64,))),
    "cnn": dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(4, 8))),
}


def job_of(student: str, terms: dict[str, Any], root: Path, steps: int) -> Job:
    """Returns the student's training; a teacher of random weights costs what a trained one does."""
    config = small_digits()
    config.student.model = STUDENTS[student]
    config.terms = terms
    config.update(dict(baseline=False, report=False, eval_every=steps))
    config.train.steps = steps
    job = train.jobs_of(config, root)[0]["student"]
    role, image = job.scheme.roles["teacher"], np.zeros((1, *job.source.image_shape), np.float32)
    role = dataclasses.replace(role, initial=jax.jit(role.model.init)(jax.random.key(1), image))
    scheme = dataclasses.replace(job.scheme, roles={**job.scheme.roles, "teacher": role})
    return dataclasses.replace(job, scheme=scheme)


def members_of(job: Job, count: int, how: str = "vmap") -> Members:
    """Seeds 0 .. n - 1 at temperatures 1 .. n."""
    hypers = []
    for number in range(count):
        hyper = jax.tree.map(np.asarray, hyper_of(job.scheme.stages[0]))
        hyper["student"]["terms"]["kd"]["kwargs"]["temperature"] = np.float32(number + 1)
        hypers.append([hyper])
    return Members(tuple(range(count)), stack(hypers), how)


def stepper(job: Job, root: Path, members: Members | None = None) -> tuple[Callable[[], Any], Any]:
    """Returns (one step, the run), as the loop compiles it."""
    checkpoints = Checkpoints(root / "checkpoints", 1)
    run = loop.begin(job.scheme, job.sources, job.settings, common.one_device(), checkpoints, members)
    checkpoints.close()
    batch, hyper = next(iter(run.batches("train", 0, 1))), jax.device_put(run.hyper(0))
    program = compiled(run, run.scheme.stages[0], [])[1]

    def step() -> Any:
        run.state, metrics = program(run.state, batch, hyper, run.keys)
        return run.state.params, metrics

    return step, run


def step_ratios(student: str, root: Path, rounds: int) -> list[dict[str, Any]]:
    distil = job_of(student, compose("kd"), root, 100)
    calls = {"supervised": stepper(job_of(student, supervised(), root, 100), root)[0]}
    calls["distil"], run = stepper(distil, root)
    batch = next(iter(run.batches("train", 0, 1)))
    stage, frozen = run.scheme.stages[0], run.state.frozen
    blank = dataclasses.replace(run.state, params={}, stats={}, opt={}, frozen={}, extra={}, step=np.int32(0))
    teacher = jax.jit(lambda f, b: answered(run.scheme, stage, blank.replace(frozen=f), b, run.keys.view))
    calls["teacher"] = lambda: teacher(frozen, batch)
    for count in COUNTS:
        for how in KINDS:
            calls[f"{how} {count}"] = stepper(distil, root, members_of(distil, count, how))[0]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if number >= 2:  # the first ones compile and warm up
                seconds[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * common.median(s) for name, s in seconds.items()}
    rows = []
    for count in COUNTS:
        row = {"student": student, "n": count, "teacher ms": f"{ms['teacher']:.2f}"}
        row |= {"step of one ms": f"{ms['supervised']:.2f}"}
        for how in KINDS:
            ratio = ms[f"{how} {count}"]
            row[f"{how} ms"] = f"{ratio:.2f}"
            row[f"{how} / limit"] = f"{ratio / (ms['teacher'] + count * ms['supervised']):.2f}"
            row[f"{how} / separate"] = f"{ratio / (count * ms['distil']):.2f}"
        rows.append(row)
    return rows


def total_ratio(student: str, count: int, steps: int) -> dict[str, str]:
    """Returns whole seconds of the sweep and of the separate runs."""
    with tempfile.TemporaryDirectory() as scratch:
        root, mesh = Path(scratch), common.one_device()
        job = job_of(student, compose("kd"), root, steps)
        start = time.perf_counter()
        for seed in range(count):
            settings = dataclasses.replace(job.settings, seed=seed, view_seed=0)
            loop.fit(job.scheme, job.sources, settings, root / str(seed), mesh, "separate")
        separate = time.perf_counter() - start
        start = time.perf_counter()
        how, _ = fastest(job, members_of(job, count), mesh, root / "members.json")
        loop.fit(job.scheme, job.sources, job.settings, root / "sweep", mesh, "sweep", members_of(job, count, how))
        whole = time.perf_counter() - start
    return {"sweep s": f"{whole:.1f}", "n runs s": f"{separate:.1f}", "total": f"{whole / separate:.2f}", "chosen": how}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--total", default="4,16", help="numbers of students of which the whole time is measured")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for student in STUDENTS:
        with tempfile.TemporaryDirectory() as scratch, jax.set_mesh(common.one_device()):
            ratios = step_ratios(student, Path(scratch), args.rounds)
        for row in ratios:
            if str(row["n"]) in args.total.split(","):
                row |= total_ratio(student, row["n"], args.steps)
        rows += ratios
    common.write("sweep", rows, rounds=args.rounds, steps=args.steps)


if __name__ == "__main__":
    main()
