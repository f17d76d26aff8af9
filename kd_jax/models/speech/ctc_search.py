"""Transcripts of CTC networks: the greedy one, and the n best by prefix beam search, on the device.

Symbol 0 is the blank. A transcript is a row of symbols, -1 behind its end.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.types import Array

NEVER = -1e30  # the logarithm of a probability of 0 that can be subtracted from itself


def greedy(logits: Array) -> Array:
    """Returns the transcripts int32 [batch, frames] of the likeliest symbol of each frame, repeats and blanks left out.

    logits [batch, frames, symbols]; padded frames must answer blank, as the networks of models/speech do.
    """
    best = jnp.argmax(jnp.asarray(logits), -1).astype(jnp.int32)
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)))
    stays = (best != 0) & (best != before)
    order = jnp.argsort(~stays, axis=1, stable=True)
    return jnp.where(jnp.take_along_axis(stays, order, 1), jnp.take_along_axis(best, order, 1), -1)


class Beams(NamedTuple):
    """The prefixes of one recording: symbols [beams, length], how many, log p of those ending in a blank or not."""

    symbols: Array
    count: Array
    blank: Array
    other: Array

    @property
    def total(self) -> Array:
        return jnp.logaddexp(self.blank, self.other)

    @property
    def last(self) -> Array:
        at = jnp.maximum(self.count - 1, 0)[:, None]
        return jnp.where(self.count > 0, jnp.take_along_axis(self.symbols, at, 1)[:, 0], 0)


def prefix_beams(logits: Array, frames: Array, beams: int, length: int) -> tuple[Array, Array]:
    """Returns (transcripts int32 [batch, beams, length], their log probabilities [batch, beams]), the likeliest first.

    logits [batch, frames, symbols], frames bool [batch, frames], False on padding. The probability of a transcript is
    the sum over its alignments that the search kept; of one that there is none left for it is -1e30, and so it is of
    one longer than `length`. Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using
    Bi-Directional Recurrent DNNs", 2014, arXiv 1408.2873, without a language model.
    """
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    search = functools.partial(_search, beams=beams, length=length)
    return jax.vmap(search)(log_probs, jnp.asarray(frames))


def _search(log_probs: Array, frames: Array, beams: int, length: int) -> tuple[Array, Array]:
    none = jnp.full(beams, NEVER)
    start = Beams(jnp.full((beams, length), -1, jnp.int32), jnp.zeros(beams, jnp.int32), none.at[0].set(0.0), none)

    def step(held: Beams, at: tuple[Array, Array]) -> tuple[Beams, None]:
        log_p, real = at
        new = _extended(held, log_p)
        return jax.tree.map(lambda a, b: jnp.where(real, a, b), new, held), None

    last, _ = jax.lax.scan(step, start, (log_probs, frames))
    order = jnp.argsort(-last.total, stable=True)
    return last.symbols[order], jnp.maximum(last.total[order], NEVER)


def _extended(held: Beams, log_p: Array) -> Beams:
    """The best prefixes one frame later."""
    beams, length = held.symbols.shape
    alive = held.total > NEVER / 2
    total, last = jnp.where(alive, held.total, NEVER), held.last
    blank = total + log_p[0]
    other = jnp.where(held.count > 0, held.other + log_p[last], NEVER)
    # A prefix i that a symbol more makes the prefix j that is here already: what it brings is added there.
    longer = held.symbols.at[jnp.arange(beams), jnp.minimum(held.count, length - 1)]
    grown = jnp.where(last[None] == last[:, None], held.blank[:, None], total[:, None])  # [i, j], after j's last symbol
    candidates = jax.vmap(lambda s: longer.set(s))(last)  # [j, i, length]
    room, there = held.count < length, held.count > 0
    same = (candidates == held.symbols[:, None]).all(-1).T  # [i, j]
    same &= room[:, None] & there[None] & alive[:, None] & alive[None] & (held.count[:, None] + 1 == held.count[None])
    brought = jax.nn.logsumexp(jnp.where(same, grown, NEVER), axis=0) + log_p[last]
    other = jnp.where(there, jnp.logaddexp(other, jnp.where(same.any(0), brought, NEVER)), NEVER)
    # New prefixes [i, symbol].
    symbols = jnp.arange(log_p.shape[0])
    fresh = jnp.where(symbols[None] == last[:, None], held.blank[:, None], total[:, None]) + log_p[None]
    taken = (same[:, :, None] & (last[None, :, None] == symbols[None, None])).any(1)
    allowed = room[:, None] & alive[:, None] & (symbols > 0)[None] & ~taken
    fresh = jnp.where(allowed, fresh, NEVER)
    scores = jnp.concatenate([jnp.where(alive, jnp.logaddexp(blank, other), NEVER), fresh.reshape(-1)])
    _, chosen = jax.lax.top_k(scores, beams)
    stays = chosen < beams
    origin = jnp.where(stays, chosen, (chosen - beams) // len(symbols))
    symbol = jnp.where(stays, -1, (chosen - beams) % len(symbols)).astype(jnp.int32)
    place = jnp.minimum(held.count[origin], length - 1)
    rows = held.symbols[origin]
    written = rows.at[jnp.arange(beams), place].set(jnp.where(stays, rows[jnp.arange(beams), place], symbol))
    none = jnp.full(beams, NEVER)
    return Beams(
        written,
        held.count[origin] + ~stays,
        jnp.where(stays, blank[origin], none),
        jnp.where(stays, other[origin], scores[chosen]),
    )
