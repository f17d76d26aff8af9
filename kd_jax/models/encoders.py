"""Encoders: networks whose main output is an embedding, of one input or of two towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from kd_jax.models.adapters import as_model
from kd_jax.resolve import made, resolve
from kd_jax.types import Array, Model, Outputs, PyTree

LOGITS = "logits"
TOWERS = ("image", "text")


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """The feature `tap` of `network` as the main output, [batch, ...] flattened; its own main output is tap "logits".

    All other taps, and the parameters, are those of the network.
    """

    network: Model
    tap: str

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.network.init(key, *inputs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        wanted = tuple(dict.fromkeys((*(tap for tap in taps if tap != LOGITS), self.tap)))
        outputs, stats = self.network.apply(params, stats, *inputs, train=train, key=key, taps=wanted)
        embedding = outputs.features[self.tap]
        features = {**outputs.features, LOGITS: outputs.logits}
        asked = features if "*" in taps else {tap: features[tap] for tap in taps}
        return Outputs(embedding.reshape(embedding.shape[0], -1), asked), stats


def encoder(num_classes: int, network: Mapping[str, Any], tap: str = "embedding") -> Encoder:
    """Returns the encoder of the network {name, kwargs}, a factory as in config.student.model.

    Its classifier stays, as the tap "logits": labels train it (tasks.embed), or nothing does.
    """
    return Encoder(_made(network, num_classes), tap)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoTowers:
    """Two networks on two inputs: the main output is {"image": of the first, "text": of the second}, [batch, width].

    params and stats: {"image", "text"}; the taps of a tower are those of its network, "image/stage1".
    """

    image: Model
    text: Model

    def _towers(self, inputs: tuple[Array, ...]) -> dict[str, tuple[Model, Array]]:
        if len(inputs) != len(TOWERS):
            raise ValueError(f"two towers read two inputs, such as ('batch.upper', 'batch.lower'), not {len(inputs)}")
        return {name: (getattr(self, name), x) for name, x in zip(TOWERS, inputs, strict=True)}

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        keys = dict(zip(TOWERS, jax.random.split(key), strict=True))
        variables = {name: model.init(keys[name], x) for name, (model, x) in self._towers(inputs).items()}
        return {name: v[0] for name, v in variables.items()}, {name: v[1] for name, v in variables.items()}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        keys = dict(zip(TOWERS, jax.random.split(key), strict=True))
        if unknown := [t for t in taps if t != "*" and t.partition("/")[0] not in TOWERS]:
            raise ValueError(
                f"no tap {unknown[0]!r}: those of two towers begin with {' or '.join(TOWERS)}, 'image/...'"
            )
        logits, features, new_stats = {}, {}, {}
        for name, (model, x) in self._towers(inputs).items():
            inside = tuple(t.removeprefix(f"{name}/") for t in taps if t == "*" or t.startswith(f"{name}/"))
            how = dict(train=train, key=keys[name], taps=inside)
            outputs, new_stats[name] = model.apply(params[name], stats[name], x, **how)
            logits[name] = outputs.logits
            features |= {f"{name}/{tap}": value for tap, value in outputs.features.items()}
        return Outputs(logits, features), new_stats


def two_towers(image: Mapping[str, Any], text: Mapping[str, Any], width: int = 32) -> TwoTowers:
    """Returns two networks {name, kwargs}, each with `width` outputs in place of classes: the space of both."""
    return TwoTowers(_made(image, width), _made(text, width))


def _made(network: Mapping[str, Any], outputs: int) -> Model:
    return as_model(made(network["name"], resolve(network["name"]), num_classes=outputs, **network["kwargs"]))
