"""A network that keeps less for the way back: activations inside chosen modules are computed again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax

from kd_jax.models.adapters import LinenModel
from kd_jax.resolve import near
from kd_jax.types import Array, Model, Outputs, PyTree

# Those of jax.checkpoint_policies that need no arguments; the first keeps nothing but the inputs of each module.
POLICIES = ("nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable", "everything_saveable")


@dataclasses.dataclass(frozen=True, eq=False)
class Remat:
    """`model`, of which every outermost module whose path matches `modules` keeps what `policy` saves.

    What lies between the modules is kept; one module at a time is computed again. `modules` = "" is the network as one
    piece, which seldom saves memory: all of it is there again at once. Outputs, stats and gradients are the same.
    Errors: ValueError for an unknown policy, a pattern that no module matches, modules of what is no Linen network.
    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.
    """

    model: Model
    modules: str
    policy: str

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"student.remat.policy {self.policy!r} is none of JAX's. {near(self.policy, POLICIES)}")
        if self.modules and not isinstance(self.model, LinenModel):
            raise ValueError(
                f"student.remat.modules = {self.modules!r} names modules of a Linen network; for "
                f"{type(self.model).__name__} set it to '', the network as one piece."
            )

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return self.model.init(key, *inputs)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        def run(params: PyTree, stats: PyTree, *inputs: Array) -> tuple[Outputs, PyTree]:
            return self.model.apply(params, stats, *inputs, train=train, key=key, taps=taps)

        policy = getattr(jax.checkpoint_policies, self.policy)
        if not self.modules:
            return jax.checkpoint(run, policy=policy)(params, stats, *inputs)
        with _checkpointed(self.modules, policy):
            return run(params, stats, *inputs)


@contextmanager
def _checkpointed(pattern: str, policy: Any) -> Iterator[None]:
    inside, seen, found = [False], set(), [False]

    def intercept(call: Any, args: tuple, kwargs: Mapping[str, Any], context: nn.module.InterceptorContext) -> Any:
        module, path = context.module, "/".join(context.module.path)
        seen.add(path)
        if inside[0] or context.method_name != "__call__" or not path or not re.search(pattern, path):
            return call(*args, **kwargs)
        found[0] = inside[0] = True
        arrays = [i for i, x in enumerate(args) if isinstance(x, jax.Array)]  # flags such as `train` stay Python values

        def again(module: nn.Module, *given: Array) -> Any:
            values = dict(zip(arrays, given, strict=True))
            return module(*(values.get(i, x) for i, x in enumerate(args)), **kwargs)

        try:
            return nn.remat(again, policy=policy)(module, *(args[i] for i in arrays))
        finally:
            inside[0] = False

    with nn.intercept_methods(intercept):
        yield
    if not found[0]:
        raise ValueError(f"student.remat.modules = {pattern!r} matches no module. {near(pattern, seen)}")
