"""Parameters and averages without a random generator: another framework can make the same, and nothing compiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# For functions that run once: compiling is what takes the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def fill(shapes):
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    values = []
    for i, (path, leaf) in enumerate(leaves):
        wave = np.cos(0.7 * np.arange(leaf.size) * (1 + i % 5) + i).reshape(leaf.shape)
        if leaf.ndim > 1:
            wave = wave * 1.5 * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            wave = 0.3 * wave + (1 if path[-1].key in ("scale", "var") else 0)
        values.append(jnp.asarray(wave, jnp.float32))
    return treedef.unflatten(values)


def filled(model, *inputs):
    """(params, stats) of the model."""
    params, stats = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return fill(params), fill(stats)
