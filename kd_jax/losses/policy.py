"""Losses between policies: a teacher's action values teach the student's action logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import kl, log_probs, possible, require_same_shape, to_float
from kd_jax.ranges import Positive

Array = jax.Array


def policy_kl_loss(student: Array, values: Array, *, temperature: Positive[Array | float] = 0.01) -> Array:
    """Computes KL(softmax(Q / T), softmax(s)): a low temperature sharpens the teacher's values into a policy.

    Student logits s and the teacher's action values Q [..., actions] of one shape, ValueError otherwise; returns [...].
    No T^2, as published: only the teacher is divided by T. An action of value -inf cannot be taken. Rusu, Colmenarejo,
    Gulcehre, Desjardins, Kirkpatrick, Pascanu, Mnih, Kavukcuoglu, Hadsell, "Policy Distillation", 2015, arXiv
    1511.06295.
    """
    s, q = to_float(student, values)
    require_same_shape("policy_kl_loss", s, q)
    return kl(log_probs(q, temperature), log_probs(s))


def criticality_weights(values: Array) -> Array:
    """Computes max_a Q - min_a Q: how much the choice of the action matters in a state.

    Action values Q [..., actions]; returns [...], detached, the weight of the cross-entropy against argmax Q on the
    student's own states. Actions of value -inf cannot be taken and do not count. Bastani, Pu, Solar-Lezama, "Verifiable
    Reinforcement Learning via Policy Extraction" (VIPER), 2018, arXiv 1805.08328. Weight 1 is DAgger: Ross, Gordon,
    Bagnell, 2010, arXiv 1011.0686.
    """
    (q,) = to_float(values)
    least = jnp.min(jnp.where(possible(q), q, jnp.inf), axis=-1)
    return jax.lax.stop_gradient(jnp.max(q, axis=-1) - least)
