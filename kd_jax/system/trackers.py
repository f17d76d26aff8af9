"""Metrics of a run in an experiment tracker: Weights & Biases, Trackio or MLflow, each a package of its own."""

from __future__ import annotations

import importlib
import math
import numbers
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd_jax.resolve import near

TRACKERS = ("wandb", "trackio", "mlflow")


class Tracker:
    """Writes scalars to the run NAME of the project PROJECT, for a training in the folder .../PROJECT/NAME.

    What a package is told by its environment variables holds (WANDB_MODE=offline, TRACKIO_DIR, MLFLOW_TRACKING_URI):
    nothing is sent anywhere that they do not name. A resumed training goes on in its run where the tracker allows it.
    `kind` "" and `enabled=False` (all processes but the first) do nothing. Raises ValueError for another kind, and
    ImportError, with the command that installs it, for a package that is missing.
    """

    def __init__(self, kind: str, directory: Path, resume_step: int | None = None, enabled: bool = True) -> None:
        check(kind)
        self._log: Callable[[dict[str, float], int], Any] | None = None
        self._end: Callable[[], Any] = lambda: None
        if kind and enabled:
            place = directory.resolve()
            begin = {"wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}[kind]
            self._log, self._end = begin(place, resume_step is not None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the finite numbers among the values; texts, lists and None are left out."""
        if self._log is not None:
            self._log({k: float(v) for k, v in sorted(values.items()) if _is_number(v)}, step)

    def close(self) -> None:
        if self._log is not None:
            self._log = None
            self._end()


def check(kind: str) -> None:
    """Raises ValueError for a word that is no tracker, and ImportError for one that is not installed."""
    if kind not in ("", *TRACKERS):
        raise ValueError(f"config.tracker={kind!r}. {near(kind, TRACKERS)}")
    if kind:
        _package(kind)


def _package(kind: str) -> Any:
    try:
        return importlib.import_module(kind)
    except ImportError as e:
        raise ImportError(f"config.tracker={kind!r} needs a package that is not there: pip install {kind} ({e})") from e


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _wandb(place: Path, resumed: bool) -> tuple[Any, Any]:
    # The identity of a run is its folder, so that a resumed training finds it again.
    identity = "-".join(place.parts[-3:]).strip("/") or place.name
    options = dict(project=place.parent.name, name=place.name, id=identity, dir=str(place))
    run = _package("wandb").init(**options, resume="allow" if resumed else None)
    return lambda values, step: run.log(values, step=step), run.finish


def _trackio(place: Path, resumed: bool) -> tuple[Any, Any]:
    options = dict(project=place.parent.name, name=place.name, embed=False)
    run = _package("trackio").init(**options, resume="allow" if resumed else "never")
    return lambda values, step: run.log(values, step=step), run.finish


def _mlflow(place: Path, resumed: bool) -> tuple[Any, Any]:
    package, runs = _package("mlflow"), []
    package.set_experiment(place.parent.name)
    if resumed:
        query = f"attributes.run_name = '{place.name}'"
        runs = package.search_runs(filter_string=query, max_results=1, output_format="list")
    run = package.start_run(run_id=runs[0].info.run_id) if runs else package.start_run(run_name=place.name)
    number, client = run.info.run_id, package.MlflowClient()
    package.end_run()  # the client writes on: a run that is current would be the user's too

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            client.log_metric(number, name.replace("@", "-").replace(":", "-"), value, step=step)

    return log, lambda: client.set_terminated(number)
