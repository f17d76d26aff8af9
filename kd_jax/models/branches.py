"""Several classifiers in one model: networks that share their first layers, and alike networks side by side.

Both answer with logits [B, n, classes], so that "student.logits@1" is the second one; `member` cuts one out again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.models.layers import ConvNorm, classify
from kd_jax.models.vision.cnn import conv_stages
from kd_jax.models.vision.resnet import ResidualStage
from kd_jax.types import Array, Model, Outputs, PyTree

GATES = ("", "gate", "attention")


@dataclasses.dataclass(frozen=True, eq=False)
class Stacked:
    """`count` networks of one architecture, each initialised on its own, side by side in one vmap.

    params and stats are those of a member with a leading axis [count, ...]; logits are [B, count, ...], taps too.
    All read the same inputs; with `separate`, given `count` inputs, member i reads the i-th alone (one input is still
    read by all). ValueError for another number of inputs then, and for fewer than two members.
    `vmapped=False` runs them one after another in the same program, on the same parameters; None does so on CPUs, whose
    grouped convolution, which the vmap becomes, took 2.7 (2 networks of 4 and 8 channels) to 6.5 times as long (4 of 32
    and 64).
    """

    network: Model
    count: int
    separate: bool = False
    vmapped: bool | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"Stacked: at least two networks stand side by side, not {self.count}.")

    def _inputs(self, inputs: tuple[Array, ...]) -> tuple[tuple[Array, ...], int | None]:
        """(the inputs, the axis along which the members divide them: None where all read the same)."""
        if not self.separate or len(inputs) == 1:
            return inputs, None
        if len(inputs) != self.count:
            raise ValueError(f"Stacked: {self.count} networks need one input, or one each, got {len(inputs)}.")
        return (jnp.stack(inputs),), 0

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        inputs, axis = self._inputs(inputs)

        def one(key: Array, inputs: tuple[Array, ...]) -> tuple[PyTree, PyTree]:
            return self.network.init(key, *inputs)

        return jax.vmap(one, (0, axis))(jax.random.split(key, self.count), inputs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        inputs, axis = self._inputs(inputs)

        def one(params: PyTree, stats: PyTree, key: Array, inputs: tuple[Array, ...]) -> tuple[Outputs, PyTree]:
            return self.network.apply(params, stats, *inputs, train=train, key=key, taps=taps)

        keys = jax.random.split(key, self.count)
        if self.vmapped if self.vmapped is not None else jax.default_backend() != "cpu":
            return jax.vmap(one, (0, 0, 0, axis), (1, 0))(params, stats, keys, inputs)
        members = []
        for i in range(self.count):
            member_inputs = inputs if axis is None else (inputs[0][i],)
            variables = jax.tree.map(lambda x, i=i: x[i], (params, stats))
            members.append(one(variables[0], variables[1], keys[i], member_inputs))
        outputs, stats = zip(*members, strict=True)
        return jax.tree.map(lambda *x: jnp.stack(x, 1), *outputs), jax.tree.map(lambda *x: jnp.stack(x), *stats)


def stacked(network: Model, count: int, separate: bool = False, vmapped: bool | None = None) -> Stacked:
    return Stacked(network, count, separate, vmapped)


def member(params: PyTree, stats: PyTree, index: int) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of one network alone: of a `Stacked` model its network, of `Branched` one branch.

    A gate or an attention is left out.
    """

    def cut(tree: PyTree) -> PyTree:
        return {"trunk": tree["trunk"], "branch0": tree[f"branch{index}"]}

    if "branch0" in params:
        return cut(params), {kind: cut(tree) for kind, tree in stats.items()}
    return jax.tree.map(lambda x: x[index], (params, stats))


