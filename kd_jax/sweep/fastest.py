"""vmap, map or unroll? A short measurement on the program itself: it depends on the network and the device."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.core.many import KINDS, Members
from kd_jax.files import write_json
from kd_jax.system import parallel
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.train.dispatch import compiled
from kd_jax.train.jobs import Job
from kd_jax.train.loop import begin

ROUNDS = 5
SHORT = 1000  # steps below which compiling three programs costs more than the best of them saves
MOST = 16  # members that are tried unrolled, on CPU only: it takes n times as long to compile


def step_times(job: Job, members: Members, mesh: Mesh, kinds: tuple[str, ...] = KINDS, rounds: int = ROUNDS) -> dict:
    """Measures {kind: seconds of a step of the first stage}, medians of interleaved rounds after one that compiles.

    Frozen networks must have their values.
    """
    calls: dict[str, list[Any]] = {}
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as scratch:
        for kind in kinds:
            checkpoints = Checkpoints(Path(scratch) / kind, 1)
            chosen = dataclasses.replace(members, how=kind)
            run = begin(job.scheme, job.sources, job.settings, mesh, checkpoints, chosen)
            checkpoints.close()
            hyper = parallel.create_everywhere(lambda run=run: run.hyper(0), mesh)
            stage = run.scheme.stages[0]  # of the bound scheme: only there connectors are calls
            calls[kind] = [run, compiled(run, stage, [])[1], next(iter(run.batches(stage.data, 0, 1))), hyper]
        times: dict[str, list[float]] = {kind: [] for kind in calls}
        for _ in range(rounds + 1):
            for kind, (run, program, batch, hyper) in calls.items():
                start = time.perf_counter()
                run.state, metrics = program(run.state, batch, hyper, run.keys)
                jax.block_until_ready((run.state, metrics))
                times[kind].append(time.perf_counter() - start)
    return {kind: statistics.median(seconds[1:]) for kind, seconds in times.items()}


def fastest(job: Job, members: Members, mesh: Mesh, path: Path) -> tuple[str, dict[str, Any]]:
    """Returns (the fastest kind, what was measured), and notes it in the file `path`: a run resumes as it began.

    One member is run as it is. Runs of fewer than SHORT steps take vmap, which is seldom far from the best, and so do
    several processes, as one of them cannot measure alone.
    """
    if len(members.seeds) == 1:
        return "unroll", {}
    if jax.process_count() > 1 or sum(stage.steps for stage in job.scheme.stages) < SHORT:
        return "vmap", {}
    if path.exists():
        noted = json.loads(path.read_text())
        return noted["how"], {"ms": noted["ms"]}
    unroll = jax.default_backend() == "cpu" and len(members.seeds) <= MOST
    times = step_times(job, members, mesh, tuple(kind for kind in KINDS if kind != "unroll" or unroll))
    how = min(times, key=times.__getitem__)
    ms = {kind: round(1e3 * seconds, 3) for kind, seconds in times.items()}
    listed = ", ".join(f"{kind} {value:.2f} ms" for kind, value in ms.items())
    print(f"{job.name}: one step takes {listed}; {how} is chosen (--config.members sets it)")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"how": how, "ms": ms})
    return how, {"ms": ms}
