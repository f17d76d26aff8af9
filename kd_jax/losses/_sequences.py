"""What losses of sampled sequences are made of: what tokens say by themselves, and of those before and after them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import absolute, kl, log_probs, require_same_shape, scalar_like, to_float
from kd_jax.losses.task import pick_label, require_labels

Array = jax.Array


def sampled(what: str, logits: Array, labels: Array, temperature: Array | float = 1.0) -> tuple[Array, Array]:
    """Returns (log p of the labels, 0 where none counts; bool of those that count)."""
    (logits,) = to_float(logits)
    labels = require_labels(what, labels, logits)
    counted = labels >= 0
    log_p = log_probs(jnp.where(counted[..., None], logits, 0), temperature)
    return jnp.where(counted, pick_label(log_p, labels), 0), counted


def both_sampled(
    what: str, student_logits: Array, teacher_logits: Array, labels: Array, temperature: Array | float = 1.0
) -> tuple[Array, Array, Array]:
    """Returns (log q of the student, log p of the teacher, bool of those that count)."""
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape(what, s, t)
    log_q, counted = sampled(what, s, labels, temperature)
    return log_q, sampled(what, t, labels, temperature)[0], counted


def of_counted(labels: Array, where: Array | None) -> Array:
    """Returns the labels, -1 where the mask of their first axes is False."""
    if where is None:
        return labels
    labels, where = jnp.asarray(labels), jnp.asarray(where)
    return jnp.where(where.reshape(where.shape + (1,) * (labels.ndim - where.ndim)) != 0, labels, -1)


def of_rollout(what: str, rollout_log_probs: Array | None, log_q: Array, counted: Array) -> Array:
    """Returns the detached log-probabilities of the tokens when they were sampled; without them, those of now."""
    (rollout,) = to_float(log_q if rollout_log_probs is None else rollout_log_probs)
    if rollout.shape != log_q.shape:
        raise ValueError(f"{what}: labels {log_q.shape} need rollout_log_probs of that shape, got {rollout.shape}")
    return jax.lax.stop_gradient(jnp.where(counted, rollout, 0))


def position_weights(
    what: str, log_q: Array, log_p: Array, counted: Array, rollout_log_probs: Array | None, gamma: Array | float
) -> Array:
    """Returns w_i A_i of IW-OPD, detached, of log q and log p of the tokens [batch, length]; 0 where none counts."""
    rollout = of_rollout(what, rollout_log_probs, log_q, counted)
    advantage = jnp.where(counted, jax.lax.stop_gradient(log_p) - rollout, 0)
    size = absolute(advantage)
    before = jnp.cumsum(size, axis=1) - size
    weight = 1 + scalar_like(gamma, log_q) * (1 - before / jnp.maximum(size.sum(1, keepdims=True), 1e-8))
    return jnp.where(counted, weight * advantage, 0)


def weights_and_rewards(picked_s: Array, picked_t: Array, counted: Array, mix: Array | float) -> tuple[Array, Array]:
    """Returns MiniLLM's (w_t, R_{t+1}) [batch, length] of log q and log p of the tokens; both are to be detached."""
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
