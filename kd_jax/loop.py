"""The one training loop: restore -> for every stage (on_enter -> steps, evaluations, saves) -> score last and best.

What it writes into its directory: checkpoints/, metrics.jsonl, tensorboard/, and done.json at the end. Everything but
the clock is a pure function of (scheme, data, seed), so a killed run that is started again ends in the same bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax import parallel, workdir
from kd_jax.checkpoint import Checkpoints, save_tree, write_json
from kd_jax.data.batches import batch_shapes, eval_batches, train_batches
from kd_jax.data.source import Source
from kd_jax.evaluate import evaluate, extra_inputs, make_eval_step, role_variables
from kd_jax.progress import Progress
from kd_jax.state import bind, evaluated_roles, init_optimizers, init_state, loaded_variables
from kd_jax.step import make_train_step
from kd_jax.terms import hyper_of
from kd_jax.types import PyTree, Scheme, Stage, TrainState
from kd_jax.watch import Log, Signals, Stopped

DONE = "done.json"
Programs = list[tuple[Stage, Any, Any]]  # (stage, structure of the state, jitted step)


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
    key: jax.Array
    sources: Mapping[str, Source | None]
    settings: Settings
    mesh: Mesh
    checkpoints: Checkpoints
    record: dict[str, Any]
    resumed: bool = False

    @property
    def bounds(self) -> list[int]:
        """The first step of every stage, and the last step of all."""
        return list(itertools.accumulate((stage.steps for stage in self.scheme.stages), initial=0))

    def batches(self, split: str, start: int, count: int) -> Iterator[Mapping[str, jax.Array]]:
        return train_batches(
            self.sources[split], batch_size=self.settings.batch_size, seed=self.settings.seed, start_step=start,
            num_steps=count, labelled_share=self.settings.labelled_share, sharding=parallel.batch_sharding(self.mesh),
            workers=self.settings.workers,
        )  # fmt: skip

    def score(self, step: Callable[..., Any], split: str) -> dict[str, dict[str, Any]]:
        """{role: metrics} of a whole split."""
        data = eval_batches(
            self.sources[split], batch_size=self.settings.eval_batch_size, sharding=parallel.batch_sharding(self.mesh),
            workers=self.settings.workers,
        )  # fmt: skip
        return evaluate(step, self.state, data, self.key)

    def abstract(self, stage: int) -> TrainState:
        """Shapes and shardings of the state while `stage` runs."""

        def create(key: jax.Array, loaded: Mapping) -> TrainState:
            state = init_state(self.scheme, self.inputs, key, loaded)
            for number in range(1, stage + 1):
                state = init_optimizers(self.scheme, state, number)
            return state

        shapes = jax.eval_shape(create, jax.random.key(0), loaded_variables(self.scheme))
        shardings = parallel.state_shardings(shapes, self.settings.rules, self.mesh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

    def template(self, step: int) -> TrainState:
        """What the state saved at `step` looks like; a step between two stages belongs to the earlier one."""
        stage = max(i for i, start in enumerate(self.bounds[:-1]) if start < step or i == 0)
        return self.abstract(stage).replace(frozen=self.state.frozen)


def _shardings(tree: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, tree)


def fit(
    scheme: Scheme,
    sources: Mapping[str, Source | None],
    settings: Settings,
    directory: Path,
    mesh: Mesh,
    title: str = "",
) -> dict[str, Any]:
    """Trains `scheme` and returns what done.json holds: the last step and the best by validation, on every split.

    `sources` maps split names to data: the stages' splits, "validation" (or None) and "test". Checkpoints are left in
    `<directory>/checkpoints`, the networks alone in `<directory>/export/<last|best>/<role>`.
    Raises NonFiniteLoss, Stopped, and ValueError for whatever does not fit together, or where another run works there.
    """
    with workdir.locked(directory), jax.set_mesh(mesh):
        run = begin(scheme, sources, settings, mesh, Checkpoints(directory / "checkpoints", settings.keep))
        step, steps, lead = int(run.state.step), run.bounds[-1], parallel.is_lead()
        progress = Progress(title, steps, step, settings.batch_size, enabled=lead)
        if run.resumed:
            progress.print(f"{title}: resumed at step {step} of {steps}")
        log = Log(directory, run.record, step if run.resumed else None, settings.log_every, progress)
        try:
            with Signals() as signals:
                train(run, log, signals)
        except Stopped:
            progress.print(
                f"{title}: stopped at step {int(run.state.step)} by SIGTERM and saved; run it again to resume."
            )
            raise
        finally:
            progress.close()
            log.close()
            run.checkpoints.wait()
        results = conclude(run, directory)
        run.checkpoints.close()
    if lead:
        write_json(directory / DONE, results)
    return results


def begin(
    scheme: Scheme, sources: Mapping[str, Source | None], settings: Settings, mesh: Mesh, checkpoints: Checkpoints
) -> Fit:
    """Binds the scheme to the shape of a batch, creates its state sharded, restores the newest checkpoint if any."""
    parallel.check_batch_size(mesh, settings.batch_size, "batch_size")
    parallel.check_batch_size(mesh, settings.eval_batch_size, "eval_batch_size")
    parallel.check_roles(settings.rules, scheme)
    key = parallel.create_everywhere(lambda: jax.random.key(settings.seed), mesh)
    record = {"accumulator": {}, "best": None, "seconds": 0.0, "stages": []}
    run = Fit(scheme, {}, None, key, sources, settings, mesh, checkpoints, record)
    run.scheme, run.inputs = bind(scheme, batch_shapes(sources[scheme.stages[0].data], settings.batch_size))

    run.state = create(run)
    found = checkpoints.restore_newest(run.template)
    if found:
        run.state, run.record, run.resumed = *found, True
    return run


def create(run: Fit) -> TrainState:
    """The state at step 0, made in its shards: no device ever holds a whole network that the rules cut.

    A frozen network that was loaded is taken as it lies where it lies right, and not copied.
    """
    scheme, loaded, abstract = run.scheme, loaded_variables(run.scheme), run.abstract(0)
    shardings = _shardings(abstract)

    def as_loaded(role: str) -> bool:
        """The step gets these very arrays: nothing casts them."""
        pairs = zip(jax.tree.leaves(loaded.get(role, ())), jax.tree.leaves(abstract.frozen.get(role, ())), strict=False)
        return role in loaded and role in abstract.frozen and all(a.dtype == b.dtype for a, b in pairs)

    kept = {role: parallel.place(loaded[role], shardings.frozen[role]) for role in abstract.frozen if as_loaded(role)}

    def others(frozen: Mapping) -> dict:
        return {role: v for role, v in frozen.items() if role not in kept}

    def make(key: jax.Array, loaded: Mapping) -> TrainState:
        state = init_state(scheme, run.inputs, key, loaded)
        return state.replace(frozen=others(state.frozen))

    make = jax.jit(make, out_shardings=shardings.replace(frozen=others(shardings.frozen)))
    state = make(jax.random.key(run.settings.seed), loaded)
    return state.replace(frozen={**state.frozen, **kept})


def enter(run: Fit, number: int) -> TrainState:
    """The state at the first step of a stage: its `on_enter`, then fresh optimizers where they change."""
    state = run.state
    if run.scheme.stages[number].on_enter is not None:
        state = run.scheme.stages[number].on_enter(state)
    if number == 0:
        return state
    shardings = _shardings(run.abstract(number))
    return jax.jit(lambda s: init_optimizers(run.scheme, s, number), out_shardings=shardings)(state)


def steps_ahead(mesh: Mesh) -> int:
    """How many steps may wait on the device behind the one that runs: enough to hide Python, little memory.

    None on a mesh of simulated CPU devices, whose collectives can starve one another of threads and abort.
    """
    return 0 if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else 2


def train(run: Fit, log: Log, signals: Signals) -> None:
    """Takes the steps that are left of every stage. Raises Stopped, with everything saved, when it is asked to stop."""
    step, bounds = int(run.state.step), run.bounds
    eval_step = jax.jit(make_eval_step(dataclasses.replace(run.scheme, reference=None)))
    clock = time.monotonic() - run.record["seconds"]

    in_flight: collections.deque[Any] = collections.deque()
    ahead = steps_ahead(run.mesh)

    def save() -> None:
        log.flush(step)  # before the save, so that a checkpoint never holds a nan that the log has not seen
        run.record["seconds"] = time.monotonic() - clock
        run.checkpoints.save(run.state, run.record, run.record["best"] and run.record["best"]["step"])

    def validate(selects: bool) -> None:
        log.flush(step)
        values = run.score(eval_step, "validation")
        flat = {f"{r}/{k}": v for r, m in values.items() for k, v in m.items() if not isinstance(v, list)}
        log.write(step, {"kind": "validation", **flat})
        value, select, best = values[run.scheme.evaluate[0]][run.scheme.select], run.scheme.select, run.record["best"]
        sign = {"accuracy": 1, "nll": -1}[select]
        if selects and (best is None or sign * value > sign * best[select]):
            run.record["best"] = {"step": step, select: value}

    programs: Programs = []
    for number, stage in enumerate(run.scheme.stages):
        if step >= bounds[number + 1]:
            continue
        if step == bounds[number]:
            run.state = enter(run, number)
        hyper = parallel.create_everywhere(lambda stage=stage: hyper_of(stage), run.mesh)
        train_step = compiled(run, stage, programs)
        with jax.transfer_guard("disallow"):
            for batch in run.batches(stage.data, step - bounds[number], bounds[number + 1] - step):
                run.state, metrics = train_step(run.state, batch, hyper, run.key)
                step += 1
                log.add(step, metrics)
                in_flight.append(metrics)
                if len(in_flight) > ahead:
                    jax.block_until_ready(in_flight.popleft())
                stop = signals.stop_at(step)
                due = step % run.settings.eval_every == 0 or step == bounds[number + 1]
                if due and run.sources["validation"] is not None:
                    validate(stage.selects)
                if step == bounds[number + 1] and run.scheme.stage_splits:
                    scores = {split: run.score(eval_step, split) for split in run.scheme.stage_splits}
                    run.record["stages"].append({"stage": stage.name or str(number), "step": step, **scores})
                if due or stop:
                    save()
                if stop:
                    run.checkpoints.wait()
                    raise Stopped(0)


def compiled(run: Fit, stage: Stage, programs: Programs) -> Any:
    """The jitted step of a stage, that of an earlier one where both have the same phases: it compiles once."""
    layout = jax.tree.structure(run.state)  # a stage between the two may have added the optimizer of another group
    for other, known, program in programs:
        hooks = other.pre_update is stage.pre_update and other.post_update is stage.post_update
        if other.phases is stage.phases and hooks and known == layout:
            return program
    step = make_train_step(run.scheme, stage)

    def update(state: TrainState, frozen: Mapping, batch: Mapping, hyper: Mapping, key: jax.Array):
        state, metrics = step(state.replace(frozen=frozen), batch, hyper, key)
        return state.replace(frozen={}), metrics

    # Frozen networks are read and not donated: the trainings of a run share one copy of a teacher.
    update = jax.jit(update, donate_argnums=0, out_shardings=(_shardings(run.state.replace(frozen={})), None))

    def program(state: TrainState, *given: Any) -> tuple[TrainState, Any]:
        new, metrics = update(state.replace(frozen={}), state.frozen, *given)
        return new.replace(frozen=state.frozen), metrics

    programs.append((stage, layout, program))
    return program


def conclude(run: Fit, directory: Path) -> dict[str, Any]:
    """Scores the last step and the best by validation on every split, against the reference; exports the networks."""
    steps, seconds, best = run.bounds[-1], run.record["seconds"], run.record["best"]
    rate = steps * run.settings.batch_size / seconds
    results: dict[str, Any] = {
        "stages": run.record["stages"],
        "steps": steps,
        "seconds": seconds,
        "examples_per_second": rate,
    }
    step = jax.jit(make_eval_step(run.scheme))
    splits = [name for name in ("validation", "test") if run.sources[name] is not None]
    for which in ("last", "best") if best else ("last",):
        if which == "best":
            run.state = run.checkpoints.restore(best["step"], run.template(best["step"]))
        if which == "last" and run.scheme.summary is not None:
            results["sections"] = run.scheme.summary(run.state, run.record)
        results[which] = {"step": int(run.state.step), **{split: run.score(step, split) for split in splits}}
        for role in evaluated_roles(run.scheme):
            if run.scheme.roles[role].group is None:
                continue  # a teacher: it was not trained here
            given = extra_inputs(run.scheme.roles[role], run.state.extra)
            network = exported(*role_variables(run.state, run.scheme, role), given)
            save_tree(directory / "export" / which / role, network)
    return results


def exported(params: PyTree, stats: PyTree, given: Mapping[str, PyTree] | None = None) -> dict[str, PyTree]:
    """The tree that an exported model is stored as: connectors, optimizers and other roles are left behind.

    `given` are the inputs that it read from TrainState.extra.
    """
    kinds = {"params": params, "stats": stats, "given": given}
    return {kind: tree for kind, tree in kinds.items() if kind == "params" or jax.tree.leaves(tree)}
