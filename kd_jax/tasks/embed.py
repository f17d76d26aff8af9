"""Embeddings: how well labels can be read off them by neighbours, by a linear map, and whether pairs find each other.

Nothing needs a label in training; the scores need some in the training split, and in the one that is scored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.losses.multimodal import affinity_interactive_loss
from kd_jax.ranges import Count, Positive
from kd_jax.resolve import near
from kd_jax.tasks.classify import majority
from kd_jax.tasks.common import require_labels
from kd_jax.tasks.logits import cross_entropy
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

ROWS = {
    "knn_accuracy": ("accuracy of nearest neighbours", "%"),
    "probe_accuracy": ("accuracy of a linear probe", "%"),
    "recall": ("pairs that find each other", "%"),
    "rank": ("effective rank", ""),
}
STRENGTHS = tuple(10.0**power for power in range(-6, 3))  # of the ridge, in units of the mean eigenvalue
CHUNK = 512


def task(
    source: Any = None,
    entry: str = "",
    pair: str = "",
    neighbours: Count[int] = 20,
    temperature: Positive[float] = 0.07,
    scale: Positive[float] = 1 / 0.07,
) -> Task:
    """Returns the task of embeddings: nearest neighbours (headline), linear probe, effective rank, pairs.

    Networks answer [batch, width]; or {entry: [batch, width], ...}, of which `entry` is scored, and `pair` is the
    embedding of the same example in another modality. What teachers that are trained here, and the baseline, learn
    from: with `pair` the contrast of both at `scale` = 1 / temperature (no label), else the cross-entropy of the tap
    "logits" (models.encoders.encoder). Labels are integers [batch], -1 = none.
    """
    if bool(entry) != bool(pair):
        raise ValueError(f"config.task.kwargs: entry={entry!r} and pair={pair!r} come together, or neither does.")
    return Task(
        terms=functools.partial(terms, entry=entry, pair=pair, scale=scale),
        check=functools.partial(check, entries=tuple(filter(None, (entry, pair)))),
        sums=lambda run, batch, reference, key: {},
        collect=functools.partial(collect, entry=entry, pair=pair),
        reads=("train",),
        finish=functools.partial(finish, neighbours=neighbours, temperature=temperature),
        headline=Headline("knn_accuracy", +1, "%", "knn_error"),
        chance=majority,
        rows={name: row for name, row in ROWS.items() if pair or name != "recall"},
        name="embed",
        predict=None if entry else embedding,
        predicts="the embedding",
    )


def embedding(output: Array) -> Array:
    """Returns the embedding that a network answers, [batch, width]."""
    return output


def terms(source: Any, entry: str, pair: str, scale: float) -> dict[str, Term]:
    """Returns the contrast of pairs, or the cross-entropy of the network's own logits on labelled examples."""
    if pair:
        paths = (f"student.logits.{entry}", f"student.logits.{pair}")
        return {"pairs": Term(affinity_interactive_loss, (*paths, *paths), kwargs={"scale": float(scale)})}
    require_labels(source, True, (1,), "one integer an example, its class")
    return cross_entropy("student.features:logits")


