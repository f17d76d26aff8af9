"""Arrays of answers as a caller has them, checked and turned into the fields of a cache."""

from __future__ import annotations

from typing import Any

import numpy as np

SUM = 1e-3  # how far the probabilities of an example may be from 1 together


def checked(where: str, arrays: dict[str, Any], classes: int | None) -> dict[str, np.ndarray]:
    """Returns the fields of a cache, in float32: logits, or log_probs, ids and tail; and features as they are named.

    `given` has logits, probabilities, or top_log_probs and top_ids, and maybe features:TAP; `where` begins a message.
    Raises ValueError for other names, for what is no number, and where `classes` do not hold an id.
    """
    features = {name: np.asarray(x, np.float32) for name, x in arrays.items() if name.startswith("features:")}
    kinds = {*arrays} - {*features}
    made: dict[str, np.ndarray]
    if kinds == {"logits"}:
        made = {"logits": _logits(where, np.asarray(arrays["logits"], np.float32))}
    elif kinds == {"probabilities"}:
        made = {"logits": _logs(where, np.asarray(arrays["probabilities"], np.float32))}
    elif kinds == {"top_log_probs", "top_ids"}:
        made = _top(where, np.asarray(arrays["top_log_probs"]), np.asarray(arrays["top_ids"]), classes)
    else:
        raise ValueError(
            f"{where} holds {', '.join(sorted(arrays)) or 'nothing'}; expected logits, or probabilities, or "
            "top_log_probs and top_ids, and maybe features:TAP."
        )
    count = len(next(iter(made.values())))
    for name, values in features.items():
        if len(values) != count:
            raise ValueError(f"{where}: {name} has {len(values)} rows, and there are {count} answers.")
        _require(where, name, np.isfinite(values))
    return made | features


def _require(where: str, what: str, good: np.ndarray) -> None:
    wrong = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{where}: {len(wrong)} of {len(good)} {what} hold values that are no numbers, the first is number "
            f"{wrong[0]}."
        )


def _at(sums: np.ndarray, example: int) -> float:
    """The sum of an example, of its tokens that which is farthest from 1."""
    row = sums[example].reshape(-1)
    return float(row[np.abs(row - 1).argmax()])


def _logits(where: str, x: np.ndarray) -> np.ndarray:
    if x.ndim < 2 or not len(x):
        raise ValueError(f"{where}: logits are [examples, ..., classes], not {x.shape}.")
    # A logit of -inf is a class that cannot be, and one class must be able to.
    possible = (np.isfinite(x) | np.isneginf(x)) & np.isfinite(x).any(axis=-1, keepdims=True)
    _require(where, "logits", possible)
    return x


def _logs(where: str, p: np.ndarray) -> np.ndarray:
    """Logits that have these probabilities; 0 becomes the smallest number that is none."""
    if p.ndim < 2 or not len(p):
        raise ValueError(f"{where}: probabilities are [examples, ..., classes], not {p.shape}.")
    _require(where, "probabilities", np.isfinite(p))
    if p.min() < 0:
        first = int(np.argwhere(p < 0)[0][0])
        raise ValueError(f"{where}: a probability is {p.min():.4g}, of example {first}: are these logits?")
    total = p.sum(axis=-1)
    if (far := np.abs(total - 1)).max() > SUM:
        first = int(np.argwhere(far > SUM)[0][0])
        raise ValueError(
            f"{where}: the probabilities of example {first} sum to {_at(total, first):.4g}, not 1: are these logits?"
        )
    return np.log(np.maximum(p, np.finfo(np.float32).tiny))


def _top(where: str, log_p: np.ndarray, ids: np.ndarray, classes: int | None) -> dict[str, np.ndarray]:
    log_p = log_p.astype(np.float32)
    if log_p.shape != ids.shape or log_p.ndim < 2 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: top_log_probs and integer top_ids are both [examples, ..., k], not {log_p.shape} and "
            f"{ids.dtype} {ids.shape}."
        )
    if ids.size and (ids.min() < 0 or (classes is not None and ids.max() >= classes)):
        allowed = f"0..{classes - 1}" if classes is not None else "0 or more"
        raise ValueError(f"{where}: top_ids are {allowed}, got {ids.min()}..{ids.max()}.")
    ordered = np.sort(ids, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        first = int(np.argwhere(ordered[..., 1:] == ordered[..., :-1])[0][0])
        raise ValueError(f"{where}: the top_ids of example {first} name a class twice.")
    _require(where, "top_log_probs", np.isfinite(log_p) | np.isneginf(log_p))
    mass = np.exp(log_p.astype(np.float64)).sum(axis=-1)
    if mass.max() > 1 + SUM or mass.min() <= 0:
        first = int(np.argwhere((mass > 1 + SUM) | (mass <= 0))[0][0])
        raise ValueError(
            f"{where}: the top_log_probs of example {first} have {_at(mass, first):.4g} of the probability together; "
            "natural logarithms of probabilities are expected."
        )
    # What is less than the rounding of float32 nobody knows; of none at all the scores would be infinite.
    tail = np.log(np.maximum(1 - mass, np.finfo(np.float32).eps)).astype(np.float32)
    return {"log_probs": log_p, "ids": ids.astype(np.int32), "tail": tail}
