"""A trained network as a finished run looks at it: its parts, its inputs, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.chunked import scores
from kd_jax.core.evaluate import answer_at, unbuilt_at
from kd_jax.core.paths import lookup
from kd_jax.types import Model, Outputs, PyTree, Role


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network as the report measures it; `fixed` holds the inputs that do not come from the batch.

    What stands in for a cached teacher has no parameters: `cost` was measured when its answers were stored, and
    `whole` reads the teacher itself where it is on this machine.
    """

    model: Model
    params: PyTree
    stats: PyTree
    role: Role
    fixed: Mapping[str, PyTree]
    path: str  # of the main output that is reported
    cost: Mapping[str, Any] | None = None
    whole: Callable[[], Network] | None = None

    @property
    def variables(self) -> tuple[PyTree, PyTree]:
        return self.params, self.stats

    def inputs(self, batch: Mapping[str, jax.Array]) -> tuple[PyTree, ...]:
        paths = enumerate(self.role.inputs)
        return tuple(self.fixed[str(i)] if str(i) in self.fixed else lookup({"batch": batch}, p) for i, p in paths)

    def outputs(self, batch: Mapping[str, jax.Array]) -> Outputs:
        """Returns what the network answers to a prepared batch, as NumPy arrays."""

        def infer(params: PyTree, stats: PyTree, *inputs: PyTree) -> PyTree:
            return answer_at(self.path, self.model, params, stats, inputs)

        answers = jax.jit(infer)(self.params, self.stats, *self.inputs(batch))
        return Outputs(jax.tree.map(np.asarray, answers))


def next_tokens_of(entry: str, model: Model) -> Callable[..., jax.Array]:
    """Returns (params, stats, *inputs) -> the likeliest next token at each place, int [batch, length].

    Where the network says how its logits are made, those of a few tokens exist at a time.
    """

    def answer(params: PyTree, stats: PyTree, *inputs: PyTree) -> jax.Array:
        return scores({"next": (_likeliest, unbuilt_at(entry, model, params, stats, inputs))})["next"]

    return answer


def _likeliest(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1)
