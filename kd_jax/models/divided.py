"""A network whose logits are divided by a temperature."""

from __future__ import annotations

import dataclasses

import jax

from kd_jax.types import Array, Model, Outputs, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Divided:
    """`model` with its main output divided by `temperature`; params, stats and features are those of `model`."""

    model: Model
    temperature: float

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.model.init(key, *inputs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        outputs, stats = self.model.apply(params, stats, *inputs, train=train, key=key, taps=taps)
        logits = jax.tree.map(lambda x: x / self.temperature, outputs.logits)
        return Outputs(logits, outputs.features), stats
