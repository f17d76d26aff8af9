"""Sequences from a network that predicts the next token: greedy, sampled, mixed with a teacher.

Pure functions to be jitted (lengths, temperature, top_k, top_p and end are static). Prompts are padded on the left, so
that all rows go on at the same slot; `left_padded` moves padding there. Every row draws from a key of its own, so what
is sampled for it depends neither on the other rows nor on the mesh. Results are tokens [batch, length] and a mask of
the real ones: the end token is real, what follows it is padding. beam_search.py and speculative.py have the other ways.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.types import Array, PyTree


class Decoding(NamedTuple):
    """How a network generates; `decoder.decoding(module)` and `seq2seq.decoding(module)` make one.

    start(params, batch, size) -> an empty cache for `size` tokens;
    step(params, tokens, cache, mask, last) -> (logits, cache): tokens [batch, n] go on from the cache; mask is None or
    False on padding; logits [batch, n, vocabulary], with `last` [batch, 1, vocabulary];
    take(cache, rows) -> the cache of these rows [n], repeated or reordered;
    rewind(cache, index) -> the cache as it was after `index` [batch] tokens, padding included;
    read(params, source, source_mask, size) -> the cache that an encoder-decoder begins with, None of a decoder.
    """

    start: Callable[..., PyTree]
    step: Callable[..., tuple[Array, PyTree]]
    take: Callable[[PyTree, Array], PyTree]
    rewind: Callable[[PyTree, Array], PyTree]
    read: Callable[..., PyTree] | None = None


class Generated(NamedTuple):
    tokens: Array  # int32 [batch, length]
    mask: Array  # bool [batch, length]


def generate(
    decoding: Decoding,
    params: PyTree,
    prompt: Array,
    prompt_mask: Array | None,
    key: Array,
    *,
    length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    end: int | tuple[int, ...] | None = None,
    pad: int = 0,
    cache: PyTree = None,
) -> Generated:
    """Draws up to `length` tokens after prompt int [batch, prompt length], padded on the left.

    A prompt has at least one token. temperature 0 takes the most likely token, without a key's help. A row is done
    after `end`, or one of several; the loop stops when all are. `cache` takes the place of an empty one (of an
    encoder-decoder: with what the encoder saw).
    """
    batch, size = prompt.shape
    keys = row_keys(key, batch)
    cache = decoding.start(params, batch, size + length) if cache is None else cache

    def choose(logits: Array, number: Array) -> Array:
        if temperature == 0:
            return logits.argmax(-1)
        return draw(filtered(logits, temperature, top_k, top_p), step_keys(keys, number))

    def going_on(state: tuple) -> Array:
        number, done = state[0], state[3]
        return (number < length) & ~done.all()

    def body(state: tuple) -> tuple:
        number, logits, cache, done, tokens, mask = state
        token = jnp.where(done, pad, choose(logits, number)).astype(jnp.int32)
        tokens, mask = tokens.at[:, number].set(token), mask.at[:, number].set(~done)
        done = done | is_end(token, end)
        logits, cache = decoding.step(params, token[:, None], cache, None, True)
        return number + 1, logits[:, -1], cache, done, tokens, mask

    logits, cache = decoding.step(params, prompt, cache, prompt_mask, True)
    empty = jnp.full((batch, length), pad, jnp.int32), jnp.zeros((batch, length), bool)
    first = (jnp.int32(0), logits[:, -1], cache, jnp.zeros(batch, bool), *empty)
    return Generated(*jax.lax.while_loop(going_on, body, first)[-2:])


def is_end(tokens: Array, end: int | tuple[int, ...] | None) -> Array:
    """Returns bool of the shape of `tokens`: which are the token, or one of the tokens, that ends a text."""
    ends = () if end is None else end if isinstance(end, tuple) else (end,)
    return reduce(jnp.logical_or, [tokens == one for one in ends], jnp.zeros(tokens.shape, bool))


def mixed(student: Decoding, teacher: Decoding, alpha: float) -> Decoding:
    """Returns a network whose probabilities are alpha teacher + (1 - alpha) student.

    Its parameters are (student's, teacher's). The teacher-mixed sampling of Gu et al., "MiniLLM", 2023, arXiv
    2306.08543 (alpha 0.2). Both are mixed at temperature 1; temperature and filters of `generate` act on the mixture.
    """

    def start(params: tuple[PyTree, PyTree], batch: int, size: int) -> tuple[PyTree, PyTree]:
        return student.start(params[0], batch, size), teacher.start(params[1], batch, size)

    def step(params: tuple, tokens: Array, caches: tuple, mask: Array | None = None, last: bool = False) -> tuple:
        student_logits, first = student.step(params[0], tokens, caches[0], mask, last)
        teacher_logits, second = teacher.step(params[1], tokens, caches[1], mask, last)
        shares = jnp.log(jnp.asarray([1 - alpha, alpha])).reshape((2,) + (1,) * student_logits.ndim)
        logs = jnp.stack([jax.nn.log_softmax(student_logits), jax.nn.log_softmax(teacher_logits)]) + shares
        return jax.nn.logsumexp(logs, axis=0), (first, second)

    def take(caches: tuple, rows: Array) -> tuple:
        return student.take(caches[0], rows), teacher.take(caches[1], rows)

    def rewind(caches: tuple, index: Array) -> tuple:
        return student.rewind(caches[0], index), teacher.rewind(caches[1], index)

    return Decoding(start, step, take, rewind)


def filtered(logits: Array, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Array:
    """Returns logits / temperature [..., vocabulary], -inf for tokens that are not to be drawn.

    Left are the top_k most likely (0 = all), and of these the fewest whose probabilities, renormalised, reach top_p. Of
    equal logits the lower token comes first.

    top_p: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019, arXiv 1904.09751. ValueError for
    temperature <= 0, top_k < 0 or top_p outside (0, 1].
    """
    if temperature <= 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature={temperature} must be above 0, top_k={top_k} not below, top_p={top_p} in (0, 1]")
    logits = logits.astype(jnp.float32) / temperature
    size = logits.shape[-1]
    if top_p == 1 and not 0 < top_k < size:
        return logits
    values, tokens = jax.lax.top_k(logits, min(top_k or size, size))
    probabilities = jax.nn.softmax(values)
    reached_before = jnp.cumsum(probabilities, -1) - probabilities
    values = jnp.where(reached_before < top_p, values, -jnp.inf)
    return jnp.put_along_axis(jnp.full_like(logits, -jnp.inf), tokens, values, axis=-1, inplace=False)


def draw(logits: Array, keys: Array) -> Array:
    """Draws one token a row: logits [batch, vocabulary], keys [batch]."""
    return jax.vmap(jax.random.categorical)(keys, logits)


def row_keys(key: Array, batch: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def step_keys(keys: Array, number: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def left_padded(tokens: Array, mask: Array) -> tuple[Array, Array]:
    """Moves the padding of tokens and mask [batch, length] to the left; the order of real tokens stays."""
    order = jnp.argsort(mask, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, 1), jnp.take_along_axis(mask, order, 1)


def joined(prompt: Array, prompt_mask: Array | None, generated: Generated) -> tuple[Array, Array]:
    """Returns (tokens, segments) [batch, prompt length + length]: a batch for a decoder, padding in segment 0."""
    mask = jnp.ones(prompt.shape, bool) if prompt_mask is None else prompt_mask
    tokens = jnp.concatenate([prompt, generated.tokens], 1)
    return tokens, jnp.concatenate([mask, generated.mask], 1).astype(jnp.int32)
