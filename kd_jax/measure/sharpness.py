"""Sharpness of the minimum: how much the loss rises in a ball around the parameters, and its largest curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kd_jax.core.evaluate import answer_at
from kd_jax.core.network import Network
from kd_jax.data.source import subset
from kd_jax.measure.subject import Measure, Measured, Subject, rows_until
from kd_jax.ranges import Count, Positive
from kd_jax.types import Array, PyTree

Loss = Callable[[Array], Array]  # of all float parameters as one vector


def measure(
    subject: Subject, rho: Positive[float] = 0.05, iterations: Count[int] = 20, examples: Count[int] = 512
) -> Measured:
    """Returns the rise of the training loss in a ball of radius rho, and the largest eigenvalue of its Hessian.

    The loss is the cross-entropy on the first labelled training examples, unaugmented, with BatchNorm's averages. Both
    depend on the scale of the parameters (Dinh et al. 2017, arXiv 1703.04933): they compare networks of one
    architecture, student and baseline. A network without gradients has None.
    """
    source = subject.source("train")
    labelled = np.flatnonzero(source.labelled)[:examples]
    values: dict[str, dict[str, Any]] = {}
    for role in subject.networks:
        network = subject.differentiable(role)
        values[role] = {"sharpness": None, "hessian": None}
        if network is not None:
            first = subset(source, labelled)
            values[role] = _measured(subject.of("train", first), network, rho, iterations)
    rows = {
        "sharpness": (f"rise of the training loss within {rho:g} (SAM)", ""),
        "hessian": ("largest eigenvalue of the Hessian", ""),
    }
    return Measured(values, rows)


def _measured(subject: Subject, network: Network, rho: float, iterations: int) -> dict[str, Any]:
    start, restore = as_vector(network.params)
    batches = [({**subject.prepared(b), "mask": b["mask"]}) for b in rows_until(subject.batches("train"), 0)]
    count = sum(int(np.asarray(b["mask"]).sum()) for b in batches)

    def loss(vector: Array, batch: Any, inputs: tuple[PyTree, ...]) -> Array:
        logits = answer_at(network.path, network.model, restore(vector), network.stats, inputs).astype(jnp.float32)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], -1)[:, 0]
        return -jnp.where(batch["mask"], picked, 0.0).sum() / count

    parts = [({"label": b["label"], "mask": jnp.asarray(b["mask"])}, network.inputs(b)) for b in batches]
    value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    product = jax.jit(lambda v, d, *part: jax.jvp(lambda w: jax.grad(loss)(w, *part), (v,), (d,))[1])

    def total(of: Callable[..., Array], *arguments: Array) -> Array:
        return sum((of(*arguments, *part) for part in parts), jnp.zeros(()))

    rise = sam_rise(lambda w: total(value, w), total(gradient, start), start, rho)
    curvature = largest_eigenvalue(
        lambda d: total(product, start, d), jax.random.normal(jax.random.key(subject.seed), start.shape), iterations
    )
    return {"sharpness": rise, "hessian": curvature}


def as_vector(params: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Returns the float parameters as one float32 vector, and what makes the parameters of it again."""
    leaves, tree = jax.tree.flatten(params)
    floats = [jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) for x in leaves]
    vector, unravel = ravel_pytree(
        [jnp.asarray(x, jnp.float32) for x, is_float in zip(leaves, floats, strict=True) if is_float]
    )

    def restore(vector: Array) -> PyTree:
        changed = iter(unravel(vector))
        whole = [next(changed) if is_float else x for x, is_float in zip(leaves, floats, strict=True)]
        return jax.tree.unflatten(tree, whole)

    return vector, restore


def sam_rise(loss: Loss, gradient: Array, at: Array, rho: float) -> float:
    """Computes L(w + rho g / |g|) - L(w): the rise to the worst point of the ball, to first order.

    Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021,
    arXiv 2010.01412, equation 2. 0 where the gradient is.
    """
    norm = jnp.linalg.norm(gradient)
    return float(loss(at + rho * gradient / jnp.maximum(norm, 1e-12)) - loss(at))


def largest_eigenvalue(product: Callable[[Array], Array], start: Array, iterations: int) -> float:
    """Computes the eigenvalue of largest magnitude of a symmetric matrix by power iteration, as a Rayleigh quotient.

    `product(vector)` multiplies with the matrix, here the Hessian: it is never made itself.
    """
    vector, value = start / jnp.linalg.norm(start), 0.0
    for _ in range(iterations):
        turned = product(vector)
        value = float(vector @ turned)
        vector = turned / jnp.maximum(jnp.linalg.norm(turned), 1e-30)
    return value


MEASURE = Measure(measure, needs=("classes", "training_labels"))
