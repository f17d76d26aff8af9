"""Data-free distillation: the student learns on images of a generator; no network sees a real image.

The generator seeks images on which the student disagrees with the teacher (ZSKT, DFAD), or images that look real to the
teacher (DAFL), or both at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.metrics import agreement
from kd_jax.core.paths import Path
from kd_jax.core.terms import paths_of
from kd_jax.losses.data_free import (
    activation_loss,
    batch_norm_statistics_loss,
    information_entropy_loss,
    one_hot_loss,
)
from kd_jax.ranges import BelowOne, NotNegative
from kd_jax.resolve import near
from kd_jax.system import parallel, precision
from kd_jax.types import Array, Call, Parts, Phase, PyTree, Schedule, Scheme, Stage, Term, TrainState


def build(
    parts: Parts,
    n_generator: int = 1,
    n_student: int = 5,
    disagreement: NotNegative[float] = 1.0,
    adversarial: tuple[str, ...] = (),
    one_hot: NotNegative[float] = 0.0,
    activation: NotNegative[float] = 0.0,
    entropy: NotNegative[float] = 0.0,
    statistics: NotNegative[float] = 0.0,
    tap: str = "embedding",
    norms: Mapping[str, str] | None = None,
    before: BelowOne[float] = 0.0,
) -> Scheme:
    """Builds steps of `n_generator` updates of the role "generator", then `n_student` of the student, on new images.

    The student minimises parts.terms on generated images. The generator minimises, through the teacher's answer,
        -disagreement * (those of parts.terms that `adversarial` names, all where it names none)
        + one_hot * one_hot_loss + entropy * information_entropy_loss + activation * activation_loss(teacher's `tap`)
        + statistics * batch_norm_statistics_loss, summed over BatchNorms (`norms`: see statistics_terms).
    In the first share `before` of the steps the generator learns alone, without the disagreement; with n_generator = 0
    it does not learn after that. Of a batch only its size is used.
    Fang et al. 2019 (DFAD, arXiv 1912.11006): disagreement 1, updates 1 and 5, L1 between logits. Micaelli, Storkey
    2019 (ZSKT, arXiv 1905.09768): 1 and 10, KL; their attention term is for the student alone. Chen et al. 2019 (DAFL,
    arXiv 1904.01186): one_hot 1, activation 0.1, entropy 5, disagreement 0, updates 1 and 1.
    """
    needs(parts, "generator")
    alone = round(before * parts.steps)
    if n_student < 1 or n_generator < 0 or not 0 <= alone < parts.steps or not (n_generator or alone):
        raise ValueError(
            "Wanted: n_student >= 1, n_generator >= 1 (or 0 after before > 0), before in [0, 1) with steps on both "
            f"sides; got {n_student=}, {n_generator=}, {before=} of {parts.steps} steps."
        )
    looks = {
        "one_hot": Term(one_hot_loss, ("teacher.logits",), weight=float(one_hot)),
        "activation": Term(activation_loss, (f"teacher.features:{tap}",), weight=float(activation)),
        "entropy": Term(information_entropy_loss, ("teacher.logits",), weight=float(entropy)),
    }
    realistic = {name: term for name, term in looks.items() if term.weight}
    realistic |= statistics_terms(parts, statistics, norms)
    seeking = maximised(parts.terms, adversarial, disagreement) if disagreement else {}
    if not (realistic or seeking) or (alone and not realistic):
        raise ValueError("The generator has nothing to learn: disagreement or another option needs a weight.")
    stages = _stages(parts, realistic, seeking, alone, n_generator, n_student)
    return Scheme(parts.roles, stages, reference="teacher", summary=functools.partial(_painted, parts), task=parts.task)


def _stages(
    parts: Parts,
    realistic: Mapping[str, Term],
    seeking: Mapping[str, Term],
    alone: int,
    n_generator: int,
    n_student: int,
) -> tuple[Stage, ...]:
    """Returns the stage in which the generator learns alone, if it has steps, and the one in which both learn."""
    first, both = max(n_generator, 1), parts.steps - alone
    paint = parts.make_tx(alone * first + both * n_generator, "generator")
    learn = parts.make_tx(both * n_student, "student")
    stages = []
    if alone:
        phases = tuple(_phase(k, "generator", realistic, paint, student=False) for k in range(first))
        stages.append(Stage(alone, phases, name="generator"))
    phases = tuple(_phase(k, "generator", {**realistic, **seeking}, paint, bool(seeking)) for k in range(n_generator))
    phases += tuple(_phase(n_generator + k, "student", parts.terms, learn) for k in range(n_student))
    return (*stages, Stage(both, phases, name="student"))


def _phase(k: int, group: str, terms: Mapping[str, Term], tx: Any, student: bool = True) -> Phase:
    images = f"images{k}"  # a name of its own: the random numbers of a call depend on name and step
    calls = [Call("generator", ("batch.index",), name=images)]
    calls += [Call("student", (f"{images}.logits",))] if student else []
    calls += [Call("teacher", (f"{images}.logits",), train=False)]
    metrics = {"agreement": Term(agreement, ("student.logits",), ("teacher.logits",))} if student else {}
    return Phase(group, tuple(calls), terms, tx, metrics)


def _painted(parts: Parts, state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a section of the report: images of the generator after the last step."""
    del record
    model, params = parts.roles["generator"].model, state.params["generator"]["generator"]

    def paint(params: Any, stats: Any) -> Array:
        like, key = jnp.zeros(256, jnp.int32), jax.random.key(0)
        return model.apply(params, stats, like, train=True, key=key)[0].logits

    lead = "Painted from noise by the generator as it is after the last step; no real image was seen."
    return samples(parts, state, jax.jit(paint)(params, state.stats["generator"]), lead)


def needs(parts: Parts, role: str) -> None:
    """Raises ValueError unless there are a teacher, `role`, and terms, none of which reads the batch."""
    for name in ("teacher", role):
        if name not in parts.roles:
            raise ValueError(f"This scheme needs a role {name!r}. {near(name, parts.roles)}")
    if not parts.terms:
        raise ValueError("The student has no terms: config.terms says what it learns from the teacher.")
    for name, term in parts.terms.items():
        if real := [p for p in paths_of(term) if Path.parse(p).kind == "batch"]:
            raise ValueError(
                f"Term {name!r} reads {real}: a data-free student has neither the images nor their labels."
            )


def statistics_terms(parts: Parts, weight: float, norms: Mapping[str, str] | None) -> dict[str, Term]:
    """Returns a term for each BatchNorm of the teacher: the batch should have the mean and variance stored there.

    `norms` maps the tap before each BatchNorm to the BatchNorm's path, {"stage1/conv": "stage1/norm"}; None takes the
    tap "<path>/conv" for every "<path>/norm", as kd_jax.models names them.
    """
    if not weight:
        return {}
    terms, loss = {}, batch_norm_statistics_loss
    for tap, path in (_norms_of(parts) if norms is None else norms).items():
        stored = f"stats.teacher.batch_stats.{path.replace('/', '.')}"
        inputs, targets = (f"teacher.features:{tap}",), (f"{stored}.mean", f"{stored}.var")
        terms[f"statistics_{path.replace('/', '_')}"] = Term(loss, inputs, targets, weight=float(weight))
    return terms


def _norms_of(parts: Parts) -> dict[str, str]:
    """Returns {"stage1/conv": "stage1/norm", ...}: the tap that each BatchNorm of the teacher normalises."""
    image = jnp.zeros((1, *parts.sources["train"].image_shape))
    _, stats = jax.eval_shape(parts.roles["teacher"].model.init, jax.random.key(0), image)
    norms: dict[str, str] = {}

    def walk(tree: PyTree, path: tuple[str, ...]) -> None:
        if {"mean", "var"} <= set(tree):
            norms["/".join((*path[:-1], path[-1].replace("norm", "conv")))] = "/".join(path)
        else:
            for name, inner in tree.items():
                walk(inner, (*path, name))

    walk(stats.get("batch_stats", {}), ())
    if not norms:
        raise ValueError("The teacher has no BatchNorm whose statistics could be matched: set statistics to 0.")
    return norms


def maximised(terms: Mapping[str, Term], names: tuple[str, ...], factor: float) -> dict[str, Term]:
    """Returns the terms called `names` (all if none) with weight -factor * weight, and differentiated targets."""
    negated = {}
    for name in names or terms:
        if name not in terms:
            raise ValueError(f"There is no term {name!r} to maximise. {near(name, terms)}")
        term = terms[name]
        if term.connector is not None or term.memory is not None:
            raise ValueError(f"Term {name!r} has a connector or a memory: name those to maximise in `adversarial`.")
        weight = _scaled(term.weight, -factor)
        negated[name] = dataclasses.replace(term, inputs=term.inputs + term.targets, targets=(), weight=weight)
    return negated


def _scaled(weight: float | Schedule, factor: float) -> float | Schedule:
    return (lambda step: factor * weight(step)) if callable(weight) else factor * weight


def samples(parts: Parts, state: TrainState, images: Array, lead: str) -> list[dict[str, Any]]:
    """Returns a section of the report: up to two of the normalised images [n, H, W, C] for each predicted class."""
    source, teacher = parts.sources["train"], parts.roles["teacher"].model
    if images.ndim != 4:
        return []

    def predict(variables: Any, images: Array) -> Array:
        params, stats = variables
        logits = teacher.apply(precision.restored(params), stats, images, train=False, key=jax.random.key(0))[0].logits
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    probabilities = parallel.on_host(jax.jit(predict)(state.frozen["teacher"], images))
    predicted = probabilities.argmax(-1)
    rows = [i for c in range(source.num_classes) for i in np.flatnonzero(predicted == c)[:2]][:20]
    return [
        {
            "kind": "images",
            "title": "Images that the student learned from",
            "lead": f"{lead} Below each is what the teacher takes it for.",
            "images": pixels_of(parallel.on_host(images)[rows], source),
            "labels": [f"{source.class_names[predicted[i]]} ({100 * probabilities[i].max():.0f} %)" for i in rows],
        }
    ]


def pixels_of(images: np.ndarray, source: Any) -> list:
    """Returns normalised images [n, H, W, 1 or 3] as a section of the report shows them, 0..255; floats stretched."""
    pixels = images.astype(np.float64) * source.std + source.mean
    if source.images is not None and source.images.dtype != np.uint8:  # floats have no range of their own
        pixels = (pixels - pixels.min()) / max(np.ptp(pixels), 1e-12)
    pixels = np.round(255 * np.clip(pixels, 0, 1)).astype(int)
    return (pixels[..., 0] if pixels.shape[-1] == 1 else pixels).tolist()
