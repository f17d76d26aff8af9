"""Centred kernel alignment: how alike a teacher and a student represent the same examples, layer by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.network import Network
from kd_jax.measure.subject import Batch, Measure, Measured, Subject, rows_until
from kd_jax.ranges import Count
from kd_jax.resolve import pattern_of
from kd_jax.types import Array, PyTree


def measure(subject: Subject, layers: str = "[^/]+", examples: Count[int] = 512) -> Measured:
    """Returns the linear CKA of each network with the teacher, between all pairs of their layers, on test examples.

    `layers` is a regular expression that a tap matches wholly; those of the default are the outermost modules. Of a
    layer the report has the teacher's that is most alike; "mean" is the mean of these over the network's layers. With
    few examples of many numbers CKA is biased upward: compare networks at equal `examples`, of which the first count.
    """
    teacher = subject.network("teacher")
    others = {role: n for role in subject.networks if role != "teacher" and (n := subject.network(role))}
    if teacher is None:
        return Measured({}, {})
    batch = _first(subject, examples)
    of_teacher = grams(teacher, subject.prepared(batch), layers)
    values: dict[str, dict[str, Any]] = {}
    table: list[list[Any]] = []
    for role, network in others.items():
        mine = grams(network, subject.prepared(batch), layers)
        pairs = {layer: {t: cka(k, of_teacher[t]) for t in of_teacher} for layer, k in mine.items()}
        best = {layer: max(alike, key=alike.__getitem__) for layer, alike in pairs.items()}
        values[role] = {"mean": float(np.mean([pairs[layer][best[layer]] for layer in best])), "layers": pairs}
        table += [[f"{role}: {layer}", best[layer], f"{pairs[layer][best[layer]]:.3f}"] for layer in best]
    section = {
        "kind": "table",
        "title": "Layers that represent alike (CKA)",
        "lead": f"Of every layer the teacher's that is most alike, on {len(batch['index'])} test examples; 1 is equal "
        "up to rotation and scale.",
        "columns": ["", "the teacher's layer", "linear CKA"],
        "rows": table,
    }
    return Measured(values, {"mean": ("CKA with the teacher, mean of layers", "")}, [section])


def _first(subject: Subject, examples: int) -> Batch:
    """The first test examples in one batch."""
    parts = [
        {name: np.asarray(x)[np.asarray(b["mask"])] for name, x in b.items()}
        for b in rows_until(subject.batches("test"), examples)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def grams(network: Network, prepared: Batch, layers: str) -> dict[str, np.ndarray]:
    """Returns {tap: gram(features)} of the taps that match, in the order of the network; ValueError where none does."""
    pattern = pattern_of(layers, "config.measure_kwargs.cka.layers")
    inputs = network.inputs(prepared)

    names: list[str] = []  # what a program returns is sorted by name

    @jax.jit
    def run(params: PyTree, stats: PyTree, *inputs: PyTree) -> list[Array]:
        key = jax.random.key(0)
        features = network.model.apply(params, stats, *inputs, train=False, key=key, taps=("*",))[0].features
        names[:] = [
            n for n, x in features.items() if pattern.fullmatch(n) and _is_of_examples(x, len(prepared["index"]))
        ]
        return [gram(features[name]) for name in names]

    made = run(network.params, network.stats, *inputs)
    if not names:
        raise ValueError(f"config.measure_kwargs.cka.layers={layers!r} matches no layer behind {network.path}.")
    return {name: np.asarray(k, np.float64) for name, k in zip(names, made, strict=True)}


def _is_of_examples(x: Any, count: int) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) and x.ndim > 1 and len(x) == count


def gram(features: Array) -> Array:
    """Computes K = X X^T of the features [n, ...] centred over the examples, float32 [n, n]."""
    x = features.reshape(len(features), -1).astype(jnp.float32)
    x -= x.mean(0, keepdims=True)
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)


def cka(one: np.ndarray, other: np.ndarray) -> float:
    """Computes tr(K L) / (|K| |L|) of two matrices of `gram`: ||Y^T X||^2 / (||X^T X|| ||Y^T Y||), Frobenius norms.

    Linear CKA of Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", 2019, arXiv
    1905.00414. nan where a layer gives all examples the same.
    """
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float((one * other).sum() / size) if size else float("nan")


MEASURE = Measure(measure, needs=("teacher",))
