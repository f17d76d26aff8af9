"""What a network that transcribes learns from: transcripts by CTC, a teacher's frames, a teacher's transcripts.

`frames` bool [batch, frames] of a batch is False on padding; symbol 0 is the blank.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses.ctc import ctc_sequence_loss
from kd_jax.losses.response import kd_loss
from kd_jax.losses.task import ctc_loss
from kd_jax.models.speech.ctc_search import NEVER, prefix_beams
from kd_jax.ranges import Count, NotNegative, Positive
from kd_jax.types import Array


def transcript_nll(logits: Array, labels: Array, frames: Array) -> Array:
    """Returns losses.task.ctc_loss of transcripts int [batch, length], -1 behind their ends, a symbol: [batch].

    logits [batch, frames, symbols]. Where there is no transcript it is that of an empty one.
    """
    there = labels >= 0
    nll = ctc_loss(logits, 1.0 - frames, jnp.where(there, labels, 0), 1.0 - there)
    return nll / jnp.maximum(there.sum(1), 1)


def spoken_frames_loss(
    logits: Array,
    teacher_logits: Array,
    frames: Array,
    *,
    temperature: Positive[Array | float] = 1.0,
    reach: NotNegative[int] = 0,
) -> Array:
    """Returns the mean of losses.response.kd_loss over the frames where the teacher's likeliest symbol is no blank.

    Blank elimination; with `reach` so many frames on both sides of such a frame count too. Logits [batch, frames,
    symbols]; returns [batch], 0 where the teacher hears nothing. Hilmes, Rossenbach, Schlueter, "Analyzing the
    Importance of Blank for CTC-Based Knowledge Distillation", 2025, arXiv 2506.01503.
    """
    spoken = (jnp.argmax(teacher_logits, -1) != 0) & frames
    padded = jnp.pad(spoken, ((0, 0), (reach, reach)))
    near = jnp.stack([padded[:, i : i + spoken.shape[1]] for i in range(2 * reach + 1)]).any(0) & frames
    values = jnp.where(near, kd_loss(logits, teacher_logits, temperature=temperature), 0.0)
    return values.sum(1) / jnp.maximum(near.sum(1), 1)


def hypotheses_loss(
    logits: Array, teacher_logits: Array, frames: Array, *, number: Count[int] = 4, length: Count[int] = 32
) -> Array:
    """Returns losses.ctc.ctc_sequence_loss of the teacher's `number` best transcripts, a symbol: [batch].

    Their weights are their probabilities, which add up to 1. They are found by prefix beam search on the device and
    have at most `length` symbols. Logits [batch, frames, symbols]. Takashima, Li, Kawai, "An Investigation of a
    Knowledge Distillation Method for CTC Acoustic Models", ICASSP 2018; there the student learns from transcripts too.
    """
    texts, scores = prefix_beams(teacher_logits, frames, number, length)
    there = texts >= 0
    sizes = there.sum(2)
    # What the teacher is sure of by less than float32 shows is left out, and so is what the frames cannot say.
    same = (texts[:, :, 1:] == texts[:, :, :-1]) & there[:, :, 1:]
    possible = (scores > NEVER / 2) & (sizes + same.sum(2) <= frames.sum(1)[:, None])
    weights = jax.nn.softmax(jnp.where(possible, scores, -jnp.inf), axis=1, where=possible)
    weights = jnp.where(possible, weights, 0.0)
    values = ctc_sequence_loss(logits, 1.0 - frames, jnp.where(there, texts, 0), 1.0 - there, weights)
    return values / jnp.maximum((weights * sizes).sum(1), 1)
