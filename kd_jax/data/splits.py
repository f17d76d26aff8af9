"""Functions of labels and a seed that choose the examples of a split, and the labels that stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (remaining rows, held-out rows), both sorted; ceil(fraction * n) of the n labelled rows are held out.

    Of each class floor(share) rows are held out, and the rest from those with the largest remainders, so each class is
    within one row of its exact share. Rows without a label (-1) always remain. ValueError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"a held-out fraction is in [0, 1), got {fraction}")
    rows = np.flatnonzero(labels >= 0)
    total = math.ceil(fraction * len(rows) - 1e-9)
    if total == 0:
        return np.arange(len(labels)), np.zeros(0, np.int64)
    classes, counts = np.unique(labels[rows], return_counts=True)
    share = counts * (total / len(rows))
    quota = np.floor(share + 1e-9).astype(int)
    quota[np.argsort(quota - share, kind="stable")[: total - quota.sum()]] += 1
    rng = np.random.default_rng((seed, 1))
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:q] for c, q in zip(classes, quota, strict=True)]
    held = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), held), held


def check_counts(what: str, total: int, counts: Sequence[int], fields: Any) -> None:
    """Raises ValueError where the shares `fields.test` and `fields.validation`, rounded to `counts`, empty a split."""
    test, validation = counts
    if not test or test + validation >= total or (fields.validation and not validation):
        raise ValueError(
            f"{total} {what} with data.test={fields.test} and data.validation={fields.validation} leave "
            f"{total - test - validation} to train on, {validation} to validate with and {test} to test on."
        )


def strata(labels: np.ndarray) -> np.ndarray:
    """Returns the class of each example for `hold_out`: one class for all where labels are no classes, or hidden."""
    classes = labels.ndim == 1 and labels.dtype.kind in "iu"
    return labels if classes and (labels >= 0).any() else np.zeros(len(labels), np.int32)


def keep_any(labels: np.ndarray, labelled: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
    """Returns labels of which all but `count` are hidden (nan among floats, else -1), drawn from `labelled` rows.

    For labels that are no classes. With the same seed a larger count keeps what a smaller one kept.
    """
    rows = np.flatnonzero(labelled)
    if not 0 <= count <= len(rows):
        raise ValueError(f"labels={count}: there are {len(rows)} labels (0 keeps all)")
    hidden = np.random.default_rng((*seed, 2)).permutation(rows)[count:]
    out = labels.copy()
    out[hidden] = np.nan if labels.dtype.kind == "f" else -1
    return out


def keep_labels(labels: np.ndarray, count: int, num_classes: int, seed: tuple[int, ...]) -> np.ndarray:
    """Returns the labels with all but `count` set to -1; every class keeps count // num_classes, or one more.

    With the same seed, a larger count keeps all that a smaller one keeps. ValueError where a class has too few.
    """
    rng = np.random.default_rng((*seed, 2))
    quota = np.full(num_classes, count // num_classes)
    quota[rng.permutation(num_classes)[: count % num_classes]] += 1
    have = np.bincount(labels[labels >= 0], minlength=num_classes)
    if count < 0 or (have < quota).any():
        short = int(np.argmin(have - quota))
        raise ValueError(
            f"labels={count} needs {quota[short]} labels of each of {num_classes} classes, but class {short} has "
            f"{have[short]} (0 keeps all labels; at most {num_classes * int(have.min())} can be kept in balance)"
        )
    out = np.full_like(labels, -1)
    for c in range(num_classes):
        rows = rng.permutation(np.flatnonzero(labels == c))[: quota[c]]
        out[rows] = c
    return out


def shuffled(n: int, seed: int) -> np.ndarray:
    """Returns a fixed random order of n rows, from which slices are taken: files may be sorted by class."""
    return np.random.default_rng((seed, 3)).permutation(n)


def wrong_labels(labels: np.ndarray, share: float, num_classes: int, seed: int) -> np.ndarray:
    """Returns the labels with round(share * n) of the n that are not -1 changed to another class, chosen uniformly."""
    if not 0 <= share <= 1:
        raise ValueError(f"label_noise is a share in [0, 1], got {share}")
    labelled = np.flatnonzero(labels >= 0)
    rng = np.random.default_rng((seed, 3))
    chosen = rng.choice(labelled, size=round(share * len(labelled)), replace=False)
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return wrong
