"""Ensembles of trees as teachers: fitted on the host before the run, asked there; their answers are cached.

They are models.host.HostModel, so that every term, metric and cache that takes a network's logits takes theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.models.host import HostModel, host_model
from kd_jax.ranges import Count, Positive

KINDS = ("boosting", "forest", "xgboost")
_FITTED: dict[tuple[Any, ...], Any] = {}  # one fit for all plans of a process, by what it learns from


def ensemble(
    num_classes: int,
    source: Any = None,
    kind: str = "boosting",
    trees: Count[int] = 100,
    depth: Count[int] = 6,
    learning_rate: Positive[float] = 0.1,
    floor: float = 1e-4,
    seed: int = 0,
    cached: bool = True,
) -> HostModel:
    """Returns a teacher of decision trees, fitted on the labelled rows of `source`, a set in memory of rows [n, d].

    `kind` is "boosting" (scikit-learn's HistGradientBoosting), "forest" (its RandomForest, for which there is no
    learning rate) or "xgboost". Integer labels are classes: it answers log(max(p, floor)), [batch, classes]. Float
    labels [n] are numbers to predict: it answers them, [batch, 1]. `trees` are those of a class; config.teacher reads
    raw rows where preparation.like is "raw", which trees do not need. ValueError for another kind, for rows that are
    streamed, and where the library is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"models.trees.ensemble: kind is {', '.join(map(repr, KINDS))}, not {kind!r}.")
    if source is None or source.images is None or source.labels is None:
        raise ValueError("models.trees.ensemble learns from rows in memory, [n, d] with labels; these data have none.")
    there = source.labelled
    x = (source.images[there].reshape(int(there.sum()), -1) - _each(source.mean, source)) / _each(source.std, source)
    y = source.labels[there]
    options = dict(trees=trees, depth=depth, learning_rate=learning_rate, seed=seed)
    fn = functools.partial(_answer, kind, tuple(sorted(options.items())), x.astype(np.float32), y, num_classes)
    regress = y.dtype.kind == "f"
    return host_model(fn, outputs="logits" if regress else "probabilities", floor=floor, cached=cached)


def _each(values: tuple[float, ...], source: Any) -> np.ndarray:
    """One number a column, of rows and of pictures."""
    return np.broadcast_to(np.asarray(values), source.image_shape).reshape(-1)


def fitted(model: HostModel) -> Any:
    """Returns the estimator of scikit-learn or XGBoost behind a teacher of `ensemble`: to save, to count its trees."""
    answer: Any = model.fn
    kind, options, x, y, _ = answer.args
    return _fit(kind, options, x, y)


def _fit(kind: str, options: tuple[tuple[str, Any], ...], x: np.ndarray, y: np.ndarray) -> Any:
    key = (kind, options, x.shape, hash(x.tobytes()), hash(y.tobytes()))
    if key not in _FITTED:
        _FITTED[key] = _estimator(kind, dict(options), y.dtype.kind == "f").fit(x, y)
    return _FITTED[key]


def _estimator(kind: str, options: Mapping[str, Any], regress: bool) -> Any:
    trees, depth, rate, seed = (options[name] for name in ("trees", "depth", "learning_rate", "seed"))
    if kind == "xgboost":
        try:
            import xgboost
        except ImportError as e:
            raise ValueError("models.trees.ensemble: kind='xgboost' needs it: pip install xgboost") from e
        made = xgboost.XGBRegressor if regress else xgboost.XGBClassifier
        return made(n_estimators=trees, max_depth=depth, learning_rate=rate, random_state=seed)
    try:
        from sklearn import ensemble as sklearn
    except ImportError as e:
        raise ValueError("models.trees.ensemble needs scikit-learn: pip install scikit-learn") from e
    if kind == "forest":
        made = sklearn.RandomForestRegressor if regress else sklearn.RandomForestClassifier
        return made(n_estimators=trees, max_depth=depth, random_state=seed, n_jobs=1)
    made = sklearn.HistGradientBoostingRegressor if regress else sklearn.HistGradientBoostingClassifier
    return made(max_iter=trees, max_depth=depth, learning_rate=rate, random_state=seed, early_stopping=False)


def _answer(
    kind: str, options: tuple[tuple[str, Any], ...], x: np.ndarray, y: np.ndarray, classes: int, rows: np.ndarray
) -> np.ndarray:
    """The probabilities [batch, classes] of rows, or the numbers [batch, 1]; a class that train has not has 0."""
    estimator, rows = _fit(kind, options, x, y), np.asarray(rows).reshape(len(rows), -1)
    if y.dtype.kind == "f":
        return np.asarray(estimator.predict(rows), np.float32)[:, None]
    probabilities = np.zeros((len(rows), classes), np.float32)
    probabilities[:, estimator.classes_.astype(int)] = estimator.predict_proba(rows)
    return probabilities
