"""Knowledge as terms: `compose("feature+response")` is what configs write into `config.terms`, `make_terms` reads it.

Terms are plain dictionaries in a config, so that any of their fields can be overridden from the command line. The
presets themselves are in kd_jax/config/presets.py.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config.presets import FIRST, FIRST_SHARE, PRESETS, SCHEMES
from kd_jax.config.terms import filled, part
from kd_jax.core.paths import Path
from kd_jax.core.terms import Scheduled, paths_of
from kd_jax.files import path_of
from kd_jax.models.started import Started
from kd_jax.ranges import FINITE, NOT_NEGATIVE, Range, check_number, ranges_of
from kd_jax.resolve import call, check_kwargs, made, near, resolve
from kd_jax.system.exports import check_export
from kd_jax.types import Memory, Model, Schedule, Term, Variables


def compose(names: str, **options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the terms of "feature+response": those of all presets together.

    Presets share the cross-entropy `ce`, with the smallest of their weights. Where two presets have another term of one
    name, the preset of that name keeps it, or else the first; the other term is called after its preset: "kd+dkd" has
    `kd` and `dkd`. The same preset twice, also under two names ("kd+response"), counts once. `options` go to the
    presets by name: compose("feature", feature={"tap": "stage1"}). Raises ValueError for a preset that does not
    exist, here or there.
    """
    chosen = _chosen(names, options)
    shared = [terms["ce"] for terms in chosen.values() if "ce" in terms]
    result = {"ce": min(shared, key=lambda fields: fields["weight"])} if shared else {}
    for preset, terms in chosen.items():
        taken = {name for name in terms if name != "ce" and _keeper(name, chosen) != preset}
        for name, fields in terms.items():
            if name in taken:
                result[preset if len(taken) == 1 else f"{preset}_{name}"] = fields
            elif name != "ce":
                result[name] = fields
    return result


