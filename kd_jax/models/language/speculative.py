"""Speculative decoding: the student proposes, the teacher verifies; what comes out is distributed as the teacher alone.

Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", 2022, arXiv 2211.17192. With it
a teacher's samples cost about one of its forward passes for each run of accepted tokens, and the share of accepted
tokens says how near the student is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.models.language.generation import Decoding, draw, filtered, is_end, row_keys, step_keys
from kd_jax.types import Array, PyTree


class Speculated(NamedTuple):
    tokens: Array  # int32 [batch, length], as of `generate`
    mask: Array  # bool [batch, length]
    accepted: Array  # [] the share of the proposed tokens that the teacher accepted, over rows that were not done
    rounds: Array  # [] how often the teacher ran, after the prompt


def speculate(
    student: Decoding,
    teacher: Decoding,
    params: tuple[PyTree, PyTree],
    prompt: Array,
    prompt_mask: Array | None,
    key: Array,
    *,
    length: int,
    proposals: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    end: int | tuple[int, ...] | None = None,
    pad: int = 0,
) -> Speculated:
    """Draws up to `length` tokens of the teacher after prompt int [batch, prompt length], padded on the left.

    `params` are (student's, teacher's). In a round the student draws `proposals` tokens x_i; the teacher accepts each
    with probability min(1, p(x_i) / q(x_i)), p its own distribution and q the student's, both at `temperature` and
    filtered; the first rejected one is drawn again from max(0, p - q), normalised; if none is rejected, one more is
    drawn from p. temperature 0: greedy, a proposal is accepted where it is the teacher's choice.
    """
    batch, size = prompt.shape
    keys = row_keys(key, batch)
    room = size + length + proposals + 1  # what was proposed beyond `length` is written, and cut off at the end

    def distribution(logits: Array) -> Array:
        if temperature == 0:
            return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
        return jax.nn.softmax(filtered(logits, temperature, top_k, top_p))

    def prefilled(network: Decoding, network_params: PyTree) -> PyTree:
        """Returns the cache of all of the prompt but its last token, with which the first round begins."""
        cache = network.start(network_params, batch, room)
        _, cache = network.step(network_params, prompt, cache, prompt_mask, True)
        return network.rewind(cache, jnp.full(batch, size - 1, jnp.int32))

    def body(state: tuple) -> tuple:
        number, token, counts, done, tokens, mask, caches, tally = state
        at = size - 1 + counts  # the slot of `token`, in both caches
        round_keys = step_keys(keys, number)

        def propose(carry: tuple, i: Array) -> tuple:
            token, cache = carry
            logits, cache = student.step(params[0], token[:, None], cache, None, True)
            q = distribution(logits[:, 0])
            return (draw(jnp.log(q), step_keys(round_keys, i)), cache), (token, q)

        # One step more than there are proposals, so that the cache holds the last of them too.
        (_, student_cache), (run, q) = jax.lax.scan(propose, (token, caches[0]), jnp.arange(proposals + 1))
        run, q = run.swapaxes(0, 1), q.swapaxes(0, 1)[:, :proposals]
        proposed = run[:, 1:]
        logits, teacher_cache = teacher.step(params[1], run, caches[1])
        p = distribution(logits)

        def of_proposed(probabilities: Array) -> Array:
            return jnp.take_along_axis(probabilities, proposed[:, :, None], 2)[:, :, 0]

        chance = jax.vmap(lambda k: jax.random.uniform(k, (proposals,)))(step_keys(round_keys, proposals + 1))
        accepts = chance * of_proposed(q) < of_proposed(p[:, :proposals])
        right = jnp.cumprod(accepts, 1).sum(1)  # how many before the first that is rejected
        rest = jnp.maximum(p - jnp.pad(q, ((0, 0), (0, 1), (0, 0))), 0)  # after the last proposal: p itself
        # p and q that differ by rounding alone can reject with nothing left: then p itself is right.
        rest = jnp.where(rest.sum(-1, keepdims=True) > 0, rest, p)
        rest = jnp.take_along_axis(rest, right[:, None, None], 1)[:, 0]
        last = draw(jnp.log(rest), step_keys(round_keys, proposals + 2)).astype(jnp.int32)

        new = jnp.where(jnp.arange(proposals + 1)[None] == right[:, None], last[:, None], jnp.roll(run, -1, 1))
        real = (jnp.arange(proposals + 1)[None] <= right[:, None]) & ~done[:, None]
        if end is not None:
            ends = jnp.cumsum(is_end(new, end) & real, 1)
            real = real & ((ends == 0) | ((ends == 1) & is_end(new, end)))
        put = jax.vmap(lambda whole, part, start: jax.lax.dynamic_update_slice(whole, part, (start,)))
        tokens, mask = put(tokens, jnp.where(real, new, pad), counts), put(mask, real, counts)
        tally += jnp.stack([jnp.where(done, 0, right).sum(), (~done).sum() * proposals])
        added = real.sum(1)
        if end is not None:
            done = done | (is_end(new, end) & real).any(1)
        counts = counts + added
        done = done | (counts >= length)
        token = jnp.where(done, token, last)
        index = jnp.where(done, at, size - 1 + counts)
        caches = student.rewind(student_cache, index), teacher.rewind(teacher_cache, index)
        return number + 1, token, counts, done, tokens, mask, caches, tally

    caches = prefilled(student, params[0]), prefilled(teacher, params[1])
    space = length + proposals + 1
    state = (
        jnp.int32(0),
        prompt[:, -1].astype(jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros(batch, bool),
        jnp.full((batch, space), pad, jnp.int32),
        jnp.zeros((batch, space), bool),
        caches,
        jnp.zeros(2, jnp.int32),
    )
    rounds, _, _, _, tokens, mask, _, tally = jax.lax.while_loop(lambda s: ~s[3].all(), body, state)
    tokens, mask = jnp.where(mask, tokens, pad)[:, :length], mask[:, :length]
    return Speculated(tokens, mask, tally[0] / jnp.maximum(tally[1], 1), rounds)
