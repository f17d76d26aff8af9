"""Which measures a run makes: those of config.measure, and by default those that cost next to nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax import measure
from kd_jax.measure.subject import NEEDS, Measure, Subject
from kd_jax.resolve import check_kwargs, near, resolve

NONE = "none"  # the word for no measure at all


def names_of(field: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in config.measure: ("a", "b"), or ("a,b",) as the command line has them."""
    words = [word.strip() for text in field for word in f"{text}".split(",")]
    return tuple(dict.fromkeys(word for word in words if word))


def measure_of(name: str) -> Measure:
    """Returns a measure by its name; ValueError with the near names where there is none."""
    if ":" not in name and name not in measure.NAMES:
        raise ValueError(
            f"config.measure: there is no measure {name!r}. {near(name, (*measure.NAMES, NONE))} One of your own is "
            "'my_package.module:NAME' of a kd_jax.measure.subject.Measure."
        )
    made = resolve(name if ":" in name else f"measure.{name}.MEASURE")
    if not isinstance(made, Measure):
        raise ValueError(f"config.measure: {name!r} is a {type(made).__name__}, not a kd_jax.measure.subject.Measure.")
    return made


def defaults() -> dict[str, dict[str, Any]]:
    """Returns the options of all measures of the package and their defaults, {measure: {option: value}}."""
    return {name: options_of(measure_of(name)) for name in measure.NAMES}


def options_of(made: Measure) -> dict[str, Any]:
    """Returns the options that a measure takes, with their defaults."""
    _, *options = inspect.signature(made.run).parameters.values()
    return {option.name: option.default for option in options}


def check(field: Sequence[str], kwargs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for a measure or an option that there is not, and for an option that is out of range.

    `field` is config.measure, `kwargs` config.measure_kwargs.
    """
    names = names_of(field)
    if NONE in names and len(names) > 1:
        raise ValueError(f"config.measure={','.join(names)!r}: {NONE!r} is for no measure at all.")
    for name in names:
        if name != NONE:
            measure_of(name)
    for name, options in kwargs.items():
        if name not in measure.NAMES and name not in names:
            raise ValueError(f"config.measure_kwargs.{name}: it is not measured. {near(name, measure.NAMES)}")
        check_kwargs(name, measure_of(name).run, options, positional=1, field=f"config.measure_kwargs.{name}")


def chosen(
    field: Sequence[str], kwargs: Mapping[str, Mapping[str, Any]], subject: Subject, default: bool
) -> dict[str, Measure]:
    """Returns the measures by name: those that are named and, with `default`, the cheap ones that the run has data for.

    Raises ValueError for one that is named and does not fit the run, itself or by its options.
    """
    names = names_of(field)
    if names == (NONE,):
        return {}
    made = {name: measure_of(name) for name in names}
    for name, one in made.items():
        if why := obstacle(one, subject):
            raise ValueError(f"config.measure={name!r}: {why}.")
    more = {name: measure_of(name) for name in measure.NAMES if default and name not in made}
    made |= {name: one for name, one in more.items() if one.cheap and not obstacle(one, subject)}
    for name, one in made.items():
        if one.check is not None:
            one.check(subject, **{**options_of(one), **kwargs.get(name, {})})
    return {name: made[name] for name in (*measure.NAMES, *names) if name in made}


def obstacle(made: Measure, subject: Subject) -> str:
    """Returns why a run lacks what a measure needs, "" where it does not."""
    return next((why for need in made.needs if (why := NEEDS[need](subject))), "")
