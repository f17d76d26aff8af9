"""Ranges of numbers: what lies in them, how they are said, where they are read from."""

import functools
import importlib
import inspect
import math
import pkgutil

import numpy as np
import pytest

import kd_jax.losses
from kd_jax.ranges import (
    BELOW_ONE,
    COUNT,
    FINITE,
    INSIDE,
    NOT_NEGATIVE,
    PORTION,
    POSITIVE,
    SHARE,
    Positive,
    Range,
    Share,
    check_number,
    check_numbers,
    ranges_of,
)
from kd_jax.resolve import check_kwargs

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("allowed", "said", "inside", "outside"),
    [
        (FINITE, "finite", (-1e30, 0, 1e30), (NAN, INF, -INF)),
        (POSITIVE, "above 0", (1e-30, 5), (0, -1, NAN, INF)),
        (NOT_NEGATIVE, "at least 0", (0, 5), (-1e-9, NAN, INF)),
        (COUNT, "at least 1", (1, 2), (0, NAN)),
        (SHARE, "in [0, 1]", (0, 1), (-0.1, 1.1, NAN)),
        (BELOW_ONE, "in [0, 1)", (0, 0.9), (1, NAN)),
        (PORTION, "in (0, 1]", (0.1, 1), (0, NAN)),
        (INSIDE, "in (0, 1)", (0.5,), (0, 1, NAN)),
        (Range(0, finite=False), "at least 0", (0, INF, NAN), (-1,)),
    ],
)
def test_a_range_holds_numbers_and_says_which(allowed, said, inside, outside):
    assert str(allowed) == said
    assert all(map(allowed.holds, inside))
    assert not any(map(allowed.holds, outside))


def test_only_numbers_are_checked_and_those_of_sequences_too():
    for value in (None, "name", True, {"name": "a.schedule", "kwargs": {}}, np.zeros(3), lambda step: 0.0):
        check_numbers("x", {"y": value}, {"y": POSITIVE})
    for value in ((1.0, (2.0, 0.0)), [0], np.float32(0), -1):
        with pytest.raises(ValueError, match=r"x\.y is .*; it must be above 0\.$"):
            check_numbers("x", {"y": value}, {"y": POSITIVE})
    with pytest.raises(ValueError, match="y is nan; it must be above 0 and finite"):
        check_number("y", NAN, POSITIVE)
    with pytest.raises(ValueError, match=r"a\.b\.c is 2; for f it must be in \[0, 1\]"):
        check_numbers("a", {"b": {"c": 2}}, {"b": {"c": SHARE}}, of="f")


def annotated(x, share: Share[float] = 0.5, temperature: "Positive[float | None]" = None, plain: float = 1.0):
    return x


class Annotated:
    def __init__(self, share: Share[float] = 0.5):
        self.share = share


def unreadable(x: "Missing", share: Share[float] = 0.5):  # noqa: F821
    return x


def test_a_function_or_class_declares_its_ranges_where_they_can_be_read():
    assert ranges_of(annotated) == {"share": SHARE, "temperature": POSITIVE}
    assert ranges_of(functools.partial(annotated, 1)) == ranges_of(annotated)
    assert ranges_of(functools.wraps(annotated)(lambda *args, **kwargs: 1)) == ranges_of(annotated)
    assert ranges_of(Annotated) == {"share": SHARE}
    assert ranges_of(unreadable) == ranges_of(print) == {}


def test_arguments_are_checked_with_their_names():
    check_kwargs("f", annotated, {"share": 1.0, "temperature": None})
    check_kwargs("f", annotated, ["share"])
    with pytest.raises(ValueError, match=r"terms\.a\.kwargs\.share is 2\.0; for f it must be in \[0, 1\]"):
        check_kwargs("f", annotated, {"share": 2.0}, field="terms.a.kwargs")
    with pytest.raises(ValueError, match="plain is inf; for f it must be finite"):
        check_kwargs("f", annotated, {"plain": INF})


def losses():
    for module in pkgutil.iter_modules(kd_jax.losses.__path__):
        family = importlib.import_module(f"kd_jax.losses.{module.name}")
        for name, fn in vars(family).items():
            if inspect.isfunction(fn) and name.endswith("_loss"):
                yield f"{module.name}.{name}", fn


def test_every_number_of_a_loss_has_a_range_that_holds_its_default():
    names, bare = 0, []
    for name, fn in losses():
        declared = ranges_of(fn)
        for option, parameter in inspect.signature(fn).parameters.items():
            default = parameter.default
            if isinstance(default, (int, float)) and not isinstance(default, bool):
                names += 1
                bare += [f"{name}.{option}"] if option not in declared else []
                assert option not in declared or declared[option].holds(default), f"{name}.{option}"
    assert not bare
    assert names > 80
