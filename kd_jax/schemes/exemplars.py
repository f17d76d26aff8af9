"""A memory of examples of earlier tasks, of fixed size, in TrainState.extra.

extra.memory holds {"image", "label"} of all rows, label -1 where a row is still empty; extra.replay the rows of the
coming step, {"image", "label", "held"}. Images are stored as the networks see them, without augmentation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.resolve import near
from kd_jax.system import parallel
from kd_jax.types import Array, Parts, Role, TrainState

CHOICES = ("herding", "random")
_CHUNK = 256


def build(
    parts: Parts, student: Role, sizes: Sequence[int], per_class: int, replay: int, choose: str, tap: str
) -> tuple[dict[str, Any], Callable, Callable]:
    """Returns the first entries of extra, remember(state, task) -> the new ones, and a post_update.

    The memory has sizes[k] rows for task k. When a task ends, `per_class` examples of each of its classes are stored
    for good; every step draws `replay` of all that are stored. `choose`: "herding" chooses by the student's `tap`,
    "random" at random. Raises ValueError for another `choose`, for inputs other than images, and for classes with too
    few examples.
    """
    if choose not in CHOICES:
        raise ValueError(f"Exemplars are chosen by {' or '.join(CHOICES)}, not {choose!r}. {near(choose, CHOICES)}")
    if per_class < 1 or replay < 1 or student.inputs != ("batch.image",):
        raise ValueError(
            f"Replay needs memory and replay >= 1 and a student of images: {per_class}, {replay}, {student.inputs}."
        )
    for task in range(len(sizes)):
        source = parts.sources[f"task{task}"]
        if source.images is None or np.unique(source.labels, return_counts=True)[1].min() < per_class:
            raise ValueError(f"{source.name}/task{task}: needs images in memory, at least {per_class} of each class.")
    rows, starts = sum(sizes), list(itertools.accumulate(sizes, initial=0))
    replay = min(replay, rows)
    shape = parts.sources["task0"].images.shape[1:]
    image, label = np.zeros((rows, *shape), np.float32), np.full(rows, -1, np.int32)
    drawn = {"image": image[:replay], "label": label[:replay], "held": np.zeros(replay, bool)}
    pick = _chooser(parts, student, per_class, choose, tap)

    def remember(state: TrainState, task: int) -> dict[str, Any]:
        new, memory = pick(state, task), state.extra["memory"]
        memory = {k: memory[k].at[starts[task] : starts[task + 1]].set(new[k]) for k in memory}
        return {"memory": memory, "replay": draw(memory, state.step, replay)}

    def post_update(state: TrainState, context: Mapping[str, Any]) -> TrainState:
        drawn = draw(state.extra["memory"], state.step + 1, replay)
        return state.replace(extra={**state.extra, "replay": drawn})

    return {"memory": {"image": image, "label": label}, "replay": drawn}, remember, post_update


def draw(memory: Mapping[str, Array], step: Array, replay: int) -> dict[str, Array]:
    """Draws `replay` rows without replacement, stored ones first: a function of memory and step alone."""
    chance = jax.random.uniform(jax.random.fold_in(jax.random.key(0), step), memory["label"].shape)
    _, rows = jax.lax.top_k(jnp.where(memory["label"] >= 0, chance, -1.0), replay)
    image, label = (memory[name][rows] for name in ("image", "label"))
    return {"image": image, "label": label, "held": label >= 0}


def herd(features: np.ndarray, count: int) -> np.ndarray:
    """Chooses rows [count] of features [n, d] greedily: row i minimises ||mean of all - mean of the first i rows||.

    Rebuffi, Kolesnikov, Sperl, Lampert, "iCaRL: Incremental Classifier and Representation Learning", 2016, arXiv
    1611.07725, algorithm 4; no row is taken twice, which the paper leaves open.
    """
    mean, total, rows = features.mean(0), np.zeros_like(features[0]), []
    for i in range(1, count + 1):
        distance = np.square(mean - (total + features) / i).sum(1)
        distance[rows] = np.inf
        rows.append(int(distance.argmin()))
        total = total + features[rows[-1]]
    return np.asarray(rows)


def _chooser(
    parts: Parts, student: Role, per_class: int, choose: str, tap: str
) -> Callable[..., dict[str, np.ndarray]]:
    """Returns (state, task) -> {"image", "label"} of the exemplars, class by class."""
    key = jax.random.key(0)  # evaluation mode draws nothing; the signatures want a key

    @jax.jit
    def prepared(image: Array, label: Array) -> Array:
        batch = {"image": image, "label": label, "labelled": label >= 0, "index": label, "view": label}
        return parts.prepare(batch, key, False)["image"].astype(jnp.float32)

    @jax.jit
    def embedded(params: Any, stats: Any, image: Array, label: Array) -> Array:
        outputs, _ = student.model.apply(params, stats, prepared(image, label), train=False, key=key, taps=(tap,))
        return outputs.features[tap].reshape(image.shape[0], -1).astype(jnp.float32)

    def chunks(fn: Callable[..., Array], images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        results = []
        for start in range(0, len(images), _CHUNK):  # padded to one shape, so that each function compiles once
            rows = np.minimum(np.arange(start, start + _CHUNK), len(images) - 1)
            results.append(parallel.on_host(fn(images[rows], labels[rows])))
        return np.concatenate(results)[: len(images)]

    def pick(state: TrainState, task: int) -> dict[str, np.ndarray]:
        source = parts.sources[f"task{task}"]
        images, labels = source.images, source.labels.astype(np.int32)
        order = np.random.default_rng((task, 6)).permutation(len(labels))
        of_classes = [order[labels[order] == c] for c in np.unique(labels)]
        if choose == "herding":
            variables = state.params["student"]["student"], state.stats["student"]
            features = chunks(lambda x, y: embedded(*variables, x, y), images, labels)
            features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
            chosen = [members[herd(features[members], per_class)] for members in of_classes]
        else:
            chosen = [members[:per_class] for members in of_classes]
        rows = np.concatenate(chosen)
        return {"image": chunks(prepared, images[rows], labels[rows]), "label": labels[rows]}

    return pick
