"""Weights of 8, 4 or 2 bits as a step of a chain: what learns after it is trained as it is rounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from kd_jax.compress.plan import Network, Scores, Smaller
from kd_jax.models.quantised import FLOAT, PACKED, Quantised, check_pattern
from kd_jax.types import Array, Model, Outputs, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Rounded:
    """`model` with rounded weights, and rounded inputs of layers where `activations` is below 32.

    It is models.quantised.Quantised with fixed numbers of bits; params and stats are those of `model`.
    """

    model: Model
    bits: int
    activations: int = FLOAT
    pattern: str = "kernel$"
    keep: str = ""

    def init(self, key: Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        return self.model.init(key, *inputs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: PyTree, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        network = Quantised(self.model, self.pattern, self.keep, self.activations < FLOAT)
        bits = jnp.asarray([self.bits, self.activations], jnp.float32)
        return network.apply(params, stats, *inputs, bits, train=train, key=key, taps=taps)


def inside(model: Model, wrap: Callable[[Model], Model]) -> Model:
    """Returns wrap(model), inside of the rounding where the model is rounded: integers are what is stored of it."""
    return dataclasses.replace(model, model=wrap(model.model)) if isinstance(model, Rounded) else wrap(model)


def quantise(
    network: Network, bits: int, activations: int = FLOAT, pattern: str = "kernel$", keep: str = ""
) -> Smaller:
    """Returns the network with the parameters that match `pattern` rounded to `bits` (8, 4 or 2), one step a channel.

    A kernel whose path matches `keep` has 8. `activations` are the bits of what layers read, 4 to 8, or 32 for float. A
    network that is rounded already gets other bits. Raises ValueError for bits that do not exist, and a pattern that
    matches nothing. The rounding, and why it is not qwix's: kd_jax/models/quantised.py.
    """
    if bits not in PACKED:
        raise ValueError(f"quantise: weights have 8, 4 or 2 bits, not {bits}.")
    if not (activations == FLOAT or 4 <= activations <= 8):
        raise ValueError(f"quantise: what layers read has 4 to 8 bits, or {FLOAT} for float, not {activations}.")
    check_pattern(network.params, pattern)
    inner = network.model.model if isinstance(network.model, Rounded) else network.model

    def transform(params: PyTree, stats: PyTree, scores: Scores) -> tuple[PyTree, PyTree]:
        return params, stats

    label = f"int{bits}" + (f", activations of {activations} bits" if activations < FLOAT else "")
    return Smaller(Rounded(inner, bits, activations, pattern, keep), transform, label)
