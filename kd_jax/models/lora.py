"""Low-rank adapters: a student that is a frozen decoder plus a few trained numbers.

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
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from kd_jax import prng
from kd_jax.models.adapters import LinenModel, as_model
from kd_jax.models.language.decoder_parts import Dense
from kd_jax.resolve import call, near
from kd_jax.types import Array, Outputs, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class LoraModel:
    """A Model whose last input is the base's parameters; params = {path of a layer: {"a", "b"}}, nested as in the base.

    The layers whose path the regular expression `targets` is found in are adapted. The network's own `apply` gets
    everything else, so taps and inputs are those of the base. Errors: ValueError if a target is no layer that reads
    adapters (`decoder_parts.Dense`), or nothing is targeted.
    """

    network: LinenModel
    rank: int
    alpha: float
    targets: str

    @property
    def module(self) -> nn.Module:
        """The base's module: what generates from `merged` parameters."""
        return self.network.module

    def init(self, key: Array, *inputs: PyTree) -> tuple[PyTree, PyTree]:
        *inputs, base = inputs
        kernels = {path[:-1]: x for path, x in traverse_util.flatten_dict(base).items() if path[-1] == "kernel"}
        readers = self._readers(*inputs)
        chosen = [path for path in kernels if re.search(self.targets, "/".join(path))]
        wrong = ["/".join(path) for path in chosen if path not in readers]
        if wrong or not chosen:
            names = ["/".join(path) for path in readers]
            said = f"chooses {wrong}, which read no adapters" if wrong else "chooses no layer"
            raise ValueError(f"lora: targets={self.targets!r} {said}. {near(self.targets, names)}")
        params: dict[tuple[str, ...], Array] = {}
        for path in chosen:
            *stack, rows, columns = kernels[path].shape
            own = prng.stream(key, "/".join(path), 0)
            bound = 1 / math.sqrt(rows)
            params[(*path, "a")] = jax.random.uniform(own, (*stack, rows, self.rank), jnp.float32, -bound, bound)
            params[(*path, "b")] = jnp.zeros((*stack, self.rank, columns))
        return traverse_util.unflatten_dict(params), {}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: PyTree, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        *inputs, base = inputs
        base, adapters = jax.lax.stop_gradient(base), {"lora": self.scaled(params)}
        outputs, _ = self.network.apply(base, adapters, *inputs, train=train, key=key, taps=taps)
        return outputs, stats

    def merged(self, params: PyTree, base: PyTree) -> PyTree:
        """Parameters of the plain network that computes the same: W + A B alpha / rank."""
        flat, low = dict(traverse_util.flatten_dict(base)), traverse_util.flatten_dict(self.scaled(params))
        for path in {p[:-1] for p in low}:
            kernel = flat[(*path, "kernel")]
            flat[(*path, "kernel")] = (kernel + low[(*path, "a")] @ low[(*path, "b")]).astype(kernel.dtype)
        return traverse_util.unflatten_dict(flat)

    def scaled(self, params: PyTree) -> PyTree:
        scale = self.alpha / self.rank
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict({p: x * scale if p[-1] == "a" else x for p, x in flat.items()})

    def _readers(self, *inputs: PyTree) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, Dense) and context.method_name == "__call__":
                found.append(context.module.path)
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            jax.eval_shape(self.network.init, jax.random.key(0), *inputs)
        return list(dict.fromkeys(found))


def lora(
    module: nn.Module | LinenModel | Mapping[str, Any],
    rank: int = 8,
    alpha: float = 16.0,
    targets: str = r"attention/(query|value)$",
) -> LoraModel:
    """An adapted decoder: `module`, or what a config says of it, {name, kwargs}. Targets as in the paper by default."""
    if isinstance(module, Mapping):
        module = call(module["name"], **module["kwargs"])
    network = as_model(module)
    if not isinstance(network, LinenModel) or rank < 1:
        raise ValueError(f"lora: expected a Linen module and a rank of 1 or more, got {module!r} and {rank}")
    return LoraModel(network, rank, alpha, targets)
