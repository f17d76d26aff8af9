"""Presets: a knowledge type as terms. `compose("feature+response")` is what configs write into `config.terms`.

Terms are plain dictionaries here, so that any of their fields can be overridden from the command line;
`make_terms` turns them into `Term`s. Cross-entropy sees labelled examples only, teacher terms see all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kd_jax.resolve import check_kwargs, near, resolve
from kd_jax.types import Schedule, Term


def term(
    fn: str,
    inputs: tuple[str, ...],
    targets: tuple[str, ...] = (),
    *,
    weight: float = 1.0,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    where: str = "",
    connector: str = "",
    schedule: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A term as a config writes it. `schedule` = {name, kwargs} multiplies the weight, e.g. "optax:linear_schedule"."""
    return dict(
        fn=fn, inputs=inputs, targets=targets, weight=float(weight), kwargs=dict(kwargs or {}),
        options=dict(options or {}), where=where, connector=connector,
        schedule=dict(schedule or {"name": "", "kwargs": {}}),
    )  # fmt: skip


def supervised(weight: float = 1.0) -> dict[str, Any]:
    """Cross-entropy on the labelled examples; `batch.target` is the label, or the mixture of two after mixup."""
    fn = "losses.task.cross_entropy_loss"
    return {"ce": term(fn, ("student.logits",), ("batch.target",), weight=weight, where="batch.labelled")}


def response(temperature: float = 4.0, weight: float = 0.9) -> dict[str, Any]:
    """Softened logits (Hinton et al. 2015, arXiv 1503.02531); 0.1 CE + 0.9 KD, T 4 is the common CIFAR recipe."""
    kd = term(
        "losses.response.kd_loss", ("student.logits",), ("teacher.logits",), weight=weight,
        kwargs={"temperature": float(temperature)},
    )  # fmt: skip
    return {**supervised(0.1), "kd": kd}


def feature(tap: str = "stage2", weight: float = 100.0) -> dict[str, Any]:
    """Hints: a middle feature map through a trained connector (Romero et al. 2015, arXiv 1412.6550)."""
    hint = term(
        "losses.feature.feature_hint_loss", (f"student.features:{tap}",), (f"teacher.features:{tap}",), weight=weight,
        connector="models.connectors.auto",
    )  # fmt: skip
    return {**supervised(), "hint": hint}


def attention(taps: tuple[str, ...] = ("stage1", "stage2", "stage3"), weight: float = 1000.0) -> dict[str, Any]:
    """Spatial attention maps of every stage (Zagoruyko & Komodakis 2017, arXiv 1612.03928)."""
    fn = "losses.feature.attention_transfer_loss"
    terms = {
        f"at_{tap}": term(fn, (f"student.features:{tap}",), (f"teacher.features:{tap}",), weight=weight) for tap in taps
    }
    return {**supervised(), **terms}


def relation(tap: str = "embedding", weight: float = 1.0) -> dict[str, Any]:
    """Distances and angles between the examples of a batch (Park et al. 2019, arXiv 1904.05068)."""
    rkd = term(
        "losses.relation.relation_loss", (f"student.features:{tap}",), (f"teacher.features:{tap}",), weight=weight,
        kwargs={"distance_weight": 25.0, "angle_weight": 50.0},
    )  # fmt: skip
    return {**supervised(), "rkd": rkd}


PRESETS: dict[str, Callable[..., dict[str, Any]]] = {
    "supervised": supervised,
    "response": response,
    "feature": feature,
    "attention": attention,
    "relation": relation,
}


def compose(names: str, **options: Mapping[str, Any]) -> dict[str, Any]:
    """Terms of "feature+response": the union; where two presets weigh the same term, the smaller weight holds.

    `options` go to the presets by name: compose("feature", feature={"tap": "stage1"}).
    """
    terms: dict[str, Any] = {}
    for name in names.split("+"):
        if name not in PRESETS:
            raise ValueError(f"Knowledge {name!r} is unknown. {near(name, PRESETS)}")
        for key, value in PRESETS[name](**options.get(name, {})).items():
            if key in terms:
                value = min(value, terms[key], key=lambda t: t["weight"])
            terms[key] = value
    return terms


def _weight(config: Mapping[str, Any]) -> float | Schedule:
    schedule = config["schedule"]
    if not schedule["name"]:
        return float(config["weight"])
    factory = resolve(schedule["name"])
    check_kwargs(schedule["name"], factory, schedule["kwargs"])
    shape, weight = factory(**schedule["kwargs"]), float(config["weight"])
    return lambda step: weight * shape(step)


def make_terms(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Term]:
    """Config -> Terms. Raises ValueError for an unknown loss, argument or field, naming what was probably meant."""
    terms = {}
    for name, fields in config.items():
        fn = resolve(fields["fn"])
        check_kwargs(fields["fn"], fn, [*fields["kwargs"], *fields["options"]])
        terms[name] = Term(
            fn=fn,
            inputs=tuple(fields["inputs"]),
            targets=tuple(fields["targets"]),
            weight=_weight(fields),
            kwargs=dict(fields["kwargs"]),
            options=dict(fields["options"]),
            where=fields["where"] or None,
            connector=resolve(fields["connector"]) if fields["connector"] else None,
        )
    return terms
