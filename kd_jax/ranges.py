"""The range in which a number must lie, declared where the number is: `temperature: Positive[float] = 1.0`.

A loss, schedule, scheme, connector, model or augmentation declares the ranges of its options in its signature, of the
user's package as well; fields of a config have tables of them. Both are read by `check_numbers`, before anything is
trained. A number without a declaration must be finite; None, names, schedules and arrays are no numbers here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included but for those in `without`; infinity and NaN only if not `finite`."""

    low: float = -math.inf
    high: float = math.inf
    without: tuple[float, ...] = ()
    finite: bool = True

    def holds(self, value: float) -> bool:
        """Tells whether the number lies in it; NaN lies in none that is finite."""
        inside = self.low <= value <= self.high and value not in self.without
        return (inside and math.isfinite(value)) if self.finite else (inside or math.isnan(value))

    def __str__(self) -> str:
        if self.low == -math.inf and self.high == math.inf:
            return "finite"
        if self.high == math.inf:
            return f"above {self.low:g}" if self.low in self.without else f"at least {self.low:g}"
        left, right = "[("[self.low in self.without], "])"[self.high in self.without]
        return f"in {left}{self.low:g}, {self.high:g}{right}"


FINITE = Range()
POSITIVE = Range(0, without=(0,))
NOT_NEGATIVE = Range(0)
COUNT = Range(1)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, without=(1,))
PORTION = Range(0, 1, without=(0,))
INSIDE = Range(0, 1, without=(0, 1))

Finite = Annotated[T, FINITE]
Positive = Annotated[T, POSITIVE]
NotNegative = Annotated[T, NOT_NEGATIVE]
Count = Annotated[T, COUNT]  # of something of which there must be one
Share = Annotated[T, SHARE]
BelowOne = Annotated[T, BELOW_ONE]  # a share that leaves something
Portion = Annotated[T, PORTION]  # a share that is not nothing
Inside = Annotated[T, INSIDE]

Ranges = Mapping[str, Any]  # name -> Range, or the Ranges of the fields below it


def ranges_of(fn: Callable) -> dict[str, Range]:
    """Returns the ranges that a function or class declares for its arguments, those of the function that it wraps.

    A function whose annotations cannot be evaluated declares none.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        hints = typing.get_type_hints(fn.__init__ if inspect.isclass(fn) else fn, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):  # names that only a type checker imports
        return {}
    declared = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: r for name, more in declared.items() for r in more if isinstance(r, Range)}


def check_number(field: str, value: Any, allowed: Range = FINITE, of: str = "") -> None:
    """Raises ValueError where a number, or one of a sequence, lies outside the range; `of` names whose option it is."""
    for number in _numbers(value):
        if not allowed.holds(number):
            finite = "" if math.isfinite(number) or str(allowed) == "finite" else " and finite"
            whose = f"for {of} it must be" if of else "it must be"
            raise ValueError(f"{field} is {value}; {whose} {allowed}{finite}.")


def check_numbers(field: str, values: Mapping[str, Any], ranges: Ranges, of: str = "") -> None:
    """Raises ValueError for a number of `values` that lies outside its range, with its path below `field`.

    Numbers without a range must be finite.
    """
    for name, value in values.items():
        path, allowed = f"{field}.{name}" if field else name, ranges.get(name, FINITE)
        if not isinstance(allowed, Range):
            check_numbers(path, value, allowed, of)
        elif not hasattr(value, "keys"):  # a schedule or the fields of a model are read where they are used
            check_number(path, value, allowed, of)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield float(value)
