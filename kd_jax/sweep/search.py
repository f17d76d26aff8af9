"""Search in place of a grid: Optuna proposes settings, the headline on validation judges, poor ones may be cut short.

Bayesian: Bergstra, Bardenet, Bengio, Kegl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE). ASHA: Li,
Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar, "A System for Massively Parallel Hyperparameter
Tuning", 2018, arXiv 1810.05934; its resource is the number of evaluations on the validation split.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.files import path_of, write_json
from kd_jax.resolve import near
from kd_jax.sweep.measured import measure
from kd_jax.sweep.programs import Program, begun, check_point, programs_of, train_program
from kd_jax.sweep.references import references
from kd_jax.sweep.run import RESULTS, check, collect, present, read
from kd_jax.sweep.spec import Point, Spec
from kd_jax.system import parallel, workdir
from kd_jax.types import Headline

PRUNERS = ("none", "asha", "median")
STORY = "study.journal"
Report = Callable[[int, float], None]  # (number of the evaluation, score to maximise); raises to end the trial


def optuna_module() -> Any:
    """Imports Optuna, quietened. Raises ValueError that says how to install it where it is missing."""
    try:
        import optuna
    except ImportError as e:
        raise ValueError("A search needs Optuna: pip install 'kd_jax[search]', or pip install optuna.") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def make_pruner(name: str) -> Any:
    """Returns the pruner of Optuna with this name, one of PRUNERS; raises ValueError for another.

    asha: of those that reach 1, 3, 9, ... evaluations the best third goes on. median: the better half, after two.
    """
    optuna = optuna_module()
    if name not in PRUNERS:
        raise ValueError(f"--pruner={name}: {near(name, PRUNERS)}")
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.MedianPruner(n_warmup_steps=1) if name == "median" else optuna.pruners.NopPruner()


def suggest(trial: Any, spec: Spec) -> Point:
    """Asks the trial for a value of every field but the seed."""
    point = {f: trial.suggest_categorical(f, list(v)) for f, v in spec.choices.items() if f != "seed"}
    for field, interval in spec.ranges.items():
        if interval.kind == "int":
            point[field] = trial.suggest_int(field, int(interval.low), int(interval.high))
        else:
            point[field] = trial.suggest_float(field, interval.low, interval.high, log=interval.kind == "log")
    return point


def ends(spec: Spec) -> list[Point]:
    """Returns points that have, between them, every choice and both ends of every range: all that can be proposed."""
    values = {**spec.choices, **{f: (r.low, r.high) for f, r in spec.ranges.items()}}
    values |= {f: (int(r.low), int(r.high)) for f, r in spec.ranges.items() if r.kind == "int"}
    first = {field: options[0] for field, options in values.items()}
    return [{**first, field: option} for field, options in values.items() for option in options]


def search(
    objective: Callable[[Point, Report], float],
    spec: Spec,
    root: Path,
    trials: int,
    pruner: str = "none",
    seed: int = 0,
) -> Any:
    """Returns the Optuna study of `trials` finished or pruned trials that maximise `objective(point, report)`.

    The study is a file in `root`: a search that was killed goes on, its unfinished trials first, with the values they
    had. Raises ValueError for fewer trials than one, and for values that are neither numbers nor names.
    """
    optuna = optuna_module()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if trials < 1:
        raise ValueError(f"--trials={trials}: at least 1.")
    for field, values in spec.choices.items():
        if wrong := [v for v in values if not isinstance(v, (bool, int, float, str, type(None)))]:
            raise ValueError(f"A search chooses among numbers and names; {field} has {wrong[0]!r}.")
    chosen, states = make_pruner(pruner), optuna.trial.TrialState
    root.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(root / STORY))),
        study_name="search",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=chosen,
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params)

    def ended() -> int:
        return len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))

    while ended() < trials:
        trial = study.ask()
        point = suggest(trial, spec)

        def report(number: int, value: float, trial: Any = trial) -> None:
            trial.report(value, number)
            if not math.isfinite(value) or trial.should_prune():
                raise optuna.TrialPruned

        try:
            study.tell(trial, objective(point, report))
        except optuna.TrialPruned:
            study.tell(trial, state=states.PRUNED)
    return study


def run(config: ConfigDict, spec: Spec, directory: str | Path, trials: int, pruner: str = "none") -> dict[str, Any]:
    """Searches the spec in `directory`; prints and writes what sweep.run does, of the trials that were not cut short.

    An unfinished search goes on, a finished one is read, or goes on to more trials; another one is refused.

    The seeds of the spec are the members of every trial, and the mean of their validation scores its value. The
    test set is scored and never looked at. The table is that of sweep.run.
    """
    start, root = time.monotonic(), path_of(directory, "workdir")
    parallel.start_processes(config.distributed)
    if jax.process_count() > 1:
        raise ValueError("A search runs in one process; start several with workdirs of their own.")
    mesh, config = parallel.make_mesh(config.mesh.axes), begun(config, root)
    _check_spec(config, spec)
    seeds = spec.choices.get("seed", (config.seed,))
    ranges = {f: (r.kind, r.low, r.high) for f, r in spec.ranges.items()}
    asked = {"config": workdir.plain(config), "sweep": workdir.plain(spec.choices), "ranges": workdir.plain(ranges)}
    asked |= {"pruner": pruner}  # and any number of trials: with more of them a search goes on
    optuna_module()  # where it is missing, say so before the workdir is made
    first = programs_of(config, [{**_first(spec), "seed": seeds[0]}], root, mesh)[0]
    check(root, asked, first.digests["student"])
    if (finished := read(root, asked | {"trials": trials})) is not None:
        return present(finished, root)
    runs_of: dict[str, list[dict[str, Any]]] = {}  # by the fingerprint of the trial's values
    latest: list[Program] = []  # of the last trial

    def objective(point: Point, report: Report) -> float:
        latest[:] = programs_of(config, [{**point, "seed": seed} for seed in seeds], root, mesh)
        runs = runs_of[workdir.fingerprint(point)] = _train_trial(latest, len(seeds), mesh, report)
        return _value(point, runs, latest[0].headline)

    with workdir.locked(root):
        workdir.claim(root, asked, first.digests["student"])
        study = search(objective, spec, root, trials, pruner, config.seed)
    ended = [t for t in study.get_trials() if t.state.name in ("COMPLETE", "PRUNED")]
    complete = {workdir.fingerprint(t.params): t.params for t in ended if t.state.name == "COMPLETE"}
    _require_complete(complete, ended)
    runs = []
    for name, point in complete.items():
        if name not in runs_of:  # of an earlier process: read back
            objective(point, lambda *_: None)
        runs += runs_of[name]
    with workdir.locked(root):
        models = references(config, runs, latest[0].headline, root, mesh)
        sections = measure(config, runs, models, latest[0].headline, root, mesh)
    results = (
        asked
        | {"trials": trials}
        | collect(runs, latest[0].headline, models)
        | {
            "title": f"{config.title or latest[0].data}: search of {len(ended)} trials, "
            f"{len(ended) - len(complete)} cut short",
            "sections": sections,
            "wall_seconds": time.monotonic() - start,
            "tried": [{"point": t.params, "state": t.state.name, "value": t.value} for t in ended],
        }
    )
    write_json(root / RESULTS, results)
    return present(results, root)


def _check_spec(config: ConfigDict, spec: Spec) -> None:
    """Raises ValueError where nothing is searched, and for a value that does not fit."""
    if set(spec.fields) <= {"seed"}:
        raise ValueError(
            "--trials search, and this --sweep varies the seed alone, of which every trial has all values: leave "
            "--trials out, or add a field such as train.optimizer.learning_rate=log:1e-3..1e-1."
        )
    for point in ends(spec):
        check_point(config, point)


def _require_complete(complete: Mapping[str, Any], ended: Sequence[Any]) -> None:
    if not complete:
        tried = "; ".join(", ".join(f"{k}={v}" for k, v in t.params.items()) for t in ended[:3])
        raise ValueError(
            f"All {len(ended)} trials diverged or were cut short before they had a score ({tried}, ...): there is no "
            "best one. Try smaller learning rates, in another workdir."
        )


def _first(spec: Spec) -> Point:
    """A point of the search, by which to tell before it begins what does not fit, and what all trials are given."""
    ends = {f: int(r.low) if r.kind == "int" else float(r.low) for f, r in spec.ranges.items()}
    return {**{f: values[0] for f, values in spec.choices.items()}, **ends}


def _train_trial(programs: Sequence[Program], seeds: int, mesh: Mesh, report: Report) -> list[dict[str, Any]]:
    """Trains the programs of a trial; returns their runs."""
    runs: list[dict[str, Any]] = []
    for program in programs:
        whole = len(program.points) == seeds  # part of a trial does not judge it
        runs += train_program(program, mesh, _watch(program, report) if whole else None)
    return runs


def _value(point: Point, runs: Sequence[Mapping[str, Any]], headline: Headline) -> float:
    """Returns the mean validation score of a trial's runs, to maximise; ends the trial as pruned if one diverged."""
    if any(run["diverged"] for run in runs):
        raise optuna_module().TrialPruned
    value = statistics.fmean(run["validation"] for run in runs)
    print(f"{headline.metric} {value:.4f} on validation: {', '.join(f'{k}={v}' for k, v in point.items())}")
    return headline.sign * value


def _watch(program: Program, report: Report) -> Callable[[int, list[float]], None]:
    """Returns what tells the trial the mean score of its seeds, and ends it where the pruner says so."""

    def watch(step: int, values: list[float]) -> None:
        try:
            report(-(-step // program.eval_every), program.headline.sign * statistics.fmean(values))
        except BaseException:
            print(f"cut short at step {step}: {', '.join(f'{k}={v}' for k, v in program.points[0].items())}")
            raise

    return watch
