"""BatchNorm's running variance as PyTorch has it: of the unbiased variance of each batch.

Flax averages the biased one, n / (n - 1) times smaller over n = batch * height * width values of a channel. What is
normalised in training is the same; a network that was trained there and goes on here keeps the meaning of its averages.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.types import Array


@contextmanager
def unbiased_running_variance() -> Generator[None]:
    """Makes every flax.linen.BatchNorm that is called in training within the block average the unbiased variance."""
    with nn.intercept_methods(_unbiased):
        yield


def _unbiased(run: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    if not isinstance(module, nn.BatchNorm) or context.method_name != "__call__" or module.is_initializing():
        return run(*args, **kwargs)
    asked = kwargs.get("use_running_average", args[1] if len(args) > 1 else None)
    if nn.merge_param("use_running_average", module.use_running_average, asked):
        return run(*args, **kwargs)
    before = module.get_variable("batch_stats", "var")
    result = run(*args, **kwargs)
    after = module.get_variable("batch_stats", "var")
    others = jnp.maximum(_count(module, args[0], kwargs.get("mask")) - 1, 1)
    module.put_variable("batch_stats", "var", after + (after - module.momentum * before) / others)
    return result


def _count(module: nn.BatchNorm, x: Array, mask: Array | None) -> Array | int:
    """The number of values that a channel's variance is of."""
    axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
    features = int(np.prod([x.shape[axis] for axis in axes]))
    if mask is None:
        return x.size // features
    return jnp.broadcast_to(mask, x.shape).sum() / features
