"""First weights that a user's function makes."""

import jax
import jax.numpy as jnp
import numpy as np


def constant(model, key, shapes, value=0.25):
    return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), shapes)


def of_another(model, key):
    return {"dense": {"kernel": np.ones((3, 3))}}, {}
