"""The one training loop: restore -> for every stage (on_enter -> steps, evaluations, saves) -> score last and best.

What it writes into its directory: checkpoints/, metrics.jsonl, tensorboard/, and done.json at the end. Everything but
the clock is a pure function of (scheme, data, seed), so a killed run that is started again ends in the same bytes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax import parallel
from kd_jax.checkpoint import Checkpoints, save_tree, write_json
from kd_jax.data.batches import eval_batches, train_batches
from kd_jax.data.source import Source
from kd_jax.evaluate import evaluate, make_eval_step, role_variables
from kd_jax.progress import Progress
from kd_jax.state import bind, init_optimizers, init_state, loaded_variables
from kd_jax.step import make_train_step
from kd_jax.terms import hyper_of
from kd_jax.types import PyTree, Scheme, TrainState
from kd_jax.watch import Log, Signals, Stopped

DONE = "done.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a scheme is run; nothing here changes what a step computes."""

    batch_size: int
    seed: int
    log_every: int = 50
    eval_every: int = 500
    eval_batch_size: int = 256
    labelled_share: float | None = None
    keep: int = 2
    workers: int = 0
    rules: Mapping[str, parallel.Rules] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Fit:
    """A run in progress: the bound scheme, its state on the mesh, and the record that is saved beside it."""

    scheme: Scheme
    inputs: Mapping[str, Any]
    state: TrainState
    record: dict[str, Any]
    resumed: bool


def starts(scheme: Scheme) -> list[int]:
    """The first step of every stage, and the last step of all."""
    total = [0]
    for stage in scheme.stages:
        total.append(total[-1] + stage.steps)
    return total


