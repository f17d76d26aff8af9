"""What every scheme is checked for: who moves, one device against eight, exact resume, a tiny run of its config."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import toy
from orbax.checkpoint import StandardCheckpointer

from kd_jax.core.bind import bind, init_optimizers, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.system import parallel
from kd_jax.system.checkpoint import ARRAYS, Checkpoints
from kd_jax.system.signals import Signals, Stopped
from kd_jax.train import loop
from kd_jax.train import run as train
from kd_jax.train.fit import Settings
from kd_jax.types import Scheme, TrainState

KEY = jax.random.key(0)
CONFIGS = Path(__file__).parents[2] / "configs"


def steps(
    scheme: Scheme, batch: Mapping[str, Any] | None = None, count: int = 3, stage: int = 0, mesh: Any = None
) -> tuple[TrainState, TrainState, list[dict[str, float]]]:
    """(first state, last state, history of metrics) of `count` steps of one stage on one batch (toy.batch())."""
    batch, mesh = toy.batch() if batch is None else batch, mesh or toy.mesh()
    scheme, inputs = bind(scheme, toy.shapes(batch))
    with jax.set_mesh(mesh):
        state = jax.jit(lambda: init_state(scheme, inputs, KEY, {}))()  # eagerly, every operation compiles by itself
        for number in range(1, stage + 1):
            state = init_optimizers(scheme, state, number)
        enter = scheme.stages[stage].on_enter
        state = enter(state) if enter else state
        shardings = parallel.state_shardings(state, {}, mesh)
        first, state = jax.device_get(state), jax.device_put(state, shardings)
        batch = jax.device_put(batch, parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, scheme.stages[stage]), out_shardings=(shardings, None))
        history, hyper = [], hyper_of(scheme.stages[stage])
        for _ in range(count):
            state, metrics = step(state, batch, hyper, KEY)
            history.append({k: float(total) / max(float(n), 1.0) for k, (total, n) in metrics.items()})
    assert all(np.isfinite(list(values.values())).all() for values in history)
    return first, jax.device_get(state), history


def moved(first: TrainState, last: TrainState) -> set[str]:
    """The groups whose parameters changed."""

    def differ(group: str) -> bool:
        pairs = zip(*map(jax.tree.leaves, (first.params[group], last.params[group])), strict=True)
        return any((a != b).any() for a, b in pairs)

    chex.assert_trees_all_equal(first.frozen, last.frozen)
    return {group for group in first.params if differ(group)}


def same_on_eight_devices(scheme: Scheme, last: TrainState, *args: Any, rtol: float = 1e-3, **kwargs: Any) -> None:
    """`last` is what `steps(scheme, *args, **kwargs)` returned on one device."""
    _, spread, _ = steps(scheme, *args, mesh=toy.mesh(4, 2), **kwargs)
    chex.assert_trees_all_close(last.params, spread.params, rtol=rtol, atol=1e-4)


def resumes_exactly(
    scheme: Scheme, directory: Path, monkeypatch: Any, stop: int, sources: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A run that is stopped after step `stop` and started again ends as one that was not. Returns its results."""
    if sources is None:
        held_out = {split: toy.source(16, split) for split in ("validation", "test")}
        sources = {"train": toy.source(48), **held_out}
    settings = Settings(batch_size=16, seed=0, log_every=2, eval_every=4, eval_batch_size=16)
    whole = loop.fit(scheme, sources, settings, directory / "whole", toy.mesh())
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "stop_at", lambda self, step: step == stop)
        try:
            loop.fit(scheme, sources, settings, directory / "parts", toy.mesh())
            raise AssertionError(f"The run has no step {stop}.")
        except Stopped:
            pass
    parts = loop.fit(scheme, sources, settings, directory / "parts", toy.mesh())
    timed = ("seconds", "examples_per_second", "finished")
    one, other = ({k: v for k, v in r.items() if k not in timed} for r in (whole, parts))
    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    chex.assert_trees_all_equal(*(newest_arrays(directory / name) for name in ("whole", "parts")))
    return whole


def newest_arrays(directory: Path) -> Any:
    """The arrays of the newest checkpoint as they lie there: no program is made to read them."""
    newest = max(int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit())
    return StandardCheckpointer().restore((directory / "checkpoints" / str(newest) / ARRAYS).absolute())


def last_state(scheme: Scheme, sources: Mapping[str, Any], settings: Settings, directory: Path) -> Any:
    """What the newest checkpoint holds."""
    mesh, checkpoints = toy.mesh(), Checkpoints(directory / "checkpoints", settings.keep)
    with jax.set_mesh(mesh):
        state = loop.begin(scheme, sources, settings, mesh, checkpoints).state
        checkpoints.close()
    saved = dataclasses.replace(state, frozen={})
    return jax.device_get(saved)


def config_module(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tiny(name: str, variant: str, directory: Path, report: bool = False, baseline: bool = False) -> dict[str, Any]:
    """A run of a variant of a config with the flag `tiny`: results. A `baseline` is trained where both ask for one."""
    config = config_module(name).get_config(f"{variant},tiny")
    config.report, config.baseline = report, config.baseline and baseline
    results = train.run(config, directory)
    assert 0 <= results["models"]["student"]["last"]["test"]["accuracy"] <= 1
    return results
