"""How networks in the wild are told that they train, and whether what they drop out hears it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
from flax import nnx

from kd_jax.models.intercept import Layer, intercepted

# True means "give it `train`", False "give it `not train`".
FLAGS = {
    **dict.fromkeys(("train", "training", "is_train", "is_training", "train_mode", "training_mode"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference", "is_inference"), False),
    **dict.fromkeys(("eval", "is_eval", "eval_mode", "evaluate"), False),
}
_DROPPING = (nn.Dropout, nnx.Dropout, nn.MultiHeadDotProductAttention, nnx.MultiHeadAttention)
_NORMS = (nn.BatchNorm, nnx.BatchNorm)


class Heard(NamedTuple):
    """The paths of the layers that act otherwise in training, by whether they did; of dropout those with a rate."""

    dropping: set[str]
    idle: set[str]
    normalising: set[str]
    frozen: set[str]


def flags_of(call: Callable[..., Any], train: bool) -> dict[str, bool]:
    """Returns the flags that the parameters of a call name."""
    parameters = inspect.signature(call).parameters
    return {name: train if positive else not train for name, positive in FLAGS.items() if name in parameters}


def heard_in(run: Callable[[], Any]) -> Heard:
    """Returns which layers of Linen or NNX act as in training while `run` calls a network for training."""
    heard = Heard(set(), set(), set(), set())

    def listen(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        module: Any = layer.module
        if isinstance(module, _DROPPING) and getattr(module, "rate", getattr(module, "dropout_rate", 0.0)):
            (heard.idle if _says(module, "deterministic", args, kwargs) else heard.dropping).add(layer.path)
        if isinstance(module, _NORMS):
            (heard.frozen if _says(module, "use_running_average", args, kwargs) else heard.normalising).add(layer.path)
        return layer.call(*args, **kwargs)

    with intercepted(listen):
        run()
    return heard


def _says(module: Any, flag: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the flag is True as the module will read it: in the call, where it is there, else on the module."""
    second = args[1] if len(args) > 1 and isinstance(args[1], bool) else None
    value = kwargs.get(flag, second)
    return bool(getattr(module, flag, False) if value is None else value)
