"""The one training loop: restore -> for every stage (on_enter -> steps, evaluations, saves) -> score last and best.

What it writes into its directory: checkpoints/, metrics.jsonl, tensorboard/, and done.json at the end. Everything but
the clock is a pure function of (scheme, data, seed), so a killed run that is started again ends in the same bytes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kd_jax.core.bind import bind, create_state
from kd_jax.core.evaluate import scored_by
from kd_jax.core.many import Runs, Single
from kd_jax.data.batches import batch_shapes
from kd_jax.data.source import Source
from kd_jax.files import told_of_full_disk, write_json
from kd_jax.prng import Keys
from kd_jax.system import heartbeat, parallel, workdir
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.system.log import Log, NonFiniteLoss, Profile
from kd_jax.system.progress import Progress
from kd_jax.system.signals import Signals, Stopped, stopped_by
from kd_jax.train import dispatch
from kd_jax.train.about import About
from kd_jax.train.finish import conclude
from kd_jax.train.fit import DONE, Fit, Settings, Watch
from kd_jax.train.nonfinite import cause_of
from kd_jax.types import Scheme, TrainState


@told_of_full_disk()
def fit(
    scheme: Scheme,
    sources: Mapping[str, Source | None],
    settings: Settings,
    directory: Path,
    mesh: Mesh,
    title: str = "",
    members: Runs | None = None,
    watch: Watch | None = None,
    about: About | None = None,
) -> dict[str, Any]:
    """Trains `scheme` and returns what done.json holds: the last step and the best by validation, on every split.

    `sources` maps split names to data: the stages' splits, "validation" (or None) and "test". Checkpoints are left in
    `<directory>/checkpoints`, the networks alone in `<directory>/export/<last|best>/<role>`. With `members` it trains
    all of them at once, and the results and exports of each are under its number. `watch` is told of each validation.
    `about` is what the exports say beside what the scheme knows.
    Raises NonFiniteLoss, Stopped or KeyboardInterrupt once all is saved, and ValueError for whatever does not fit
    together, or where another run works there.
    """
    with workdir.locked(directory), jax.set_mesh(mesh):
        run = begin(scheme, sources, settings, mesh, Checkpoints(directory / "checkpoints", settings.keep), members)
        run.about = about or About()
        step, steps, lead = int(run.state.step), run.bounds[-1], parallel.is_lead()
        progress = Progress(title, steps, step, settings.batch_size, enabled=lead)
        if run.resumed:
            progress.print(f"{title}: resumed at step {step} of {steps}")
        begun = step if run.resumed else None
        log = Log(directory, run.record, begun, settings.log_every, progress, settings.tracker)
        with contextlib.ExitStack() as ends:  # each of them, whatever another raises
            for end in (run.checkpoints.wait, log.close, progress.close):
                ends.callback(end)
            try:
                with (
                    heartbeat.together(),
                    Signals() as signals,
                    Profile(directory / "profile", *settings.profile) as profile,
                ):
                    train(run, log, signals, profile, watch)
            except NonFiniteLoss as e:
                if cause := cause_of(run, e.step):
                    raise NonFiniteLoss(e.what, e.step, cause) from None
                raise
            except (Stopped, KeyboardInterrupt) as e:
                if by := stopped_by(e):
                    at = int(run.state.step)
                    progress.print(f"{title}: stopped at step {at} by {by} and saved; run it again to resume.")
                raise
        results = conclude(run, directory) | {"finished": workdir.now()}
        run.checkpoints.close()
    if lead:
        write_json(directory / DONE, results)
    return results


def begin(
    scheme: Scheme,
    sources: Mapping[str, Source | None],
    settings: Settings,
    mesh: Mesh,
    checkpoints: Checkpoints,
    members: Runs | None = None,
) -> Fit:
    """Binds the scheme to the shape of a batch, creates its state sharded, restores the newest checkpoint if any."""
    parallel.check_batch_size(mesh, settings.batch_size, "batch_size")
    parallel.check_batch_size(mesh, settings.eval_batch_size, "eval_batch_size")
    parallel.check_roles(settings.rules, scheme)

    members = members or Single(settings.seed)

    def create_keys() -> Keys:
        return Keys(members.keys(), jax.random.key(settings.data_seed))

    keys = parallel.create_everywhere(create_keys, mesh)
    record = {"accumulator": {}, "best": {}, "seconds": 0.0, "stages": []}
    run = Fit(scheme, {}, None, keys, sources, settings, mesh, checkpoints, record, members)
    shapes = batch_shapes(sources[scheme.stages[0].data], settings.batch_size)
    run.scheme, run.inputs = bind(scheme, shapes, settings.accumulate)
    run.state = create_state(run.scheme, run.first, run.abstract(0), create_keys().own)
    if newest := checkpoints.restore_newest(run.template):
        run.state, run.record, run.resumed = *newest, True
    return run


def enter(run: Fit, number: int, step: int) -> TrainState:
    """Returns the state at `step` of a stage.

    At the first step of the stage that is the state after its `on_enter`, with new optimizers where they change.
    """
    if step != run.bounds[number]:
        return run.state
    state = run.state
    on_enter = run.scheme.stages[number].on_enter
    if on_enter is not None:
        state = on_enter(state)
    if number == 0:
        return state
    shardings = dispatch.shardings_of(run.abstract(number))
    return jax.jit(lambda s: run.fresh(s, number), out_shardings=shardings)(state)


def steps_ahead(mesh: Mesh) -> int:
    """Returns how many steps may wait on the device behind the one that runs: enough to hide Python, little memory.

    None may on a mesh of simulated CPU devices, whose collectives can starve one another of threads and abort.
    """
    return 0 if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else 2


def record_stage(run: Fit, eval_step: Callable[..., Any], name: str, step: int) -> None:
    """Adds the scores of a stage that has ended to the record, on the splits that the scheme asks for."""
    if run.scheme.stage_splits:
        scores = {split: run.score(eval_step, split) for split in run.scheme.stage_splits}
        run.record["stages"].append({"stage": name, "step": step, **scores})


def validate(run: Fit, eval_step: Callable[..., Any], log: Log, step: int, selects: bool, watch: Watch | None) -> None:
    """Scores the validation split, notes the best step where the stage `selects`, and tells `watch`."""
    log.flush(step)
    values = run.score(eval_step, "validation")
    flat = {f"{r}/{k}": v for r, m in values.items() for k, v in m.items() if not isinstance(v, list | dict)}
    log.write(step, {"kind": "validation", **flat})
    headline = scored_by(run.scheme).headline
    scores = [values[prefix + run.scheme.evaluate[0]].get(headline.metric) for prefix in run.prefixes]
    for prefix, score in zip(run.prefixes, scores, strict=True):
        best = run.record["best"].get(prefix)
        better = score is not None and (best is None or headline.sign * (score - best[headline.metric]) > 0)
        if selects and better:  # a split without labels has no score, and chooses nothing
            run.record["best"][prefix] = {"step": step, headline.metric: score}
    if watch is not None and None not in scores:
        watch(step, scores)


def save(run: Fit, log: Log, step: int, began: float) -> None:
    """Saves state and record; `began` is the time at which an unbroken run would have begun."""
    log.flush(step)  # before the save, so that a checkpoint never holds a nan that the log has not seen
    run.record["seconds"] = time.monotonic() - began
    run.checkpoints.save(run.state, run.record, [best["step"] for best in run.record["best"].values()])


@dataclasses.dataclass
class InFlight:
    """The metrics of the calls that the device may still work on: `most` may wait behind the one that runs."""

    most: int
    calls: collections.deque[Any] = dataclasses.field(default_factory=collections.deque)

    def idle(self) -> bool:
        return not self.calls or jax.tree.leaves(self.calls[-1])[0].is_ready()

    def add(self, metrics: Any) -> None:
        self.calls.append(metrics)
        if len(self.calls) > self.most:
            jax.block_until_ready(self.calls.popleft())


def train(run: Fit, log: Log, signals: Signals, profile: Profile, watch: Watch | None) -> None:
    """Takes the steps that are left of every stage.

    Raises Stopped or KeyboardInterrupt, with everything saved, when it is asked to stop.
    """
    step, bounds = int(run.state.step), run.bounds
    eval_step = run.eval_step(dataclasses.replace(run.scheme, reference=None))
    began = time.monotonic() - run.record["seconds"]
    in_flight, programs = InFlight(steps_ahead(run.mesh)), []
    calls = step
    for number, stage in enumerate(run.scheme.stages):
        if step >= bounds[number + 1]:
            continue
        run.state = enter(run, number, step)
        hyper = parallel.create_everywhere(functools.partial(run.hyper, number), run.mesh)
        jitted = dispatch.compiled(run, stage, programs)
        with jax.transfer_guard("disallow"):
            calls_left = dispatch.dispatches(run, stage.data, bounds[number], step, bounds[number + 1])
            for count, data in log.data_wait.around(calls_left, in_flight.idle):
                profile.before(step + 1, count)
                run.state, metrics = jitted[count](run.state, *data, hyper, run.keys)
                step, calls = step + count, calls + 1
                profile.after(step, metrics)
                log.add(step, metrics, count)
                in_flight.add(metrics)
                stop = signals.stop_at(calls)  # processes agree on one of the next calls
                ends = step == bounds[number + 1]
                due = step % run.settings.eval_every == 0 or ends
                if due and run.sources["validation"] is not None:
                    validate(run, eval_step, log, step, stage.selects, watch)
                if ends:
                    record_stage(run, eval_step, stage.name or str(number), step)
                if due or stop:
                    save(run, log, step, began)
                if stop:
                    run.checkpoints.wait()
                    raise signals.ending()
