"""Search in place of a grid: Optuna proposes settings, validation accuracy judges them, poor ones may be cut short.

Bayesian: Bergstra, Bardenet, Bengio, Kegl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011 (TPE). ASHA: Li,
Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar, "A System for Massively Parallel Hyperparameter
Tuning", 2018, arXiv 1810.05934; its resource is the number of evaluations on the validation split.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from kd_jax.files import write_json
from kd_jax.resolve import near
from kd_jax.sweep import run as sweep
from kd_jax.sweep.spec import Point, Spec
from kd_jax.system import parallel, workdir

PRUNERS = ("none", "asha", "median")
STORY = "study.journal"
Report = Callable[[int, float], None]  # (number of the evaluation, score to maximise); raises to end the trial


def optuna_module() -> Any:
    try:
        import optuna
    except ImportError as e:
        raise ValueError("A search needs Optuna: pip install 'kd_jax[search]', or pip install optuna.") from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def make_pruner(name: str) -> Any:
    """asha: of those that reach 1, 3, 9, ... evaluations the best third goes on. median: the better half, after two."""
    optuna = optuna_module()
    if name not in PRUNERS:
        raise ValueError(f"--pruner={name}: {near(name, PRUNERS)}")
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.MedianPruner(n_warmup_steps=1) if name == "median" else optuna.pruners.NopPruner()


def suggest(trial: Any, spec: Spec) -> Point:
    """The values of a trial for every field but the seed."""
    point = {f: trial.suggest_categorical(f, list(v)) for f, v in spec.choices.items() if f != "seed"}
    for field, found in spec.ranges.items():
        if found.kind == "int":
            point[field] = trial.suggest_int(field, int(found.low), int(found.high))
        else:
            point[field] = trial.suggest_float(field, found.low, found.high, log=found.kind == "log")
    return point


def search(
    objective: Callable[[Point, Report], float],
    spec: Spec,
    root: Path,
    trials: int,
    pruner: str = "none",
    seed: int = 0,
) -> Any:
    """The Optuna study of `trials` finished or pruned trials that maximise `objective(point, report)`.

    It is kept in `root`: a search that was killed goes on, its unfinished trials first, with the values they had.
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

    The seeds of the spec are the members of every trial, and the mean of their validation scores its value. The
    test set is scored and never looked at. The table is that of sweep.run.
    """
    start, root = time.monotonic(), Path(directory)
    parallel.start_processes(config.distributed)
    if jax.process_count() > 1:
        raise ValueError("A search runs in one process; start several with workdirs of their own.")
    mesh, config = parallel.make_mesh(config.mesh.axes), sweep.begun(config, root)
    seeds = spec.choices.get("seed", (config.seed,))
    ranges = {f: (r.kind, r.low, r.high) for f, r in spec.ranges.items()}
    asked = {"config": workdir.plain(config), "sweep": workdir.plain(spec.choices), "ranges": workdir.plain(ranges)}
    asked |= {"trials": trials, "pruner": pruner}
    if (known := sweep.read(root, asked)) is not None:
        return sweep.present(known, root)
    found: dict[str, list[dict[str, Any]]] = {}
    latest: list[sweep.Program] = []
    optuna = optuna_module()

    def objective(point: Point, report: Report) -> float:
        programs = sweep.programs_of(config, [{**point, "seed": seed} for seed in seeds], root, mesh)
        latest[:], runs, headline = programs, [], programs[0].headline
        for program in programs:
            whole = len(program.points) == len(seeds)  # part of a trial does not judge it
            runs += sweep.train_program(program, mesh, _watch(program, config, report) if whole else None)
        found[workdir.fingerprint(point)] = runs
        if any(run["diverged"] for run in runs):
            raise optuna.TrialPruned
        value = statistics.fmean(run["validation"] for run in runs)
        print(f"{headline.metric} {value:.4f} on validation: {', '.join(f'{k}={v}' for k, v in point.items())}")
        return headline.sign * value

    with workdir.locked(root):
        study = search(objective, spec, root, trials, pruner, config.seed)
    ended = [t for t in study.get_trials() if t.state.name in ("COMPLETE", "PRUNED")]
    complete = {workdir.fingerprint(t.params): t.params for t in ended if t.state.name == "COMPLETE"}
    runs = []
    for name, point in complete.items():
        if name not in found:  # of an earlier process: read back
            objective(point, lambda *_: None)
        runs += found[name]
    results = (
        asked
        | sweep.collect(runs, latest[0].headline)
        | {
            "title": f"{config.title or latest[0].data}: search of {len(ended)} trials, "
            f"{len(ended) - len(complete)} cut short",
            "wall_seconds": time.monotonic() - start,
            "tried": [{"point": t.params, "state": t.state.name, "value": t.value} for t in ended],
        }
    )
    write_json(root / sweep.RESULTS, results)
    return sweep.present(results, root)


def _watch(program: sweep.Program, config: ConfigDict, report: Report) -> Callable[[int, list[float]], None]:
    """Tells the trial of the mean score of its seeds; ends it where the pruner says so."""

    def watch(step: int, values: list[float]) -> None:
        try:
            report(-(-step // config.eval_every), program.headline.sign * statistics.fmean(values))
        except BaseException:
            print(f"cut short at step {step}: {', '.join(f'{k}={v}' for k, v in program.points[0].items())}")
            raise

    return watch
