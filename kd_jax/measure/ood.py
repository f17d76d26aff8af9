"""Out of distribution: does a network tell examples of its data from others, by how sure it is?"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax, logsumexp
from scipy.stats import rankdata

from kd_jax.data import load
from kd_jax.data.source import Source
from kd_jax.measure.subject import Measure, Measured, Subject, infer_of

SHUFFLED, NOISE = "shuffled", "noise"


def measure(subject: Subject, data: str = SHUFFLED, directory: str = "") -> Measured:
    """Returns AUROC, and false positives at 95% true ones, of the test set against other examples.

    `data` are the others: "shuffled" are the test examples with their pixels in a random order (features: each taken
    from another example), which keeps the histogram, "noise" uniform pixels (features: normal ones of their mean and
    deviation), any other word the test split of data of that name (config.data.name), read from `directory`, in the
    size and channels of these. Scores are the largest probability (Hendrycks, Gimpel, "A Baseline for Detecting
    Misclassified and Out-of-Distribution Examples in Neural Networks", 2017, arXiv 1610.02136) and the energy,
    logsumexp of the logits (Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", 2020, arXiv 2010.03759,
    at temperature 1).
    """
    there = subject.of("test", others(subject, data, directory))
    networks = {role: network for role in subject.networks if (network := subject.network(role))}
    values = {}
    for role, network in networks.items():
        inside, outside = (_answers(of, network) for of in (subject, there))
        values[role] = {}
        for name, score in {"max_softmax": largest_probability, "energy": energy}.items():
            values[role][f"auroc_{name}"] = auroc(score(inside), score(outside))
            values[role][f"fpr95_{name}"] = false_positives(score(inside), score(outside))
    rows = {
        "auroc_max_softmax": (f"AUROC against {data}, by confidence", "%"),
        "auroc_energy": (f"AUROC against {data}, by energy", "%"),
        "fpr95_energy": ("others taken for test examples at 95%, by energy", "%"),
    }
    return Measured(values, rows)


def _answers(subject: Subject, network: object) -> np.ndarray:
    infer, parts = infer_of(network), []
    for batch in subject.batches("test"):
        answers = np.asarray(infer(subject.prepared(batch)), np.float64)
        parts.append(answers[np.asarray(batch["mask"])])
    return np.concatenate(parts)


def largest_probability(logits: np.ndarray) -> np.ndarray:
    """Computes log max softmax(logits), [n]: its order is that of the probability, without ties at 1."""
    return log_softmax(logits, -1).max(-1)


def energy(logits: np.ndarray) -> np.ndarray:
    """Computes logsumexp(logits), [n]: the negative energy, larger inside the distribution."""
    return logsumexp(logits, -1)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Computes the probability that a score from inside is above one from outside; equal ones count half.

    The area under the receiver operating characteristic, by Mann and Whitney's ranks.
    """
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))


def false_positives(inside: np.ndarray, outside: np.ndarray, true: float = 0.95) -> float:
    """Computes the share of scores from outside above the highest threshold that a share `true` of inside passes."""
    threshold = np.sort(inside)[::-1][max(int(np.ceil(true * len(inside))), 1) - 1]
    return float((outside >= threshold).mean())


def others(subject: Subject, data: str, directory: str) -> Source:
    """Returns the examples that are none of the run's; ValueError or DataNotFound where they cannot be read."""
    source, rng = subject.source("test"), np.random.default_rng(subject.seed)
    if data in (SHUFFLED, NOISE):
        examples = np.stack([source.example(i)["image"] for i in range(len(source))])
        return _like(source, (shuffled if data == SHUFFLED else noise)(examples, rng))
    other = load.load({"name": data, "directory": directory}).test
    if source.noun != "image" or other.noun != "image":
        raise ValueError(f"config.measure_kwargs.ood.data={data!r}: {source.name} or {other.name} has no pictures.")
    pictures = np.stack([other.example(i)["image"] for i in range(min(len(other), len(source)))])
    mine = np.asarray(source.example(0)["image"])
    if pictures.dtype != mine.dtype:
        raise ValueError(
            f"config.measure_kwargs.ood.data={data!r} has {pictures.dtype} pictures, those of {source.name} are "
            f"{mine.dtype}."
        )
    return _like(source, of_shape(pictures, mine.shape))


def _like(source: Source, examples: np.ndarray) -> Source:
    """A source of these examples without labels, prepared as `source` is."""
    labels = np.full(len(examples), -1, np.int32)
    fields = {name: values[: len(examples)] for name, values in source.fields.items()}
    changed = dict(images=examples, fetch=None, size=0, labels=labels, answers={}, fields=fields)
    return dataclasses.replace(source, **changed)


def shuffled(examples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns pictures [n, H, W, C] with their pixels in an order of their own; features [n, d] mixed by column."""
    if examples.ndim == 2:
        return rng.permuted(examples, axis=0)
    pixels = examples.reshape(len(examples), -1, examples.shape[-1])
    order = rng.permuted(np.tile(np.arange(pixels.shape[1]), (len(pixels), 1)), axis=1)
    return np.take_along_axis(pixels, order[..., None], 1).reshape(examples.shape)


def noise(examples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns uniform uint8 pixels; of floats, normal numbers of the mean and deviation of each feature or channel."""
    if examples.dtype == np.uint8:
        return rng.integers(0, 256, examples.shape, np.uint8)
    axes = tuple(range(examples.ndim - 1))
    return rng.normal(examples.mean(axes), examples.std(axes), examples.shape).astype(examples.dtype)


def of_shape(pictures: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns pictures in another size (bilinear, over an area where smaller), with one channel or three."""
    made = jax.image.resize(
        jnp.asarray(pictures, jnp.float32), (len(pictures), *shape[:2], pictures.shape[-1]), "linear"
    )
    if shape[-1] != made.shape[-1]:
        grey = made if made.shape[-1] == 1 else made @ jnp.array([[0.299], [0.587], [0.114]])
        made = jnp.repeat(grey, shape[-1], -1)
    rounded = jnp.clip(jnp.round(made), 0, 255) if pictures.dtype == np.uint8 else made
    return np.asarray(rounded).astype(pictures.dtype)


def _check(subject: Subject, data: str, directory: str) -> None:
    """Reads the other data, so that a wrong word is answered before the training and not after it."""
    if directory and data in (SHUFFLED, NOISE):
        raise ValueError(
            f"config.measure_kwargs.ood.directory={directory!r} has no effect: data={data!r} is made here."
        )
    if data not in (SHUFFLED, NOISE):
        others(subject, data, directory)


MEASURE = Measure(measure, needs=("classes", "arrays"), cheap=False, check=_check)
