"""Word and character error rates by hand, and the terms of distillation against the losses they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.data import transcripts
from kd_jax.data.source import Source
from kd_jax.losses.ctc import ctc_sequence_loss
from kd_jax.losses.response import kd_loss
from kd_jax.losses.task import ctc_loss
from kd_jax.tasks import transcribe, transcribe_terms
from kd_jax.types import Outputs

pytest.importorskip("jiwer")
RNG = np.random.default_rng(0)
TEXTS = ("to be", "or not", "cat", "")
LENGTH, FRAMES = 8, 16


def labels_of(texts):
    rows = np.full((len(texts), LENGTH), -1, np.int32)
    for row, text in zip(rows, texts, strict=True):
        if text:
            row[: len(text)] = transcripts.encode(text)
    return rows


def answers(texts):
    """Logits whose greedy transcripts are the texts: a blank between all symbols."""
    rows = np.zeros((len(texts), FRAMES), int)
    for row, text in zip(rows, texts, strict=True):
        if text:
            row[1 : 1 + 2 * len(text) : 2] = transcripts.encode(text)
    return 8 * jax.nn.one_hot(rows, len(transcripts.SYMBOLS))


LABELS = labels_of(TEXTS)
SOURCE = Source(
    "letters",
    "train",
    len(transcripts.SYMBOLS),
    transcripts.SYMBOLS,
    (0.0,),
    (1.0,),
    (40, 1, 1),
    LABELS,
    np.zeros((4, 40, 1, 1), np.float32),
)


def scored(logits, reference=None, mask=(True,) * 4):
    task = transcribe.task(SOURCE)
    batch = {"label": jnp.asarray(LABELS), "mask": np.array(mask), "frames": jnp.ones((4, FRAMES), bool)}
    run = lambda: Outputs(logits, {})  # noqa: E731
    totals = {k: tuple(map(np.asarray, v)) for k, v in task.sums(run, batch, reference, jax.random.key(0)).items()}
    collected = {k: np.asarray(v)[list(mask)] for k, v in task.collect(run, batch, jax.random.key(0)).items()}
    return task.finish(totals, {"scored": collected})


def test_error_rates_by_hand():
    values = scored(answers(("to me", "or no it", "cat", "x")))
    # A word of "to be" is wrong; "or not" has a wrong one and one more; what has no transcript is left out.
    np.testing.assert_allclose(values["wer"], 3 / 5)
    np.testing.assert_allclose(values["cer"], 3 / 14)
    rate, pairs = 3 / 5, [(1, 2), (2, 2), (0, 1)]
    np.testing.assert_allclose(values["wer_error"], np.sqrt(sum((e - rate * n) ** 2 for e, n in pairs)) / 5)
    assert scored(answers(TEXTS))["wer"] == 0 and scored(answers(("",) * 4))["wer"] == 1
    assert transcribe.task(SOURCE).chance(LABELS) == 1


def test_nll_is_a_symbol_s_and_padding_counts_nowhere():
    logits = jnp.asarray(RNG.normal(size=(4, FRAMES, len(transcripts.SYMBOLS))), jnp.float32)
    values, fewer = scored(logits, Outputs(logits, {})), scored(logits, mask=(True, False, True, True))
    there = LABELS >= 0
    nll = ctc_loss(logits, jnp.zeros((4, FRAMES)), jnp.maximum(LABELS, 0), 1.0 - there)
    np.testing.assert_allclose(values["nll"], nll[:3].sum() / there.sum(), rtol=1e-5)
    np.testing.assert_allclose(fewer["nll"], (nll[0] + nll[2]) / there[[0, 2]].sum(), rtol=1e-5)
    assert values["agreement"] == 1 and "agreement" not in fewer


def test_without_transcripts_nothing_is_measured():
    values = scored(answers(TEXTS), mask=(False, False, False, True))
    assert values["wer"] is None and values["wer_error"] is None and values["nll"] is None


def test_the_answer_is_a_text():
    task = transcribe.task(SOURCE)
    assert task.predict(answers(TEXTS)).tolist() == list(TEXTS)
    spaces = jax.nn.one_hot(np.array([[1, 2, 1, 0, 1, 3, 1]]), len(transcripts.SYMBOLS))  # " a  b "
    assert task.predict(spaces).tolist() == ["a b"]


def test_spoken_frames_are_those_where_the_teacher_hears_a_symbol():
    teacher = jnp.asarray(answers(("ab",))[:, :6])  # blank, a, blank, b, blank, blank
    student = jnp.asarray(RNG.normal(size=teacher.shape), jnp.float32)
    frames = jnp.ones((1, 6), bool)
    each = np.asarray(kd_loss(student, teacher, temperature=1.0))[0]
    loss = transcribe_terms.spoken_frames_loss
    np.testing.assert_allclose(loss(student, teacher, frames)[0], each[[1, 3]].mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(student, teacher, frames, reach=1)[0], each[:5].mean(), rtol=1e-5)
    np.testing.assert_allclose(loss(student, teacher, frames.at[0, 3].set(False))[0], each[1], rtol=1e-5)
    silent = loss(student, answers(("",))[:, :6], frames)
    assert silent[0] == 0
    gradient = jax.grad(lambda s: loss(s, answers(("",))[:, :6], frames).sum())(student)
    assert (gradient == 0).all()


def test_hypotheses_are_weighted_by_their_probabilities():
    teacher = jnp.asarray(RNG.normal(size=(2, 4, 3)), jnp.float32)
    student = jnp.asarray(RNG.normal(size=(2, 4, 3)), jnp.float32)
    frames = jnp.ones((2, 4), bool)
    value = transcribe_terms.hypotheses_loss(student, teacher, frames, number=3, length=4)
    texts, scores = transcribe_terms.prefix_beams(teacher, frames, 3, 4)
    weights, there = jax.nn.softmax(scores, 1), texts >= 0
    whole = ctc_sequence_loss(student, jnp.zeros((2, 4)), jnp.maximum(texts, 0), 1.0 - there, weights)
    np.testing.assert_allclose(value, whole / jnp.maximum((weights * there.sum(2)).sum(1), 1), rtol=1e-5)
    gradient = jax.grad(lambda s: transcribe_terms.hypotheses_loss(s, teacher, frames).sum())(student)
    assert np.isfinite(gradient).all() and (gradient != 0).any()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros(4, np.int32), "the task takes transcripts, integers"),
        (np.where(LABELS < 0, -1, 0), "the transcript of recording 0, .* is no row of symbols 1 to 28"),
        (np.where(LABELS < 0, -1, 99), "is no row of symbols"),
        (LABELS[:, ::-1].copy(), "and -1 behind them"),
    ],
)
def test_labels_of_another_form_are_refused(labels, says):
    with pytest.raises(ValueError, match=says):
        transcribe.task(SOURCE).terms(dataclasses.replace(SOURCE, labels=labels))


def test_outputs_of_another_form_are_refused():
    task, batch = transcribe.task(SOURCE), {"label": jnp.asarray(LABELS)}
    with pytest.raises(ValueError, match=r"its output has shape \(4, 29\); on this data it is \[batch, frames, symb"):
        task.check(Outputs(jnp.zeros((4, 29)), {}), batch)
    with pytest.raises(ValueError, match="it answers 5 frames, and the transcript of recording 1 .* needs 6"):
        task.check(Outputs(jnp.zeros((4, 5, 29)), {}), batch)
