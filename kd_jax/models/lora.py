"""Low-rank adapters: a student that is a frozen network plus a few trained numbers.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv 2106.09685. A targeted layer computes
x W + (x A) B alpha / rank, with A [in, rank] drawn as by its authors' code (uniform in +- 1 / sqrt(in)) and B [rank,
out] 0 at first, so that the student begins as its base.

The base is a role of its own, frozen, so that nothing of it is in the optimizer or in a checkpoint, its `dtype` may be
bfloat16 and its sharding that of any teacher; the student reads its parameters as an input:

    roles = {
        "base": Role(LinenModel(module), tokens, initial=loaded, dtype="bfloat16"),
        "student": Role(lora(module, rank=8), (*tokens, "params.base"), group="student"),
    }

where tokens are the paths of the batch that the module takes; a teacher can be the base itself ("params.teacher").
`LoraModel.merged` gives plain parameters to export.

BatchNorm averages are no parameters: the student has its own, which move as it trains. They start fresh, or as the
teacher's with config.student.initial.name = "models.lora.from_teacher".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from kd_jax import prng
from kd_jax.models.adapters import LinenModel, NNXModel, as_model
from kd_jax.models.intercept import Layer, first_input, intercepted
from kd_jax.models.language.decoder_parts import HEAD, Dense
from kd_jax.models.remat import Remat
from kd_jax.models.several_axes import GENERAL, Axes, axes_by_path, product
from kd_jax.ranges import Count, Positive
from kd_jax.resolve import call, near, pattern_of
from kd_jax.types import Array, Model, Outputs, PyTree, Variables

LINEAR = (nn.Dense, nnx.Linear, Dense, *GENERAL)  # the layers that can be adapted
BESIDE = "lora_"  # lora_a and lora_b lie beside the kernel while the network runs, so that scans slice them with it


@dataclasses.dataclass(frozen=True, eq=False)
class LoraModel:
    """A Model whose last input is the base's parameters; params = {path of a layer: {"a", "b"}}, nested as in the base.

    The linear layers (`nn.Dense`, `nnx.Linear`, `nn.DenseGeneral`, `nnx.LinearGeneral`, the decoders' own, and their
    heads that are not tied) whose path the regular expression `targets` is found in are adapted. A kernel of several
    axes in or out is a matrix here, [in, out]; `init` finds out which are which. The network's own `apply` gets
    everything else, so taps, stats and inputs are those of the base.
    Errors: ValueError if nothing is targeted; in `apply` if a target is no linear layer, or does not run in training.
    """

    network: LinenModel | NNXModel
    rank: int
    alpha: float
    targets: str
    axes: dict[str, Axes] = dataclasses.field(default_factory=dict, repr=False)  # of layers that have several

    @property
    def module(self) -> nn.Module | None:
        """Returns the base's Linen module, what generates from `merged` parameters; None of an NNX module."""
        return self.network.module if isinstance(self.network, LinenModel) else None

    def init(self, key: Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        inputs, base = inputs[:-1], inputs[-1]
        stats = jax.jit(lambda *inputs: self.network.init(key, *inputs)[1])(*inputs)  # jit leaves the parameters out
        flat: dict[tuple, Any] = traverse_util.flatten_dict(base)
        if any(path[-1] == "kernel" and x.ndim > 2 for path, x in flat.items()):
            self.axes.update(axes_by_path(self.network, base, stats, inputs))
        return self.adapters(key, base), stats

    def adapters(self, key: Array, base: PyTree) -> PyTree:
        """Returns the first A and B of every targeted kernel [..., in, out] of the base's parameters."""
        flat: dict[tuple, Any] = traverse_util.flatten_dict(base)
        kernels = {path[:-1]: x for path, x in flat.items() if path[-1] == "kernel"}
        kernels |= {path[:-1]: x.T for path, x in flat.items() if _is_head(path)}
        chosen = [path for path in kernels if pattern_of(self.targets, "lora: targets").search("/".join(path))]
        if not chosen:
            names = ["/".join(path) for path in kernels]
            raise ValueError(f"lora: targets={self.targets!r} chooses no layer. {near(self.targets, names)}")
        params: dict[tuple[str, ...], Array] = {}
        for path in chosen:
            stack, rows, columns = self.axes.get("/".join(path), Axes()).sizes(kernels[path].shape)
            layer_key = prng.stream(key, "/".join(path), 0)
            bound = 1 / math.sqrt(rows)
            params[(*path, "a")] = jax.random.uniform(layer_key, (*stack, rows, self.rank), jnp.float32, -bound, bound)
            params[(*path, "b")] = jnp.zeros((*stack, self.rank, columns))
        return traverse_util.unflatten_dict(params)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: PyTree, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        inputs, base = inputs[:-1], inputs[-1]
        adapters = traverse_util.flatten_dict(self.scaled(params))
        beside = {(*path, BESIDE + name): value for (*path, name), value in adapters.items()}
        joined = traverse_util.unflatten_dict({**traverse_util.flatten_dict(jax.lax.stop_gradient(base)), **beside})
        adapted, linear, others = set(), set(), set()

        def adapt(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
            y = layer.call(*args, **kwargs)
            (linear if isinstance(layer.module, LINEAR) else others).add(layer.path)
            if layer.path not in linear:
                return y
            a, b = (layer.parameter(BESIDE + name) for name in ("a", "b"))
            if a is None or b is None:
                return y
            adapted.add(layer.path)
            x, a, b = (value.astype(y.dtype) for value in (first_input(layer, args), a, b))
            return y + (product(layer.module, x, a, b, y) if isinstance(layer.module, GENERAL) else (x @ a) @ b)

        with intercepted(adapt):
            outputs, stats = self.network.apply(joined, stats, *inputs, train=train, key=key, taps=taps)
        heads = {"/".join(path[:-1]) for path in traverse_util.flatten_dict(base) if _is_head(path)}  # read theirs
        wrong = sorted({"/".join(path) for *path, _ in adapters} - adapted - heads)
        if any(path in others for path in wrong) or (wrong and train):
            raise ValueError(
                f"lora: targets={self.targets!r} chooses {wrong}, which did not run as linear layers "
                f"({', '.join(kind.__name__ for kind in LINEAR)}). {near(self.targets, linear)}"
            )
        return outputs, stats

    def merged(self, params: PyTree, base: PyTree) -> PyTree:
        """Returns the parameters of the plain network that computes the same: W + A B alpha / rank."""
        merged: dict[tuple, Any] = traverse_util.flatten_dict(base)
        adapters: dict[tuple, Any] = traverse_util.flatten_dict(self.scaled(params))
        for path in {path[:-1] for path in adapters}:
            change = adapters[(*path, "a")] @ adapters[(*path, "b")]
            name = (*path, "kernel")
            if name not in merged:
                name, change = (*path, "embedding"), change.T
            merged[name] = (merged[name] + change.reshape(merged[name].shape)).astype(merged[name].dtype)
        return traverse_util.unflatten_dict(merged)

    def scaled(self, params: PyTree) -> PyTree:
        """Returns the adapters with alpha / rank in A."""
        scale = self.alpha / self.rank
        flat: dict[tuple, Any] = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict({p: x * scale if p[-1] == "a" else x for p, x in flat.items()})


def _is_head(path: tuple[str, ...]) -> bool:
    """Whether a parameter is the table [vocabulary, width] of a decoder's head that is not tied."""
    return path[-2:] == (HEAD, "embedding")


def lora(
    module: nn.Module | LinenModel | NNXModel | Mapping[str, Any] | ConfigDict,
    rank: Count[int] = 8,
    alpha: Positive[float] = 16.0,
    targets: str = r"attention/(query|value)$",
) -> LoraModel:
    """Returns `module`, or what a config says of it as {name, kwargs}, with adapters. Default targets: the paper's."""
    if isinstance(module, Mapping | ConfigDict):
        module = call(module["name"], **module["kwargs"])
    network = as_model(module)
    if not isinstance(network, LinenModel | NNXModel) or rank < 1:
        raise ValueError(f"lora: expected a Linen or NNX network and a rank of 1 or more, got {module!r} and {rank}")
    return LoraModel(network, rank, alpha, targets)


def from_teacher(model: Model, key: Array, teacher: Variables) -> Variables:
    """Returns new adapters for the teacher's parameters, and its BatchNorm averages: the student begins as its teacher.

    For config.student.initial, where the student reads "params.teacher". ValueError for a model without adapters.
    """
    network = model.model if isinstance(model, Remat) else model
    if not isinstance(network, LoraModel):
        raise ValueError(f"models.lora.from_teacher starts a student made by models.lora.lora, not {network!r}")
    params, stats = teacher
    return network.adapters(key, params), jax.tree.map(jnp.copy, stats)