def check(outputs: Outputs, batch: Mapping[str, Any], entries: tuple[str, ...]) -> None:
    """Raises ValueError unless what is scored is [batch, width]."""
    size, output = batch["label"].shape[0], outputs.logits
    if entries and not isinstance(output, Mapping):
        raise ValueError(
            f"its output is one array, and config.task.kwargs names the entries {', '.join(entries)} of it"
        )
    for name in entries:
        if name not in output:
            raise ValueError(f"its output has no entry {name!r}. {near(name, output)}")
    for name, x in {name: output[name] for name in entries}.items() if entries else [("", output)]:
        shape = getattr(x, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != size:
            what = f"entry {name!r} of its output" if name else "its output"
            raise ValueError(f"{what} has shape {shape or type(x).__name__}; an embedding is [batch, width]")


def collect(run: Run, batch: Mapping[str, Array], key: Array, entry: str, pair: str) -> dict[str, Array]:
    """Returns the embeddings, and the labels."""
    output = run().logits
    arrays = {"embedding": output[entry], "pair": output[pair]} if pair else {"embedding": output}
    return {**arrays, "label": batch["label"]}


def finish(
    sums: Mapping[str, Any], collected: Mapping[str, Mapping[str, np.ndarray]], neighbours: int, temperature: float
) -> dict[str, Any]:
    """Returns knn_accuracy with its standard error, probe_accuracy, rank, recall; None where no label says it."""
    train, scored = collected["train"], collected["scored"]
    values: dict[str, Any] = {"knn_accuracy": None, "knn_error": None, "probe_accuracy": None}
    values["rank"] = effective_rank(scored["embedding"])
    if "pair" in scored:
        values["recall"] = recall(scored["embedding"], scored["pair"])
    (x, y), (other, labels) = (_labelled(part) for part in (train, scored))
    if len(y) and len(labels):
        hits = nearest(x, y, other, neighbours, temperature) == labels
        p = values["knn_accuracy"] = float(hits.mean())
        values["knn_error"] = math.sqrt(p * (1 - p) / len(labels))
        values["probe_accuracy"] = float((probe(x, y)(other) == labels).mean())
    return values


def _labelled(part: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows = part["label"] >= 0
    return np.asarray(part["embedding"], np.float64)[rows], part["label"][rows]


def nearest(x: np.ndarray, y: np.ndarray, queries: np.ndarray, neighbours: int, temperature: float) -> np.ndarray:
    """Returns the class [m] that the nearest rows of x [n, width] vote for, each with weight exp(cosine / T).

    y int [n], queries [m, width]. Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", 2018, arXiv 1805.01978, with 20 neighbours as DINO (arXiv 2104.14294). Of rows that are equally
    near those that come first count.
    """
    rows, queries, count = _unit(x), _unit(queries), min(neighbours, len(x))
    classes, answers = int(y.max()) + 1, []
    for start in range(0, len(queries), CHUNK):
        cosines = queries[start : start + CHUNK] @ rows.T
        at = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        weights = np.exp((np.take_along_axis(cosines, at, axis=1) - 1) / temperature)
        votes = np.zeros((len(at), classes))
        np.add.at(votes, (np.arange(len(at))[:, None], y[at]), weights)
        answers.append(votes.argmax(1))
    return np.concatenate(answers)


def probe(x: np.ndarray, y: np.ndarray) -> Any:
    """Returns a function queries [m, width] -> classes [m]: ridge regression of the classes on x [n, width].

    Features are standardised by x. Of STRENGTHS it takes the one of the least squared error when each row of x is left
    out in turn, which has a closed form (Allen's PRESS, 1974): no example that is scored has a say.
    """
    mean, std = x.mean(0), np.maximum(x.std(0), 1e-12)

    def features(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([(rows - mean) / std, np.ones((len(rows), 1))], axis=1)

    design, target = features(x), np.eye(int(y.max()) + 1)[y]
    values, vectors = np.linalg.eigh(design.T @ design)
    turned, scale = design @ vectors, max(float(values.mean()), 1e-12)
    best, weights = math.inf, np.zeros((design.shape[1], target.shape[1]))
    for strength in STRENGTHS:
        inverse = 1 / (np.maximum(values, 0) + strength * scale)
        solution = inverse[:, None] * (turned.T @ target)
        leverage = np.einsum("ij,j,ij->i", turned, inverse, turned)
        left_out = (target - turned @ solution) / np.maximum(1 - leverage, 1e-9)[:, None]
        if (error := float(np.square(left_out).mean())) < best:
            best, weights = error, vectors @ solution
    return lambda rows: (features(rows) @ weights).argmax(1)


def effective_rank(x: np.ndarray) -> float:
    """Returns exp of the entropy of the singular values of x [n, width], from 1 (collapsed) to the width.

    Garrido, Balestriero, Najman, LeCun, "RankMe", 2022, arXiv 2210.02885; of the centred embeddings, 0 where all are
    one.
    """
    x = np.asarray(x, np.float64)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    if not values.max(initial=0.0) > 1e-9 * (1 + float(np.abs(x).max(initial=0.0))):
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def recall(x: np.ndarray, pairs: np.ndarray) -> float:
    """Returns the mean over both directions of the share of rows whose pair is the nearest of all [n, width]."""
    x, pairs = _unit(x), _unit(pairs)
    hits = [
        np.concatenate(
            [
                (a[i : i + CHUNK] @ b.T).argmax(1) == np.arange(i, min(i + CHUNK, len(a)))
                for i in range(0, len(a), CHUNK)
            ]
        )
        for a, b in ((x, pairs), (pairs, x))
    ]
    return float(np.mean(hits))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