def _abstract(scheme: Scheme, inputs: Mapping, stage: int, rules: Mapping, mesh: Mesh) -> TrainState:
    """Shapes and shardings of the state while `stage` runs."""

    def build(key: jax.Array, loaded: Mapping) -> TrainState:
        state = init_state(scheme, inputs, key, loaded)
        for number in range(1, stage + 1):
            state = init_optimizers(scheme, state, number)
        return state

    shapes = jax.eval_shape(build, jax.random.key(0), loaded_variables(scheme))
    shardings = parallel.state_shardings(shapes, rules, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def build(scheme: Scheme, batch: Mapping[str, Any], settings: Settings, mesh: Mesh, checkpoints: Checkpoints) -> Fit:
    """Binds the scheme to the shape of a batch, creates its state sharded, restores the newest checkpoint if any."""
    parallel.check_batch_size(mesh, settings.batch_size, "batch_size")
    parallel.check_batch_size(mesh, settings.eval_batch_size, "eval_batch_size")
    parallel.check_roles(settings.rules, scheme)
    scheme, inputs = bind(scheme, batch)
    shardings = jax.tree.map(lambda x: x.sharding, _abstract(scheme, inputs, 0, settings.rules, mesh))
    create = jax.jit(lambda key, loaded: init_state(scheme, inputs, key, loaded), out_shardings=shardings)
    state = create(jax.random.key(settings.seed), loaded_variables(scheme))
    run = Fit(scheme, inputs, state, {"accumulator": {}, "best": None, "seconds": 0.0}, False)
    found = checkpoints.restore_newest(lambda step: template(run, step, settings.rules, mesh))
    if found:
        run.state, run.record, run.resumed = *found, True
    return run


def template(run: Fit, step: int, rules: Mapping[str, parallel.Rules], mesh: Mesh) -> TrainState:
    """What the state saved at `step` looks like; a step between two stages belongs to the earlier one."""
    stage = max(i for i, start in enumerate(starts(run.scheme)[:-1]) if start < step or i == 0)
    return _abstract(run.scheme, run.inputs, stage, rules, mesh).replace(frozen=run.state.frozen)


def exported(params: PyTree, stats: PyTree) -> dict[str, PyTree]:
    """The tree that an exported model is stored as: connectors, optimizers and other roles are left behind."""
    return {"params": params, **({"stats": stats} if jax.tree.leaves(stats) else {})}


def fit(
    scheme: Scheme,
    sources: Mapping[str, Source | None],
    settings: Settings,
    directory: Path,
    mesh: Mesh,
    title: str = "",
) -> dict[str, Any]:
    """Trains `scheme` and returns what done.json holds: the last step and the best by validation, on every split.

    `sources` maps split names to data: the stages' splits, "validation" (or None) and "test". The parameters are left
    in `<directory>/checkpoints`. Raises NonFiniteLoss, Stopped, and ValueError for whatever does not fit together.
    """
    directory.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(directory / "checkpoints", settings.keep)
    sharding = parallel.batch_sharding(mesh)
    key = parallel.create_everywhere(lambda: jax.random.key(settings.seed), mesh)

    def batches(stage_data: str, start: int, count: int):
        return train_batches(
            sources[stage_data], batch_size=settings.batch_size, seed=settings.seed, start_step=start, num_steps=count,
            labelled_share=settings.labelled_share, sharding=sharding, workers=settings.workers,
        )  # fmt: skip

    def score(run: Fit, step, split: str) -> dict[str, dict[str, Any]]:
        data = eval_batches(
            sources[split], batch_size=settings.eval_batch_size, sharding=sharding, workers=settings.workers
        )
        return evaluate(step, run.state, data, key)

    with jax.set_mesh(mesh):
        first = next(iter(batches(scheme.stages[0].data, 0, 1)))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), first)
        run = build(scheme, shapes, settings, mesh, checkpoints)
        bounds, step = starts(run.scheme), int(run.state.step)
        progress = Progress(title, bounds[-1], step, settings.batch_size, enabled=parallel.is_lead())
        if run.resumed:
            progress.print(f"{title}: resumed at step {step} of {bounds[-1]}")
        log = Log(directory, run.record, step if run.resumed else None, settings.log_every, progress)
        eval_step = jax.jit(make_eval_step(dataclasses.replace(run.scheme, reference=None)))
        clock = time.monotonic() - run.record["seconds"]

        def save() -> None:
            run.record["seconds"] = time.monotonic() - clock
            best = run.record["best"]
            checkpoints.save(run.state, run.record, best["step"] if best else None)

        def end_interval() -> None:
            log.flush(step)
            if sources["validation"] is not None:
                values = score(run, eval_step, "validation")
                flat = {f"{r}/{k}": v for r, m in values.items() for k, v in m.items() if not isinstance(v, list)}
                log.write(step, {"kind": "validation", **flat})
                accuracy = values[run.scheme.evaluate[0]]["accuracy"]
                if run.record["best"] is None or accuracy > run.record["best"]["accuracy"]:
                    run.record["best"] = {"step": step, "accuracy": accuracy}
            save()

        with Signals() as signals:
            try:
                for number, stage in enumerate(run.scheme.stages):
                    if step >= bounds[number + 1]:
                        continue
                    if step == bounds[number]:
                        run.state = enter(run, number)
                    hyper = parallel.create_everywhere(lambda stage=stage: hyper_of(stage), mesh)
                    out = jax.tree.map(lambda x: x.sharding, run.state)
                    train_step = jax.jit(
                        make_train_step(run.scheme, stage), donate_argnums=0, out_shardings=(out, None)
                    )
                    with jax.transfer_guard("disallow"):
                        for batch in batches(stage.data, step - bounds[number], bounds[number + 1] - step):
                            run.state, metrics = train_step(run.state, batch, hyper, key)
                            step += 1
                            log.add(step, metrics)
                            stop = signals.stop_at(step)
                            if step % settings.eval_every == 0 or step == bounds[number + 1]:
                                end_interval()
                            elif stop:
                                log.flush(step)
                                save()
                            if stop:
                                checkpoints.wait()
                                progress.print(
                                    f"{title}: stopped at step {step} by SIGTERM and saved; the same command resumes."
                                )
                                raise Stopped(0)
            finally:
                progress.close()
                log.close()
                checkpoints.wait()
        seconds = run.record["seconds"]
        results = {
            "steps": bounds[-1],
            "seconds": seconds,
            "examples_per_second": bounds[-1] * settings.batch_size / seconds,
        }
        final_step = jax.jit(make_eval_step(run.scheme))
        for which in ("last", "best"):
            if which == "best":
                if run.record["best"] is None:
                    continue
                run.state = checkpoints.restore(
                    run.record["best"]["step"], template(run, run.record["best"]["step"], settings.rules, mesh)
                )
            splits = [s for s in ("validation", "test") if sources[s] is not None]
            results[which] = {"step": int(run.state.step), **{s: score(run, final_step, s) for s in splits}}
            for role in run.scheme.evaluate:
                save_tree(directory / "export" / which / role, exported(*role_variables(run.state, run.scheme, role)))
        checkpoints.close()
    if parallel.is_lead():
        write_json(directory / DONE, results)
    return results


def enter(run: Fit, number: int) -> TrainState:
    """The state at the first step of a stage: its `on_enter`, then fresh optimizers where they change."""
    stage, state = run.scheme.stages[number], run.state
    if stage.on_enter is not None:
        state = stage.on_enter(state)
    return init_optimizers(run.scheme, state, number) if number else state
