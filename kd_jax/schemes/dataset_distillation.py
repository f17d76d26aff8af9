"""Dataset distillation: a few images are learned that teach a network what the whole data set would."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kd_jax.losses.kernel import kernel_regression_loss
from kd_jax.losses.synthesis import distribution_matching_loss, gradient_matching_loss
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.ranges import Inside
from kd_jax.resolve import check_kwargs, near
from kd_jax.schemes import trajectory_matching
from kd_jax.schemes.data_free import pixels_of
from kd_jax.schemes.inversion import bank_size, clip_to
from kd_jax.schemes.trajectory_matching import Settings
from kd_jax.system import parallel
from kd_jax.types import Array, Call, Parts, Phase, Scheme, Stage, Term, TrainState

BANK, EMBEDDER = "bank", "embedder"
IMAGES = f"params.{BANK}.images"
READS = ("batch.index", "extra.window")
METHODS = ("distribution", "gradient", "kernel", "trajectory")
STARTS = ("real", "noise")


def build(
    parts: Parts,
    method: str = "distribution",
    synthesis: Inside[float] = 0.5,
    start: str = "real",
    real: str = "real",
    tap: str = "embedding",
    seed: int = 0,
    trajectory: Mapping[str, Any] | None = None,
) -> Scheme:
    """Builds two stages: the images of the role "bank" are learned, then the student learns on them alone.

    The bank is models.vision.generators.image_bank, image i of class i mod classes; it starts as images of the split
    `real` (config.splits; with `start`="noise" as noise) and learns in the share `synthesis` of the steps:
        distribution  distribution_matching_loss of the `tap` of a network that is drawn anew in every step (DM)
        gradient      gradient_matching_loss of the cross-entropies of such a network, on all classes at once (DC)
        kernel        kernel_regression_loss of the batch from the images (KIP)
        trajectory    trajectory_matching_loss of such a network after steps on the images, and of experts that a stage
                      before trained on real data (MTT); `trajectory` holds the Settings of trajectory_matching.py
    Networks are the role "embedder", which learns nothing but as an expert. The student minimises parts.terms, which
    read "bank.logits", "bank.features:label" and the teacher's answers to them, and no real image.

    Zhao, Bilen, "Dataset Condensation with Distribution Matching", 2021, arXiv 2110.04181; Zhao, Mopuri, Bilen,
    "Dataset Condensation with Gradient Matching", 2020, arXiv 2006.05929, whose networks also learn between two updates
    of the images and match class by class; Nguyen, Chen, Lee, "Dataset Meta-Learning from Kernel Ridge-Regression",
    2020, arXiv 2011.00050; Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", 2022, arXiv
    2203.11932, whose steps see a part of many images, and ours all. DM and DC match a batch of each class; ours is one
    batch of all classes. Images are not augmented.
    """
    _check(parts, method, start, real)
    _check_unread(method, tap, seed, trajectory)
    size, classes = bank_size(parts), parts.sources[real].num_classes
    making = round(synthesis * parts.steps)
    if size % classes or not 0 < making < parts.steps:
        raise ValueError(
            f"The bank holds {size} images, which must be a multiple of the {classes} classes, and both stages need "
            f"steps, with synthesis={synthesis} of {parts.steps}."
        )
    labels = np.arange(size, dtype=np.int32) % classes
    clip, draw = clip_to(parts.sources[real]), _draw(parts, seed) if EMBEDDER in parts.roles else None
    extra = {"window": np.array([0, size], np.int32), "synthetic_labels": labels}
    stages: tuple[Stage, ...] = ()
    if method == "trajectory":
        match, calls, stages, stored = _trajectories(parts, trajectory or {}, making, draw, real, seed)
        extra |= stored
    else:
        match, calls = _matching(parts, method, tap, classes)
    painting = making - sum(stage.steps for stage in stages)
    paint = (Phase(BANK, calls, {"match": match}, parts.make_tx(painting, BANK)),)
    images = Call(BANK, READS)
    teacher = (Call("teacher", (f"{BANK}.logits",), train=False),) if "teacher" in parts.roles else ()
    learner = Call("student", (f"{BANK}.logits",))
    learn = (
        Phase("student", (images, learner, *teacher), parts.terms, parts.make_tx(parts.steps - making, "student")),
    )

    def after(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        state = state if clip is None else clip(state, context)
        return state if draw is None else draw(state)

    roles = dict(parts.roles)
    if start == "real":
        roles[BANK] = _starting(parts, real, labels)
    stages += (
        Stage(painting, paint, after, name="images", data=real, selects=False),
        Stage(parts.steps - making, learn, name="student"),
    )

    def summary(state: TrainState, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        del record
        return shown(parts.sources[real], state.params[BANK][BANK]["images"], labels)

    reference = "teacher" if teacher else None
    return Scheme(roles, stages, reference=reference, extra=extra, summary=summary, task=parts.task)


def _check(parts: Parts, method: str, start: str, real: str) -> None:
    for what, value, words in (("method", method, METHODS), ("start", start, STARTS)):
        if value not in words:
            raise ValueError(f"{what}={value!r}. {near(value, words)}")
    if real not in parts.sources or parts.sources[real] is None:
        raise ValueError(
            f"real={real!r} is no split: config.splits makes the labelled images. {near(real, parts.sources)}"
        )
    for role in (BANK, *(() if method == "kernel" else (EMBEDDER,))):
        if role not in parts.roles:
            raise ValueError(f"This scheme needs a role {role!r}. {near(role, parts.roles)}")
    if method == "kernel" and EMBEDDER in parts.roles:
        raise ValueError("method='kernel' asks no network: take the role 'embedder' out of config.roles.")


def _check_unread(method: str, tap: str, seed: int, trajectory: Mapping[str, Any] | None) -> None:
    """Raises ValueError for options that the method does not read."""
    if tap != "embedding" and method != "distribution":
        raise ValueError(f"tap={tap!r} is of method='distribution'; {method!r} reads no tap.")
    if seed and method == "kernel":
        raise ValueError(f"seed={seed} draws networks, and method='kernel' asks none.")
    if trajectory and method != "trajectory":
        raise ValueError(f"trajectory={dict(trajectory)} is of method='trajectory', not of {method!r}.")


def _matching(parts: Parts, method: str, tap: str, classes: int) -> tuple[Term, tuple[Call, ...]]:
    """Returns the term that the images minimise and the calls by which it reads parameters.

    A term reads the parameters of networks that were called; what such a call returns is not used.
    """
    labels = ("extra.synthetic_labels", "batch.label")
    if method == "distribution":

        def distances(synthetic: Array, real: Array, ours: Array, theirs: Array) -> Array:
            synthetic, real = (x.reshape(len(x), -1) for x in (synthetic, real))  # a map, all its positions
            return distribution_matching_loss(synthetic, real, ours, theirs, classes=classes)

        calls = tuple(
            Call(EMBEDDER, (path,), train=False, name=name)
            for name, path in (("made", IMAGES), ("seen", "batch.image"))
        )
        features = (f"made.features:{tap}",), (f"seen.features:{tap}", *labels)
        return Term(distances, *features, weight=float(classes)), calls
    if method == "gradient":
        model, stats = parts.roles[EMBEDDER].model, f"stats.{EMBEDDER}"

        def gap(images: Array, params: Any, stats: Any, real: Array, ours: Array, theirs: Array) -> Array:
            def gradient(x: Array, y: Array) -> Any:
                def loss(params: Any) -> Array:
                    outputs, _ = model.apply(params, stats, x, train=False, key=jax.random.key(0))
                    return cross_entropy_loss(outputs.logits, y).mean()

                return jax.grad(loss)(params)

            return gradient_matching_loss(gradient(images, ours), gradient(real, theirs))[None]

        targets = (f"params.{EMBEDDER}", stats, "batch.image", *labels)
        return Term(gap, (IMAGES,), targets), (Call(BANK, READS), Call(EMBEDDER, (IMAGES,), train=False))

    def regression(images: Array, real: Array, ours: Array, theirs: Array) -> Array:
        return kernel_regression_loss(images, real, ours, theirs, classes=classes)

    return Term(regression, (IMAGES,), ("batch.image", *labels)), (Call(BANK, READS),)


def _trajectories(
    parts: Parts, trajectory: Mapping[str, Any], steps: int, draw: Any, real: str, seed: int
) -> tuple[Term, tuple[Call, ...], tuple[Stage, ...], dict[str, Any]]:
    """Returns the term of trajectory matching, its calls, the stage of the experts, and the room for what it stores."""
    check_kwargs("schemes.trajectory_matching.Settings", Settings, trajectory, field="scheme.kwargs.trajectory")
    settings, model = Settings(**trajectory), parts.roles[EMBEDDER].model
    experts = trajectory_matching.experts_of(settings, steps)
    term = trajectory_matching.trajectory_term(model, EMBEDDER, IMAGES, experts, settings, seed)
    stage = trajectory_matching.expert_stage(parts, EMBEDDER, experts, draw, real)
    stored = trajectory_matching.first_trajectories(model, parts.sources[real].image_shape, experts)
    calls = (Call(BANK, READS), Call(EMBEDDER, (IMAGES,), train=False))
    return term, calls, (stage,), {trajectory_matching.TRAJECTORIES: stored}


def _draw(parts: Parts, seed: int) -> Callable[[TrainState], TrainState]:
    """Returns what gives the embedder new random parameters, a function of the seed and the step."""
    model, key = parts.roles[EMBEDDER].model, jax.random.key(seed)

    def draw(state: TrainState) -> TrainState:
        images = state.params[BANK][BANK]["images"][:1]
        params, stats = model.init(jax.random.fold_in(key, state.step), images)
        return state.replace(
            params={**state.params, EMBEDDER: {EMBEDDER: params}}, stats={**state.stats, EMBEDDER: stats}
        )

    return draw


def _starting(parts: Parts, real: str, labels: np.ndarray) -> Any:
    """Returns the role "bank" that starts as the first images of each class, normalised as batches are."""
    source = parts.sources[real]
    images, classes = source.in_memory()
    taken: dict[int, int] = {}
    rows = []
    for label in labels.tolist():
        members = np.flatnonzero(classes == label)
        if len(members) <= taken.get(label, 0):
            raise ValueError(
                f"Class {label} has {len(members)} images in {source.name}, fewer than the bank holds of it."
            )
        rows.append(members[taken.get(label, 0)])
        taken[label] = taken.get(label, 0) + 1
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    pixels = (images[rows] / scale - np.asarray(source.mean)) / np.asarray(source.std)
    return dataclasses.replace(parts.roles[BANK], initial=({"images": pixels.astype(np.float32)}, {}))


def shown(source: Any, images: Array, labels: np.ndarray, most: int = 40) -> list[dict[str, Any]]:
    """Returns the section of the report with the learned images."""
    rows = np.argsort(labels, kind="stable")[:most] if len(labels) <= most else np.arange(most)
    if images.shape[-1] not in (1, 3):
        return []
    return [
        {
            "kind": "images",
            "title": "Distilled images",
            "lead": f"{len(rows)} of the {len(labels)} images that the student learned from, and nothing else.",
            "images": pixels_of(parallel.on_host(images)[rows], source),
            "labels": [str(source.class_names[labels[i]]) for i in rows],
        }
    ]
