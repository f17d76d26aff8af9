"""Losses whose expectation is over the student's own sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import log_probs, require_same_shape, scalar_like, squared, to_float
from kd_jax.losses._sequences import (
    both_sampled,
    of_counted,
    of_rollout,
    position_weights,
    sampled,
    weighted,
    weights_and_rewards,
)
from kd_jax.losses.needs import by_token
from kd_jax.losses.response_mixture import jsd_loss
from kd_jax.losses.task import pick_label, require_labels
from kd_jax.losses.two_passes import BY_POSITION, BY_SEQUENCE, in_two_passes
from kd_jax.ranges import BelowOne, Count, NotNegative, Positive, Share

Array = jax.Array


@in_two_passes(BY_SEQUENCE)
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
    log_s, log_t = log_probs(s), log_probs(t)
    of_tokens = weights_and_rewards(pick_label(log_s, labels), pick_label(log_t, labels), labels >= 0, mix)
    return weighted(log_s, log_t, labels, *jax.lax.stop_gradient(of_tokens), long)


def importance_ratio(
    student_logits: Array, labels: Array, rollout_log_probs: Array, *, limit: Positive[Array | float]
) -> Array:
    """Computes min(exp(clip(log q(y) - log q_rollout(y), -20, 20)), limit), detached; 0 where nothing counts.

    Logits [batch, length, vocabulary], labels int [batch, length] the sampled tokens (-1: none counts),
    rollout_log_probs [batch, length] what the network that sampled them gave them; returns [batch, length]. ValueError
    on other shapes. As in trl's self-distillation (Hugging Face, 2026): limited above only.
    """
    log_q, counted = sampled("importance_ratio", student_logits, labels)
    rollout = of_rollout("importance_ratio", rollout_log_probs, log_q, counted)
    ratio = jnp.minimum(jnp.exp(jnp.clip(log_q - rollout, -20, 20)), scalar_like(limit, log_q))
    return jax.lax.stop_gradient(jnp.where(counted, ratio, 0))


@by_token
def sampled_token_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    rollout_log_probs: Array | None = None,
    ratio_limit: Positive[Array | float | None] = None,
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes T^2 r (log q(y) - log p(y)) log q(y), r and the bracket detached; its value is no divergence.

    The gradient is that of the reverse KL, estimated from one token y that the student q sampled. Logits [batch,
    length, vocabulary] of one shape, labels int [batch, length] (-1: none counts, value 0); returns [batch, length].
    ValueError on other shapes. r = `importance_ratio` at T 1, or 1 without rollout_log_probs or ratio_limit.
    Shenfeld, Damani, Hubotter, Agrawal, "Self-Distillation Enables Continual Learning", 2026, arXiv 2601.19897, and
    Hubotter et al., "Reinforcement Learning via Self-Distillation", 2026, arXiv 2601.20802, as in trl, which divides a
    sequence's sum by its tokens first; T^2 is ours.
    """
    log_q, log_p, counted = both_sampled("sampled_token_loss", student_logits, teacher_logits, labels, temperature)
    ratio: Array | float = 1.0
    if rollout_log_probs is not None and ratio_limit is not None:
        ratio = importance_ratio(student_logits, labels, rollout_log_probs, limit=ratio_limit)
    value = squared(temperature, log_q) * ratio * jax.lax.stop_gradient(log_q - log_p) * log_q
    return jnp.where(counted, value, 0)


@by_token
def clipped_policy_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    rollout_log_probs: Array | None = None,
    clip_below: Share[Array | float] = 0.2,
    clip_above: NotNegative[Array | float] = 0.2,
) -> Array:
    """Computes -min(r A, clip(r, 1 - below, 1 + above) A), r = q(y) / q_rollout(y), A = log p(y) - log q_rollout(y).

    A, the teacher's reward of a token, is detached; without rollout_log_probs the rollout is the student as it stands,
    so r is 1 with a gradient. Shapes, labels and errors as `sampled_token_loss`; returns [batch, length].
    The surrogate: Schulman, Wolski, Dhariwal, Radford, Klimov, "Proximal Policy Optimization Algorithms", 2017, arXiv
    1707.06347; the reward: Lu et al., "On-Policy Distillation", Thinking Machines 2025 (no arXiv id). Ours: log r is
    clipped to +-20, where its exponential would overflow.
    """
    log_q, log_p, counted = both_sampled("clipped_policy_loss", student_logits, teacher_logits, labels)
    rollout = of_rollout("clipped_policy_loss", rollout_log_probs, log_q, counted)
    advantage = jax.lax.stop_gradient(log_p) - rollout
    ratio = jnp.exp(jnp.clip(log_q - rollout, -20, 20))
    below, above = (scalar_like(x, log_q) for x in (clip_below, clip_above))
    value = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - below, 1 + above) * advantage)
    return jnp.where(counted, value, 0)


@in_two_passes(BY_POSITION)
def position_weighted_loss(
    student_logits: Array,
    teacher_logits: Array,
    labels: Array,
    *,
    rollout_log_probs: Array | None = None,
    gamma: NotNegative[Array | float] = 0.5,
    temperature: Positive[Array | float] = 1.0,
    where: Array | None = None,
) -> Array:
    """Computes -T^2 w_i A_i log q(y_i), w_i = 1 + gamma (1 - sum_{j<i} |A_j| / max(sum_j |A_j|, 1e-8)).

    A = log p(y) - log q_rollout(y), of the student as it stands without rollout_log_probs; A and w are detached: early
    tokens, before student and teacher have parted, weigh more. Shapes, labels and errors as `sampled_token_loss`;
    tokens where `where` [batch] or [batch, length] is False do not count either; returns [batch, length]. Xie, Zhu,
    Wen, Chen, Wang, "On the Position Bias of On-Policy Distillation" (IW-OPD), 2026, arXiv 2606.22600, as in trl; T^2
    is ours. A token that the teacher excludes (log p = -inf) has no finite value.
    """
    what, labels = "position_weighted_loss", of_counted(labels, where)
    log_q, log_p, counted = both_sampled(what, student_logits, teacher_logits, labels, temperature)
    weights = position_weights(what, log_q, log_p, counted, rollout_log_probs, gamma)
    return -squared(temperature, log_q) * weights * log_q


def privileged_context_loss(
    student_logits: Array,
    teacher_logits: Array,
    *,
    length: Count[int],
    beta: Share[Array | float] = 0.0,
    temperature: Positive[Array | float] = 1.0,
) -> Array:
    """Computes jsd_loss of the positions that predict the last `length` tokens, [-length - 1:-1] of each side.

    The teacher read another prompt (a demonstration, feedback), so only the completion, at the end, is common. Logits
    [batch, prompt + length, vocabulary], prompts of any two lengths of at least 1, padded on the left; returns [batch,
    length]. ValueError where a side is shorter. Shenfeld et al., 2026, arXiv 2601.19897; Hubotter et al., 2026, arXiv
    2601.20802.
    """
    for side, logits in (("student", student_logits), ("teacher", teacher_logits)):
        if logits.ndim != 3 or logits.shape[1] <= length:
            raise ValueError(
                f"privileged_context_loss: {side} logits {logits.shape} must be [batch, prompt + {length}, vocabulary] "
                "with a prompt of at least one token"
            )
    s, t = (x[:, -length - 1 : -1] for x in (student_logits, teacher_logits))
    return jsd_loss(s, t, beta=beta, temperature=temperature)
