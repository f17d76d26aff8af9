"""The parts of MiniLLM's loss (on_policy.py has its formula): of tokens by themselves, and of those that come after."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import kl, scalar_like
from kd_jax.losses.task import pick_label

Array = jax.Array


def weights_and_rewards(picked_s: Array, picked_t: Array, counted: Array, mix: Array | float) -> tuple[Array, Array]:
    """Returns (w_t, R_{t+1}) [batch, length] of log q and log p of the sampled tokens; both are to be detached."""
    mix = scalar_like(mix, picked_s)
    sampled_from = jnp.logaddexp(jnp.log(mix) + picked_t, jnp.log1p(-mix) + picked_s)
    number = _later(counted.astype(picked_s.dtype))
    later = _later(jnp.where(counted, picked_t - picked_s, 0)) / jnp.maximum(number, 1)
    return jnp.where(counted, jnp.exp(picked_s - sampled_from), 0), later


def weighted(log_s: Array, log_t: Array, labels: Array, weight: Array, later: Array, long: Array | float) -> Array:
    """Computes w_t KL(q_t, p_t) for each token, with the gradient of all later ones, R_{t+1} = `later`."""
    policy = -later * jnp.where(labels >= 0, pick_label(log_s, labels), 0)
    return weight * (kl(log_s, log_t) + scalar_like(long, policy) * (policy - jax.lax.stop_gradient(policy)))


def _later(x: Array) -> Array:
    """Sums over all later positions: [batch, length] -> [batch, length]."""
    return jnp.cumsum(x[:, ::-1], axis=1)[:, ::-1] - x