class Branched(nn.Module):
    """One `trunk` (x, train -> map), and `count` modules "branch<i>" (map, train -> logits, embedding), `branch` makes.

    logits [B, count, classes]; features "embedding" [B, count, d], and

    gate="gate" (ONE): "gate" [B, count] = softmax(relu(BatchNorm(dense(mean of the map)))), "ensemble" [B, classes] =
    sum_i gate_i logits_i. Lan, Zhu, Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", 2018, arXiv
    1806.04606.
    gate="attention" (OKDDip): "attention" [B, count - 1, count - 1] = softmax over b of <query(h_a), key(h_b)> of the
    embeddings h of all branches but the last, which is the group leader. Chen, Mei, Wang, Feng, Chen, "Online Knowledge
    Distillation with Diverse Peers", 2019, arXiv 1912.00350; `projection` is the size of query and key, 0 = d / 8.
    """

    trunk: nn.Module
    branch: Callable[..., nn.Module]
    count: int
    gate: str = ""
    projection: int = 0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, dict[str, Array]]:
        x = self.trunk(x, train)
        answers = [self.branch(name=f"branch{i}")(x, train) for i in range(self.count)]
        logits, embedding = (jnp.stack(values, 1) for values in zip(*answers, strict=True))
        features = {"embedding": embedding}
        if self.gate == "gate":
            pooled = x.reshape(x.shape[0], -1, x.shape[-1]).mean(1).astype(jnp.float32)
            score = nn.Dense(self.count, name="gate")(pooled)
            score = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="gate_norm")(score)
            features["gate"] = nn.softmax(nn.relu(score))
            features["ensemble"] = jnp.sum(features["gate"][..., None] * logits, axis=1)
        elif self.gate == "attention":
            auxiliary = embedding[:, :-1].astype(jnp.float32)
            size = self.projection or max(auxiliary.shape[-1] // 8, 1)
            query = nn.Dense(size, use_bias=False, name="query")(auxiliary)
            key = nn.Dense(size, use_bias=False, name="key")(auxiliary)
            features["attention"] = nn.softmax(jnp.einsum("bad,bcd->bac", query, key))
        return logits, features


class ConvStages(nn.Module):
    """Stages of models.vision.cnn.CNN from number `first` on: max-pooling before all but stage 1."""

    widths: tuple[int, ...]
    first: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        return conv_stages(x, self.widths, train, self.dtype, self.first)


class ResidualStages(nn.Module):
    """Stages of models.vision.resnet.ResNet from number `first` on, with the 3 x 3 stem before stage 1."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    first: int
    stem_width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if self.first == 1:
            x = ConvNorm(self.stem_width, dtype=self.dtype, name="stem")(x, train)
        for i, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), self.first):
            x = ResidualStage(blocks, width, 1 if i == 1 else 2, False, self.dtype, name=f"stage{i}")(x, train)
        return x


class Classifier(nn.Module):
    """The module that `stages` makes, mean over space, and the head: (logits, embedding)."""

    stages: Callable[..., nn.Module]
    num_classes: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        embedding = self.stages(name="stages")(x, train).mean((1, 2))
        return classify(embedding, self.num_classes), embedding


def branched_cnn(
    num_classes: int,
    branches: int = 3,
    shared: tuple[int, ...] = (16,),
    widths: tuple[int, ...] = (32,),
    gate: str = "",
    projection: int = 0,
    dtype: Any = "float32",
) -> Branched:
    """Returns models.vision.cnn.cnn(widths=shared + widths) whose branches each have the later stages and a head."""
    _check(branches, gate, len(shared), len(widths))
    dtype = jnp.dtype(dtype)
    trunk = ConvStages(tuple(shared), 1, dtype)
    rest = functools.partial(ConvStages, tuple(widths), len(shared) + 1, dtype)
    return Branched(trunk, functools.partial(Classifier, rest, num_classes), branches, gate, projection)


def branched_resnet(
    num_classes: int,
    branches: int = 3,
    shared: int = 2,
    depth: int = 32,
    widths: tuple[int, ...] = (16, 32, 64),
    gate: str = "",
    projection: int = 0,
    dtype: Any = "float32",
) -> Branched:
    """Returns the CIFAR ResNet of that depth (6n + 2) whose branches each have the stages after `shared` and a head."""
    if (depth - 2) % 6 or depth < 8:
        raise ValueError(f"branched_resnet: the depth of a CIFAR ResNet is 6n + 2, not {depth}.")
    _check(branches, gate, shared, len(widths) - shared)
    blocks, dtype = ((depth - 2) // 6,) * len(widths), jnp.dtype(dtype)
    trunk = ResidualStages(blocks[:shared], tuple(widths[:shared]), 1, widths[0], dtype)
    rest = functools.partial(ResidualStages, blocks[shared:], tuple(widths[shared:]), shared + 1, widths[0], dtype)
    return Branched(trunk, functools.partial(Classifier, rest, num_classes), branches, gate, projection)


def _check(branches: int, gate: str, shared: int, separate: int) -> None:
    """Raises ValueError for a shape of the network that cannot be."""
    if gate not in GATES:
        raise ValueError(f"gate is one of {GATES}, not {gate!r}.")
    least = 3 if gate == "attention" else 1
    if branches < least:
        raise ValueError(f"With gate {gate!r} there are at least {least} branches, not {branches}.")
    if shared < 1 or separate < 1:
        raise ValueError(f"At least one stage is shared and one is not, got {shared} and {separate}.")
