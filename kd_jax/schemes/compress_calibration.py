"""What a step of a chain that scores its units by its own rule is shown: training examples, and the labels' loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import lookup
from kd_jax.core.terms import options_of, term_value
from kd_jax.data.batches import eval_batches
from kd_jax.data.source import subset
from kd_jax.system.parallel import batch_sharding, on_host, replicated
from kd_jax.types import Array, Outputs, Parts, PyTree

EXAMPLES, BATCH = 1024, 64  # of the training split, without augmentation, as many as Minitron takes


class Batches:
    """(what a network reads, the prepared batch) of training examples, from the first one whenever it is walked."""

    def __init__(self, parts: Parts, inputs: tuple[str, ...], mesh: jax.sharding.Mesh) -> None:
        self.parts, self.inputs, self.mesh = parts, inputs, mesh
        size = mesh.size * -(-BATCH // mesh.size)
        source = parts.sources["train"]
        count = max(min(len(source), EXAMPLES) // size, 1) * size
        rows = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
        self.size, self.source = size, subset(source, rows)

    def __iter__(self) -> Iterator[tuple[tuple[PyTree, ...], Mapping[str, Array]]]:
        prepare = jax.jit(lambda batch: self.parts.prepare(batch, jax.random.key(0), False))
        for batch in eval_batches(self.source, batch_size=self.size, sharding=batch_sharding(self.mesh)):
            whole = {**prepare({k: v for k, v in batch.items() if k != "mask"}), "mask": batch["mask"]}
            yield tuple(lookup({"batch": whole}, path) for path in self.inputs), whole


def labels_loss(parts: Parts) -> Callable[[Outputs, Mapping[str, Array]], Array]:
    """Returns (outputs, batch) -> the loss of the task's own terms. Distillation's would not do: where a network still
    is the teacher, it has no gradient."""
    terms = parts.task.terms(parts.sources["train"])

    def loss(outputs: Outputs, batch: Mapping[str, Array]) -> Array:
        context = {"batch": batch, "student": outputs, "step": jnp.int32(0)}
        total = jnp.float32(0)
        for name, term in terms.items():
            weight, kwargs = options_of(term, {"kwargs": {}}, jnp.int32(0))
            value, count, _ = term_value(name, term, context, kwargs)
            total += weight * value / jnp.maximum(count, 1)
        return total

    return loss


def calibrated(
    parts: Parts, inputs: tuple[str, ...], scorer: Callable[..., Mapping[str, Any]], params: PyTree, stats: PyTree
) -> Mapping[str, Any]:
    """Returns the scores that `scorer` gives, as NumPy, for a network that reads the batch paths `inputs`."""
    mesh = jax.sharding.get_mesh()
    params, stats = jax.device_put((params, stats), replicated(mesh))
    return on_host(scorer(params, stats, batches=Batches(parts, inputs, mesh), loss=labels_loss(parts)))
