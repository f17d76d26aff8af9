"""What a step of a chain is: a smaller network, known from the config and shapes alone, and how its arrays are made.

A config names a step by the import path of its planner and gives its options,

    {"step": "compress.channels.prune", "share": 0.5, "score": "taylor"}

and the scheme (kd_jax/schemes/compress.py) calls `planner(network, **options) -> Smaller` before anything is trained.
`transform` runs once, in Python, when the stage of the step begins. Both see plain trees of arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from kd_jax.compress.units import Units
from kd_jax.models.adapters import LinenModel
from kd_jax.types import Model, PyTree

Scores = Mapping[str, np.ndarray]  # units' name -> [count], more = more important
Transform = Callable[[PyTree, PyTree, Scores], tuple[PyTree, PyTree]]
SCORES = ("magnitude", "taylor", "activation")


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network as a planner sees it: the model, and the shapes of its parameters, its stats and what it reads."""

    model: Model
    params: PyTree
    stats: PyTree
    inputs: tuple[PyTree, ...]

    @property
    def arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes by path: "params/stage1/conv/kernel", "stats/batch_stats/stage1/norm/mean"."""
        flat: dict[str, Any] = traverse_util.flatten_dict({"params": self.params, "stats": self.stats}, sep="/")
        return flat


@dataclasses.dataclass(frozen=True, eq=False)
class Smaller:
    """What a step makes of a network.

    `model` is the network after it, of plain shapes. `transform(params, stats, scores) -> (params, stats)` makes its
    arrays of those before it; it is pure. None: the network starts from new random values. `units` are scored first, by
    `score` (one of SCORES): `scores[units.name]` is [units.count]; without units, scores is {}. `label` says the step
    to people: "prune 50 % of the channels". With `scorer` the scores are what `scorer(params, stats, batches, loss)`
    returns: `batches` hold (inputs of the network, prepared batch), `loss(outputs, batch)` is that of the labels.
    """

    model: Model
    transform: Transform | None
    label: str
    units: tuple[Units, ...] = ()
    score: str = "magnitude"
    scorer: Callable[..., Mapping[str, Any]] | None = None


def network_of(model: Model, inputs: tuple[PyTree, ...]) -> Network:
    """Returns the Network of a model that reads `inputs` (arrays or their shapes); computes nothing."""
    params, stats = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return Network(model, params, stats, inputs)


def check_score(score: str) -> None:
    """Raises ValueError for a score that does not exist."""
    if score not in SCORES:
        raise ValueError(f"score={score!r}: units are scored by one of {', '.join(SCORES)}.")


def module_of(model: Any) -> nn.Module:
    """Returns the Linen module inside a model and its wrappers (fields `model` or `module`); ValueError for others."""
    while not isinstance(model, nn.Module):
        model = getattr(model, "module", None) or getattr(model, "model", None)
        if model is None:
            raise ValueError("Only a Linen network is made smaller by a rule, and this is none.")
    return model


def with_module(model: Any, module: nn.Module) -> Model:
    """Returns the model with another Linen module inside the same wrappers."""
    if isinstance(model, LinenModel):
        return dataclasses.replace(model, module=module)
    return dataclasses.replace(model, model=with_module(model.model, module))