def _chosen(names: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{preset: its terms}, each preset once."""
    if not isinstance(names, str):
        raise ValueError(f"compose takes one text, such as 'kd+fitnet', not {names!r}.")
    for name in options:
        if name not in PRESETS:
            raise ValueError(
                f"compose({names!r}, {name}=...): options go to a preset by its name, such as "
                f"compose('kd', kd={{'temperature': 2.0}}). {near(name, PRESETS)}"
            )
    chosen: dict[str, dict[str, Any]] = {}
    for preset in names.split("+"):
        if preset not in PRESETS:
            raise ValueError(f"Knowledge {preset!r} is unknown. {near(preset, PRESETS)}")
        terms = made(preset, PRESETS[preset], **options.get(preset, {}))
        if terms not in chosen.values():
            chosen[preset] = terms
    return chosen


def _keeper(name: str, chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """The preset whose term keeps the name that several want: the one of that name, or else the first."""
    wanting = [preset for preset, terms in chosen.items() if name in terms]
    return name if name in wanting else wanting[0]


def with_four_stages(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the terms for networks of four stages; a preset is written for three, unless it has four already.

    A term on the last stage alone moves to the fourth. A term on every stage is added for the fourth, with the weight
    that the third had; where the weights grow by a factor from stage to stage (AB, OFD), the others are divided by it.
    """
    result = {name: copy.deepcopy(fields) for name, fields in terms.items()}
    written = {re.sub(r"_stage\d$", "", n) for n, f in terms.items() if "stage4" in f"{f['inputs']} {f['targets']}"}
    for name, fields in terms.items():
        if name.removesuffix("_stage3") in written:
            continue
        paths = {side: tuple(p.replace("stage3", "stage4") for p in fields[side]) for side in ("inputs", "targets")}
        if set(re.findall(r"stage\d", str(paths))) != {"stage4"}:
            continue
        family = name.removesuffix("_stage3")
        if family != name:
            factor = fields["weight"] / result[f"{family}_stage2"]["weight"]
            for other in [n for n in result if re.fullmatch(rf"{family}_stage\d", n)]:
                result[other]["weight"] /= factor
        result[f"{family}_stage4" if family != name else name] = {**copy.deepcopy(fields), **paths}
    return result


def scheme_of(names: str, terms: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the scheme that presets such as "feature+response" run in; `terms` are theirs, `compose(names)` if None.

    Presets with terms that are trained alone first (AB, FSP, FT) make two stages. Raises ValueError where two presets
    need different schemes.
    """
    terms = compose(names) if terms is None else terms
    patterns = [FIRST[name] for name in names.split("+") if name in FIRST]
    alone = tuple(term for term in terms if any(re.match(pattern, term) for pattern in patterns))
    schemes = {SCHEMES[name] for name in names.split("+") if name in SCHEMES}
    if len(schemes) + bool(alone) > 1:
        raise ValueError(f"{names!r} needs several schemes at once: {sorted(schemes)}{' and stages' * bool(alone)}.")
    if not alone:
        return part(*(schemes or {"schemes.offline.build"}))
    after = tuple(term for term in terms if term not in alone)
    first = {"name": "first", "share": FIRST_SHARE, "terms": alone}
    return part("schemes.stages.build", stages=(first, {"name": "task", "share": 1 - FIRST_SHARE, "terms": after}))


def _make(fields: Mapping[str, Any], **offered: Any) -> Any:
    """Returns factory(**offered, **kwargs) for {name, kwargs}; of `offered` the factory gets what it takes."""
    factory = resolve(fields["name"])
    taken = inspect.signature(factory).parameters
    offered = {k: v for k, v in offered.items() if k in taken}
    return factory(**{**offered, **fields["kwargs"]})


def _schedule(path: str, fields: Mapping[str, Any], total_steps: int, allowed: Range, of: str = "") -> Schedule:
    """Returns the schedule; ValueError where a value of it, looked at eleven times in the run, is out of range."""
    made, last = _make(fields, total_steps=total_steps), max(total_steps - 1, 0)
    for step in sorted({last * i // 10 for i in range(11)}):
        check_number(f"{path} at step {step}", np.asarray(made(jnp.int32(step))).tolist(), allowed, of)
    return made


def _is_schedule(value: Any) -> bool:
    """Whether a value of `kwargs` is a schedule as a config writes it: {"name": ..., "kwargs": ...} alone."""
    return hasattr(value, "keys") and set(value.keys()) == {"name", "kwargs"}


def _weight(name: str, fields: Mapping[str, Any], total_steps: int) -> float | Schedule:
    weight = float(fields["weight"])
    if not fields["schedule"]["name"]:
        return weight
    return Scheduled(weight, _schedule(f"terms.{name}.schedule", fields["schedule"], total_steps, NOT_NEGATIVE))


def _connector(fields: Mapping[str, Any]) -> Callable[..., Model] | None:
    if not fields["name"]:
        return None
    build = functools.partial(resolve(fields["name"]), **fields["kwargs"])
    return functools.partial(_started, build, fields["initial"]) if fields["initial"]["name"] else build


def _started(build: Callable[..., Model], initial: Mapping[str, Any], *shapes: Any) -> Model:
    """The connector with the first weights that {name, kwargs} make: a function as of a role, or an export's path."""

    def first(model: Model, key: Any, wanted: Variables) -> Variables:
        if "/" in initial["name"]:
            from kd_jax.system.checkpoint import load_tree  # here, since Orbax takes a third of the start-up

            kinds = {
                kind: tree for kind, tree in zip(("params", "stats"), wanted, strict=True) if jax.tree.leaves(tree)
            }
            tree = load_tree(path_of(initial["name"], "initial.name"), kinds)
            return tree.get("params", {}), tree.get("stats", {})
        offered = {"shapes": wanted} if "shapes" in inspect.signature(resolve(initial["name"])).parameters else {}
        return call(initial["name"], model, key, **offered, **initial["kwargs"])

    return Started(build(*shapes), first)


def _memory(name: str, fields: Mapping[str, Any], examples: int, labels: Any) -> Memory | None:
    return _make(fields, examples=examples, labels=labels, name=name) if fields["name"] else None


def _kwargs(name: str, fields: Mapping[str, Any], total_steps: int) -> dict[str, Any]:
    """The options of the loss, with the schedules among them made."""
    ranges, made = ranges_of(resolve(fields["fn"])), dict(fields["kwargs"])
    for option, value in fields["kwargs"].items():
        if _is_schedule(value):
            path, allowed = f"terms.{name}.kwargs.{option}", ranges.get(option, FINITE)
            made[option] = _schedule(path, value, total_steps, allowed, of=fields["fn"])
    return made


def check_terms(config: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for names, arguments and numbers of terms that there are not, without making anything.

    A term without `fn` is the task's, and has a weight alone.
    """
    for name, short in config.items():
        of_task = hasattr(short, "keys") and "fn" not in short
        fields = short if of_task else filled(name, short)
        check_number(f"terms.{name}.weight", fields.get("weight", 1.0), NOT_NEGATIVE)
        if of_task:
            continue
        fn, path = resolve(fields["fn"]), f"terms.{name}.kwargs"
        check_kwargs(fields["fn"], fn, fields["options"])
        check_kwargs(fields["fn"], fn, fields["kwargs"], field=path)
        named = {f"{path}.{k}": v for k, v in fields["kwargs"].items() if _is_schedule(v)}
        named |= {f"terms.{name}.{k}": fields[k] for k in ("schedule", "connector", "memory") if fields[k]["name"]}
        named |= _initial_of(name, fields["connector"])
        for where, made_by in named.items():
            check_kwargs(made_by["name"], resolve(made_by["name"]), made_by["kwargs"], field=f"{where}.kwargs")


def _initial_of(name: str, connector: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The function that makes a connector's first weights, by its place; {} for none, and for an export."""
    path, initial = f"terms.{name}.connector.initial", connector["initial"]
    if not initial["name"]:
        return {}
    if not connector["name"]:
        raise ValueError(f"{path}={initial['name']!r}, and the term has no connector: connector.name is ''.")
    if "/" in initial["name"]:
        check_export(path_of(initial["name"], f"{path}.name"))
        return {}
    return {path: initial}


def make_terms(
    config: Mapping[str, Mapping[str, Any]], total_steps: int = 0, examples: int = 0, labels: Any = None
) -> dict[str, Term]:
    """Makes the Terms of a config, for a run of `total_steps` on `examples` training examples with these `labels`.

    Of a term `fn` and `inputs` are enough. Raises ValueError for an unknown loss, argument or field, naming what was
    probably meant, and for a number out of range.
    """
    terms = {}
    check_terms(config)
    for name, short in config.items():
        fields = filled(name, short)
        terms[name] = Term(
            fn=resolve(fields["fn"]),
            inputs=tuple(fields["inputs"]),
            targets=tuple(fields["targets"]),
            weight=_weight(name, fields, total_steps),
            kwargs=_kwargs(name, fields, total_steps),
            options=dict(fields["options"]),
            where=fields["where"] or None,
            connector=_connector(fields["connector"]),
            memory=_memory(name, fields["memory"], examples, labels),
        )
    return in_order(terms)


def in_order(terms: Mapping[str, Term]) -> dict[str, Term]:
    """Returns the same terms, each after those whose connectors it reads: a ConfigDict lists them by the alphabet."""
    ordered: dict[str, Term] = {}
    asked: set[str] = set()

    def add(name: str) -> None:
        if name in terms and name not in asked:
            asked.add(name)
            for path in paths_of(terms[name]):
                add(Path.parse(path).connected)
            ordered[name] = terms[name]

    for name in terms:
        add(name)
    return ordered
