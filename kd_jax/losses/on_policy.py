"""Losses whose expectation is over the student's own sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import kl, log_probs, require_same_shape, scalar_like, to_float
from kd_jax.losses.task import pick_label, require_labels
from kd_jax.ranges import BelowOne, NotNegative

Array = jax.Array


def sequence_reverse_kl_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    mix: BelowOne[Array | float] = 0.2,
    long: NotNegative[Array | float] = 1.0,
) -> Array:
    """Computes w_t KL(q_t, p_t) for each token, with the gradient of the reverse KL of whole sequences sampled from q.

    q is the student, p the teacher. Logits [batch, length, vocabulary] of one shape, ValueError otherwise; labels int
    [batch, length] are the sampled tokens, -1 where none counts; returns [batch, length]. The gradient is
        w_t [grad KL(q_t, p_t) - long R_{t+1} grad log q(y_t)],
    R_{t+1} = mean over counted t' > t of log p(y_t') / q(y_t'): exact for the next token, and the policy gradient of
    all later ones, normalised by their number; `long` = 0 leaves that out. w_t = q(y_t) / (mix p(y_t) + (1 - mix)
    q(y_t)), detached, is for tokens that were sampled from mix p + (1 - mix) q.
    Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2023, arXiv 2306.08543, equations
    4 to 7. The authors' code takes several clipped updates (PPO) on one sample and clips rewards; here a step is one
    update on a fresh sample. Their language modelling loss on other text is a term of its own.
    """
    s, t = to_float(student_logits, teacher_logits)
    require_same_shape("sequence_reverse_kl_loss", s, t)
    labels = require_labels("sequence_reverse_kl_loss", labels, s)
    log_s, log_t, counted = log_probs(s), log_probs(t), labels >= 0
    picked_s, picked_t = pick_label(log_s, labels), pick_label(log_t, labels)
    mix = scalar_like(mix, s)
    sampled_from = jnp.logaddexp(jnp.log(mix) + picked_t, jnp.log1p(-mix) + picked_s)
    reward = jnp.where(counted, picked_t - picked_s, 0)
    number = _later(counted.astype(s.dtype))
    later = jax.lax.stop_gradient(_later(reward) / jnp.maximum(number, 1))
    weight = jax.lax.stop_gradient(jnp.where(counted, jnp.exp(picked_s - sampled_from), 0))
    policy = -later * jnp.where(counted, picked_s, 0)
    return weight * (kl(log_s, log_t) + scalar_like(long, s) * (policy - jax.lax.stop_gradient(policy)))


def _later(x: Array) -> Array:
    """Sums over all later positions: [batch, length] -> [batch, length]."""
    return jnp.cumsum(x[:, ::-1], axis=1)[:, ::-1] - x
