"""A mistake that a user makes, the sentence that answers it, and when: rows of tests/mistakes and of docs/checks.md."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import numpy as np
import pytest

import kd_jax

CLASSES, FEATURES = 4, 6
EXPECTED = (ValueError, OSError, FloatingPointError)  # what the command prints as one line
# "command": before anything is loaded; "start": before the first step of any training; "reading": when a file is
# read again; "training": in the first step, evaluation or sample that can show it; "end": when the run is reported.
When = Literal["command", "start", "reading", "training", "end"]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`do(folder)` makes the mistake in an empty folder; `says` is a part of the answer, "…" stands for anything.

    It is an error unless `goes_on`: then the run prints the sentence and goes on.
    """

    what: str
    says: str
    do: Callable[[Path], Any]
    when: When = "start"
    goes_on: bool = False


def each(rows: list[Mistake]) -> Any:
    return pytest.mark.parametrize("mistake", rows, ids=[row.what for row in rows])


def check(mistake: Mistake, folder: Path, capsys: Any) -> None:
    """Makes the mistake, and holds the sentence and its time against the row."""
    pattern = ".*".join(re.escape(part) for part in mistake.says.split("…"))
    if mistake.goes_on:
        mistake.do(folder)
        printed = capsys.readouterr()
        assert re.search(pattern, printed.out + printed.err), printed.out + printed.err
        return
    with pytest.raises(EXPECTED) as raised:
        mistake.do(folder)
    assert re.search(pattern, str(raised.value)), str(raised.value)
    if mistake.when in ("command", "start"):
        assert not list(folder.rglob("metrics.jsonl")), "a training began before the mistake was seen"


class MLP(nn.Module):
    """Taps "embedding" and "head"."""

    width: int = 8
    classes: int = CLASSES

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width, name="embedding")(x.reshape(len(x), -1)))
        return nn.Dense(self.classes, name="head")(x)


def points(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    centres = np.random.default_rng(7).normal(size=(CLASSES, FEATURES))
    return (centres[labels] + rng.normal(size=(n, FEATURES))).astype(np.float32), labels.astype(np.int32)


def data(n: int = 120, seed: int = 0, validation: float = 0.2) -> Any:
    (x, y), test = points(n, seed), points(40, seed + 1)
    return kd_jax.from_arrays(train=(x, y), test=test, validation=validation)


def config(terms: Any = "kd", steps: int = 2, **fields: Any) -> Any:
    """A run of seconds; `fields` are paths with "__" for ".": config(train__batch_size=0)."""
    made = kd_jax.base()
    made.terms = kd_jax.compose(terms) if isinstance(terms, str) else terms
    made.train.steps = made.teacher.train.steps = steps
    made.train.batch_size = made.teacher.train.batch_size = 16
    made.baseline = made.report = False
    made.mesh.axes.data = 1  # of the eight devices: a program for one takes a fifth less time to make
    with made.unlocked():
        for path, value in fields.items():
            *parents, last = path.split("__")
            owner = made
            for name in parents:
                owner = owner[name]
            owner[last] = value
    return made


def run(folder: Path, made: Any = None, **arguments: Any) -> dict[str, Any]:
    """kd_jax.run with the small networks and data, unless `arguments` has others."""
    arguments = {"student": MLP(), "teacher": MLP(16), "data": data(), **arguments}
    return kd_jax.run(config() if made is None else made, folder / "run", **arguments)


def wrong(**fields: Any) -> Callable[[Path], Any]:
    """What to do in a row whose mistake lies in fields of the config alone."""
    return lambda folder: run(folder, config(**fields))
