"""A network with classifiers on its early stages, and one of these exits as a network of its own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from kd_jax.models.adapters import LinenModel, as_model
from kd_jax.models.connectors import resize_map
from kd_jax.models.layers import ConvNorm, DepthwiseConv, Tap, classify, norm
from kd_jax.resolve import near, resolve
from kd_jax.types import Array, Model, Outputs, PyTree


class ExitHead(nn.Module):
    """map -> the size and channels of `like` -> mean over space -> logits. Taps: map, embedding, head.

    A depthwise 3 x 3 convolution of stride 2 for every halving (one of stride 1 where there is none), then 1 x 1: the
    bottleneck of the paper, made cheap, since an exit that costs as much as the rest of the network is of no use.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, like: Array, train: bool) -> Array:
        halvings = 0
        while min(a // 2 ** (halvings + 1) - b for a, b in zip(x.shape[1:3], like.shape[1:3], strict=True)) >= 0:
            halvings += 1
        for i in range(max(halvings, 1)):
            x = DepthwiseConv(3, 2 if halvings else 1, name=f"depthwise{i + 1}")(x)
            x = nn.relu(norm(train, name=f"norm{i + 1}")(x))
        x = ConvNorm(like.shape[-1], 1, name="pointwise")(x, train)
        x = Tap(name="map")(resize_map(x, like.shape[1:3]))
        return classify(x.mean((1, 2)), self.num_classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Exits:
    """`network` with a classifier on each of `taps`: the features "exit1", "exit2", ... are their logits.

    "exit1/map" is the map that exit 1 classifies by; it has the shape of the network's own map `last`. The logits are
    those of the network. params and stats: {"network", "exit1", "exit2", ...}. ValueError where a tap is not a map.
    Zhang, Song, Gao, Chen, Bao, Ma, "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via
    Self Distillation" (BYOT), 2019, arXiv 1905.08094.
    """

    network: Model
    num_classes: int
    taps: tuple[str, ...]
    last: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"exit{i + 1}" for i in range(len(self.taps)))

    def _heads(self, maps: Mapping[str, Array]) -> dict[str, tuple[Model, Array, Array]]:
        """{exit: (its head, the map that it reads, the last map)}."""
        for tap in (*self.taps, self.last):
            if maps[tap].ndim != 4:
                raise ValueError(f"An exit reads a map [batch, height, width, channels]; {tap!r} is {maps[tap].shape}.")
        head = LinenModel(ExitHead(self.num_classes))
        return {name: (head, maps[tap], maps[self.last]) for name, tap in zip(self.names, self.taps, strict=True)}

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        key, *keys = jax.random.split(key, 1 + len(self.taps))
        params, stats = self.network.init(key, *inputs)
        wanted = (*self.taps, self.last)
        outputs, _ = self.network.apply(params, stats, *inputs, train=False, key=key, taps=wanted)
        heads = self._heads(outputs.features)
        made = {name: head.init(k, *maps) for k, (name, (head, *maps)) in zip(keys, heads.items(), strict=True)}
        first, second = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))
        return {"network": params, **first}, {"network": stats, **second}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        key, *keys = jax.random.split(key, 1 + len(self.taps))
        exit_taps = {tap for name in self.names for tap in (name, f"{name}/map")}
        for tap in taps:
            if re.fullmatch(r"exit\d+(/map)?", tap) and tap not in exit_taps:
                raise ValueError(f"The network has no {tap!r}. {near(tap, exit_taps)}")
        wanted = tuple(dict.fromkeys((*(t for t in taps if t not in exit_taps), *self.taps, self.last)))
        outputs, network_stats = self.network.apply(
            params["network"], stats["network"], *inputs, train=train, key=key, taps=wanted
        )
        features, new_stats = dict(outputs.features), {"network": network_stats}
        for k, (name, (head, *maps)) in zip(keys, self._heads(outputs.features).items(), strict=True):
            answer, new_stats[name] = head.apply(params[name], stats[name], *maps, train=train, key=k, taps=("map",))
            features |= {name: answer.logits, f"{name}/map": answer.features["map"]}
        return Outputs(outputs.logits, features), new_stats


