"""DeepInversion: a student learns on images that are optimised until they look real to the teacher's BatchNorms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.metrics import agreement
from kd_jax.losses.data_free import image_norm_loss, image_prior_loss, image_variation_loss
from kd_jax.losses.response import jsd_loss
from kd_jax.losses.task import cross_entropy_loss
from kd_jax.ranges import Inside, NotNegative
from kd_jax.schemes.data_free import needs, samples, statistics_terms
from kd_jax.types import Array, Call, Parts, Phase, Scheme, Stage, Term, TrainState


def build(
    parts: Parts,
    synthesis: Inside[float] = 0.5,
    rounds: int = 1,
    label: NotNegative[float] = 1.0,
    statistics: NotNegative[float] = 1.0,
    variation: NotNegative[float] = 0.0,
    norm: NotNegative[float] = 0.0,
    prior: NotNegative[float] = 0.0,
    compete: NotNegative[float] = 0.0,
    norms: Mapping[str, str] | None = None,
) -> Scheme:
    """Builds `rounds` of two stages: the next block of images is made, then the student learns on all made so far.

    A round makes its block, size / rounds images of the role "bank" (models.vision.generators.image_bank), in the share
    `synthesis` of its steps. The pixels minimise
        label * cross-entropy(teacher, the class each image is meant to be)
        + statistics * sum over BatchNorms of batch_norm_statistics_loss + variation * image_variation_loss
        + norm * image_norm_loss + prior * image_prior_loss - compete * JSD(student, teacher)
    and stay within the range of real pixels. `compete` acts from the second round on, when there is a student (Adaptive
    DeepInversion). The student minimises parts.terms. `norms`: see data_free.statistics_terms.
    Yin, Molchanov, Li, Alvarez, Mallya, Hoiem, Jha, Kautz, "Dreaming to Distill: Data-free Knowledge Transfer via
    DeepInversion", 2020, arXiv 1912.08795. They optimise one batch after the other; here every step draws a new batch
    of the block, the first layer weighs as much as the others, and `variation`, `norm` and `prior` (theirs) default to
    0.
    """
    needs(parts, "bank")
    size = bank_size(parts)
    making = round(synthesis * parts.steps / max(rounds, 1))
    learning = parts.steps // max(rounds, 1) - making
    if rounds < 1 or min(making, learning) < 1 or size % rounds:
        raise ValueError(
            "Wanted: rounds that divide the bank, each with steps for synthesis and for the student; "
            f"got {rounds=} and {synthesis=} of {parts.steps} steps with {size} images."
        )
    images = Call("bank", ("batch.index", "extra.window"))
    teacher = Call("teacher", ("bank.logits",), train=False)
    terms = _terms(
        parts, norms, {"label": label, "statistics": statistics, "variation": variation, "norm": norm, "prior": prior}
    )
    paint = parts.make_tx(making, "bank")
    rival, rivalry = (), {}
    if compete:
        rival = (Call("student", ("bank.logits",), train=False),)
        rivalry = {"compete": Term(jsd_loss, ("student.logits", "teacher.logits"), weight=-float(compete))}
    # Never one object: a step is compiled for the optimizers that the state holds, of which there are more later.
    make_first = (Phase("bank", (images, teacher), terms, paint),)
    make_more = (Phase("bank", (images, teacher, *rival), terms | rivalry, paint),)
    metrics = {"agreement": Term(agreement, ("student.logits",), ("teacher.logits",))}
    taught, learner = parts.make_tx(learning, "student"), Call("student", ("bank.logits",))
    learn = (Phase("student", (images, learner, teacher), parts.terms, taught, metrics),)
    clip, block = clip_to(parts.sources["train"]), size // rounds
    stages = []
    for number in range(rounds):
        make = make_more if number else make_first
        stages += [
            Stage(making, make, clip, _window(number * block, block), name=f"synthesis {number + 1}"),
            Stage(learning, learn, None, _window(0, (number + 1) * block), name=f"student {number + 1}"),
        ]
    extra = {"window": np.array([0, block], np.int32)}

    def summary(state: TrainState, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        del results
        bank = state.params["bank"]["bank"]["images"]
        some = bank[np.random.default_rng(0).permutation(size)[:256]]
        return samples(parts, state, some, "Pixels optimised from noise; no real image was seen.")

    return Scheme(parts.roles, tuple(stages), reference="teacher", extra=extra, summary=summary, task=parts.task)


def _terms(parts: Parts, norms: Mapping[str, str] | None, weights: Mapping[str, float]) -> dict[str, Term]:
    """Returns the terms that the pixels minimise, without those whose weight is 0."""
    variation, norm, prior, label = (float(weights[name]) for name in ("variation", "norm", "prior", "label"))
    terms = {
        "label": Term(cross_entropy_loss, ("teacher.logits",), ("bank.features:label",), weight=label),
        "variation": Term(image_variation_loss, ("bank.logits",), weight=variation),
        "norm": Term(image_norm_loss, ("bank.logits",), weight=norm),
        "prior": Term(image_prior_loss, ("bank.logits",), weight=prior),
    }
    terms = {name: term for name, term in terms.items() if term.weight}
    terms |= statistics_terms(parts, weights["statistics"], norms)
    if not terms:
        raise ValueError("The images have nothing to learn: give label, statistics, variation, norm or prior a weight.")
    return terms


def bank_size(parts: Parts) -> int:
    """Returns how many images the role "bank" holds; ValueError where it is none."""
    like, window = jnp.zeros(1, jnp.int32), jnp.zeros(2, jnp.int32)
    params, _ = jax.eval_shape(parts.roles["bank"].model.init, jax.random.key(0), like, window)
    if "images" not in params:
        raise ValueError(
            f"The role 'bank' is models.vision.generators.image_bank, with 'images'; it has {sorted(params)}."
        )
    return params["images"].shape[0]


def _window(first: int, count: int) -> Any:
    """Returns an `on_enter`: from now on the bank gives its images first ... first + count - 1."""

    def enter(state: TrainState) -> TrainState:
        sharding = state.extra["window"].sharding
        return state.replace(
            extra=state.extra | {"window": jax.device_put(np.array([first, count], np.int32), sharding)}
        )

    return enter


def clip_to(source: Any) -> Any:
    """Returns a `post_update` that clips the bank's pixels to the range of uint8 images; None for images of floats."""
    if source.images is not None and source.images.dtype != np.uint8:
        return None
    mean, std = (np.asarray(x, np.float32).reshape(1, 1, 1, -1) for x in (source.mean, source.std))

    def clip(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        del context
        group = state.params["bank"]
        images: Array = group["bank"]["images"]
        inside = {"images": jnp.clip(images, -mean / std, (1 - mean) / std)}
        return state.replace(params=state.params | {"bank": {**group, "bank": inside}})

    return clip
