"""Gradient checkpointing: the backward pass computes the activations inside of chosen modules a second time."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax

from kd_jax.models.intercept import Layer, checkpointed, intercepted
from kd_jax.resolve import near, pattern_of
from kd_jax.types import Array, Model, Outputs, PyTree

# Those of jax.checkpoint_policies that need no arguments; the first keeps nothing but the inputs of each module.
POLICIES = ("nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable", "everything_saveable")


@dataclasses.dataclass(frozen=True, eq=False)
class Remat:
    """Wraps `model` so that each Linen or NNX module whose path matches `modules` keeps what `policy` saves.

    Of nested modules that match, the outermost one counts. What lies between the modules is kept, and the backward pass
    computes one module at a time again. `modules` = "" makes the whole network one piece, which seldom saves memory:
    all of it is there again at once. Outputs, stats and gradients are the same.
    Errors: ValueError for an unknown policy; in `apply` for a pattern that no module matches.
    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174.
    """

    model: Model
    modules: str
    policy: str

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"student.remat.policy {self.policy!r} is none of JAX's. {near(self.policy, POLICIES)}")

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
def _checkpointed(pattern: str, policy: Any) -> Generator[None]:
    inside, chosen, paths = False, False, set()

    def intercept(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside, chosen
        paths.add(layer.path)
        if inside or not layer.path or not pattern_of(pattern, "student.remat.modules").search(layer.path):
            return layer.call(*args, **kwargs)
        inside = chosen = True
        try:
            return checkpointed(layer, policy, *args, **kwargs)
        finally:
            inside = False

    with intercepted(intercept):
        yield
    if not paths:
        raise ValueError(
            f"student.remat.modules = {pattern!r} names modules of a Linen or NNX network, and this one has none: "
            f"set it to '', the network as one piece."
        )
    if not chosen:
        raise ValueError(f"student.remat.modules = {pattern!r} matches no module. {near(pattern, paths - {''})}")
