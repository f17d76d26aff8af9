"""Beam search: the most likely sequences that a network's `Decoding` knows, for sequence-level distillation."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.models.language.generation import Decoding, is_end
from kd_jax.types import Array, PyTree

NONE = -1e30  # the score of a beam that does not exist; finite, so that sums and comparisons are


class Beams(NamedTuple):
    tokens: Array  # int32 [batch, beams, length], padded after the end token
    mask: Array  # bool, the same shape
    scores: Array  # [batch, beams], best first


def beam_search(
    decoding: Decoding,
    params: PyTree,
    prompt: Array,
    prompt_mask: Array | None,
    *,
    beams: int,
    length: int,
    end: int | tuple[int, ...],
    length_penalty: float = 1.0,
    pad: int = 0,
    cache: PyTree = None,
) -> Beams:
    """Returns the `beams` best of the sequences of at most `length` tokens after prompt int [batch, prompt length].

    score = sum of log-probabilities / (number of new tokens, the end included) ** length_penalty, the form of
    `transformers` (0: plain sums). A sequence that has not ended after `length` tokens competes as it is. At each step
    the 2 * beams best continuations are looked at: those that end are kept aside, the best others go on. The search
    stops when nothing that goes on can overtake what is kept. Where there are fewer sequences than beams, the others
    have score -inf and an empty mask. `cache` as in `generate`, for `batch` rows.
    """
    batch, size = prompt.shape
    cache = decoding.start(params, batch, size + length) if cache is None else cache
    logits, cache = decoding.step(params, prompt, cache, prompt_mask, True)
    vocabulary = logits.shape[-1]
    cache = decoding.take(cache, jnp.arange(batch).repeat(beams))
    rows = jnp.arange(batch)[:, None] * beams

    def penalised(scores: Array, count: Array | int) -> Array:
        return scores / jnp.asarray(count, jnp.float32) ** length_penalty

    def body(state: tuple) -> tuple:
        number, live, live_tokens, done_scores, done_tokens, done_mask, logits, cache = state
        logs = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, beams, vocabulary)
        scores = (live[:, :, None] + logs).reshape(batch, beams * vocabulary)
        scores, positions = jax.lax.top_k(scores, 2 * beams)
        parents, tokens = positions // vocabulary, (positions % vocabulary).astype(jnp.int32)
        histories = jnp.take_along_axis(live_tokens, parents[:, :, None], 1).at[:, :, number].set(tokens)
        ended = is_end(tokens, end) | (number == length - 1)

        # What ends competes with what was kept aside before.
        all_scores = jnp.concatenate([done_scores, jnp.where(ended, penalised(scores, number + 1), NONE)], 1)
        all_tokens = jnp.concatenate([done_tokens, histories], 1)
        new_mask = jnp.broadcast_to(jnp.arange(length)[None, None] <= number, histories.shape)
        all_masks = jnp.concatenate([done_mask, new_mask], 1)
        done_scores, best = jax.lax.top_k(all_scores, beams)
        done_tokens = jnp.take_along_axis(all_tokens, best[:, :, None], 1)
        done_mask = jnp.take_along_axis(all_masks, best[:, :, None], 1)

        live, best = jax.lax.top_k(jnp.where(ended, NONE, scores), beams)
        live_tokens = jnp.take_along_axis(histories, best[:, :, None], 1)
        source = (rows + jnp.take_along_axis(parents, best, 1)).reshape(-1)
        token = jnp.take_along_axis(tokens, best, 1).reshape(-1, 1)
        logits, cache = decoding.step(params, token, decoding.take(cache, source), None, True)
        return number + 1, live, live_tokens, done_scores, done_tokens, done_mask, logits[:, -1], cache

    def going_on(state: tuple) -> Array:
        number, live, _, done_scores = state[:4]
        # Sums only fall: with a penalty above 0 the longest sequence could still be the best of what is left.
        longest = length if length_penalty > 0 else number + 1
        return (number < length) & (penalised(live[:, 0], longest) > done_scores[:, -1]).any()

    first = jnp.where(jnp.arange(beams)[None] == 0, 0.0, NONE).repeat(batch, 0)
    tokens = jnp.full((batch, beams, length), pad, jnp.int32)
    state = (
        jnp.int32(0),
        first,
        tokens,
        jnp.full((batch, beams), NONE),
        tokens,
        jnp.zeros(tokens.shape, bool),
        logits[:, -1].repeat(beams, 0),
        cache,
    )
    done_scores, tokens, mask = jax.lax.while_loop(going_on, body, state)[3:6]
    exists = done_scores > NONE / 1e6
    mask = mask & exists[:, :, None]
    return Beams(jnp.where(mask, tokens, pad), mask, jnp.where(exists, done_scores, -jnp.inf))