@dataclasses.dataclass(frozen=True, eq=False)
class EarlyExit:
    """The feature `exit` of `model` as the main output, with only those parameters that it depends on.

    Equal to the tapped value; what comes after the exit is dead code, which a compiler (jit, jax.export) removes.
    exit="" is the main output of `model`, without what only the exits need. `keep` makes (params, stats), nested dicts,
    from those of the whole model; `init` draws them anew. ValueError for an exit that does not exist.
    """

    model: Model
    exit: str

    def keep(self, params: PyTree, stats: PyTree, *inputs: Any) -> tuple[PyTree, PyTree]:
        """Returns the part of (params, stats) that the exit needs; `inputs` are arrays, or their shapes."""
        _, mask = self._needed(*inputs)
        return _pruned(params, mask[0]), _pruned(stats, mask[1])

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.keep(*self.model.init(key, *inputs), *inputs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        shapes, mask = self._needed(*inputs)
        whole = [_filled(tree, shape) for tree, shape in zip((params, stats), shapes, strict=True)]
        outputs, new_stats = self._outputs(whole, inputs, train=train, key=key, taps=taps)
        return outputs, _pruned(new_stats, mask[1])

    def _outputs(self, variables: Any, inputs: Any, *, taps: tuple[str, ...], **how: Any) -> tuple[Outputs, PyTree]:
        wanted = tuple(dict.fromkeys((*taps, *([self.exit] if self.exit else []))))
        outputs, stats = self.model.apply(*variables, *inputs, taps=wanted, **how)
        # Only what was asked for: a feature of a later stage would keep that stage alive.
        features = outputs.features if "*" in taps else {tap: outputs.features[tap] for tap in taps}
        return Outputs(outputs.features[self.exit] if self.exit else outputs.logits, features), stats

    def _needed(self, *inputs: Any) -> tuple[tuple[PyTree, PyTree], tuple[PyTree, PyTree]]:
        """(shapes of (params, stats) of the whole model, True for each leaf on which the exit depends)."""
        key = jax.random.key(0)
        inputs = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
        shapes = jax.eval_shape(self.model.init, key, *inputs)

        def answer(variables: tuple[PyTree, PyTree], inputs: tuple) -> Array:
            return self._outputs(variables, inputs, train=False, key=key, taps=())[0].logits

        jaxpr = jax.make_jaxpr(answer)(shapes, inputs).jaxpr
        needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
        for equation in reversed(jaxpr.eqns):
            if needed & {*equation.outvars}:
                needed |= {v for v in equation.invars if not isinstance(v, Literal)}
        structure = jax.tree.structure(shapes)
        return shapes, jax.tree.unflatten(structure, [v in needed for v in jaxpr.invars[: structure.num_leaves]])


def _pruned(tree: PyTree, mask: PyTree) -> PyTree:
    """The nested dict without the leaves whose mask is False, and without what is empty then."""
    needed = {}
    for name, value in tree.items():
        part = _pruned(value, mask[name]) if isinstance(value, Mapping) else value
        if part if isinstance(value, Mapping) else mask[name]:
            needed[name] = part
    return needed


def _filled(tree: Mapping[str, Any], shapes: PyTree) -> PyTree:
    """`tree` with zeros in place of the leaves of `shapes` that it lacks."""
    if not isinstance(shapes, Mapping):
        return jnp.zeros(shapes.shape, shapes.dtype)
    return {
        name: tree[name] if name in tree and not isinstance(shape, Mapping) else _filled(tree.get(name, {}), shape)
        for name, shape in shapes.items()
    }


def exits(num_classes: int, network: Mapping[str, Any], taps: Sequence[str], last: str) -> Exits:
    """Returns the network {name, kwargs}, a factory as in config.student.model, with exits on `taps`."""
    model = as_model(resolve(network["name"])(num_classes=num_classes, **network["kwargs"]))
    return Exits(model, num_classes, tuple(taps), last)


def early_exit(num_classes: int, exit: str, network: Mapping[str, Any], taps: Sequence[str], last: str) -> EarlyExit:
    """Returns the exit `exit` ("exit1") of the network that `exits` makes of the other arguments."""
    return EarlyExit(exits(num_classes, network, taps, last), exit)
