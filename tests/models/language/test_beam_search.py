"""Beam search against brute force over all sequences, and speculative decoding against the teacher's distribution."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoders import MASK, MODULES, params_of, table, tokens_of

from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.beam_search import beam_search
from kd_jax.models.language.decoder import decoding
from kd_jax.models.language.generation import filtered, generate
from kd_jax.models.language.speculative import speculate

KEY = jax.random.key(0)


def brute_force(logits, first, length, end, penalty):
    """[(score, tokens)] of all sequences, best first; logits [V, V] of the token after each."""
    logs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    texts = []
    for count in range(1, length + 1):
        for tokens in itertools.product(range(len(logs)), repeat=count):
            early_end = end in tokens[:-1]
            if not early_end and (tokens[-1] == end or count == length):
                total = sum(logs[a, b] for a, b in zip((first, *tokens), tokens, strict=False))
                texts.append((total / count**penalty, tokens))
    return sorted(texts, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_all_beams_are_brute_force(penalty):
    logits = jax.random.normal(KEY, (3, 3)) * 1.5
    prompt = jnp.asarray([[1], [0]])
    search = partial(beam_search, table(None), beams=27, length=4, end=2, length_penalty=penalty, pad=7)
    beams = jax.jit(search)(logits, prompt, None)
    for row, first in enumerate((1, 0)):
        expected = brute_force(logits, first, 4, 2, penalty)[:27]
        np.testing.assert_allclose(beams.scores[row], [score for score, _ in expected], rtol=1e-5)
        score_of, different = {tokens: score for score, tokens in brute_force(logits, first, 4, 2, penalty)}, set()
        for beam in range(27):
            tokens = tuple(np.asarray(beams.tokens[row, beam])[np.asarray(beams.mask[row, beam])].tolist())
            np.testing.assert_allclose(beams.scores[row, beam], score_of[tokens], rtol=1e-5)
            assert (np.asarray(beams.tokens[row, beam])[len(tokens) :] == 7).all()
            different.add(tokens)
        assert len(different) == 27, "sequences with the same transitions tie, but none comes twice"


def test_few_beams_stop_early_with_the_scores_of_their_sequences():
    """The scores of what a decoder's search returns are those that the full forward gives these sequences."""
    module = MODULES["mistral"]
    params, prompt = params_of(module), tokens_of(3, 3)
    run = jax.jit(partial(beam_search, decoding(module), beams=3, length=5, end=4, length_penalty=0.6))
    beams = run(params, prompt, MASK)
    assert (jnp.diff(beams.scores, axis=1) <= 0).all()
    tokens = jnp.concatenate([jnp.repeat(prompt[:, None], 3, 1), beams.tokens], 2).reshape(9, 8)
    segments = jnp.concatenate([jnp.repeat(MASK[:, None], 3, 1), beams.mask], 2).reshape(9, 8).astype(jnp.int32)
    logits = jax.jit(lambda t, s: module.apply({"params": params}, t, s))(tokens, segments)
    logs = jnp.take_along_axis(jax.nn.log_softmax(logits[:, 2:-1]), tokens[:, 3:, None], 2)[..., 0].reshape(3, 3, 5)
    sums = jnp.where(beams.mask, logs, 0).sum(2) / beams.mask.sum(2) ** 0.6
    np.testing.assert_allclose(beams.scores, sums, rtol=1e-4)
    ends = (beams.tokens == 4) & beams.mask
    assert (ends.sum(2) == (beams.mask.sum(2) < 5) | ends[:, :, -1]).all()
    one = jax.jit(partial(beam_search, decoding(module), beams=1, length=5, end=11))(params, prompt, MASK)
    greedy = jax.jit(partial(generate, decoding(module), length=5, temperature=0))(params, prompt, MASK, KEY)
    np.testing.assert_array_equal(one.tokens[:, 0], greedy.tokens)


def test_beams_that_do_not_exist_say_so():
    logits = jnp.zeros((2, 2))
    beams = beam_search(table(None), logits, jnp.zeros((1, 1), jnp.int32), None, beams=4, length=1, end=1)
    assert np.isfinite(beams.scores[0, :2]).all() and (beams.scores[0, 2:] == -jnp.inf).all()
    np.testing.assert_array_equal(beams.mask[0, :, 0], [True, True, False, False])


OPTIONS = {"width": 8, "depth": 1, "heads": 2, "hidden": 8}


@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "top_k": 3, "top_p": 0.95}])
def test_speculative_samples_have_the_teachers_distribution(options):
    """The first and the last two of four tokens against their exact probabilities."""
    from scipy import stats

    student = jax.random.normal(KEY, (4, 4))
    teacher = student + jax.random.normal(jax.random.key(3), (4, 4))
    prompt, count = jnp.full((6000, 1), 2), 6000
    run = partial(speculate, table(None), table(None), length=4, proposals=2, **options)
    text = jax.jit(run)((student, teacher), prompt, None, KEY)
    assert 0.3 < text.accepted < 0.95 and text.rounds >= 2
    p = np.asarray(jax.nn.softmax(filtered(teacher, **options)), np.float64)
    pairs = np.asarray(text.tokens[:, :2]) @ [4, 1]
    last = np.asarray(text.tokens[:, 2:]) @ [4, 1]
    joint = (p[2][:, None] * p).reshape(-1)
    later = ((p[2] @ p) @ p)[:, None] * p
    for counts, expected in (
        (np.bincount(pairs, minlength=16), joint),
        (np.bincount(last, minlength=16), later.reshape(-1)),
    ):
        possible = expected > 0
        assert counts[~possible].sum() == 0
        expected = expected[possible] / expected.sum() * count
        assert stats.chisquare(counts[possible], expected).pvalue > 1e-3


def test_speculative_greedy_is_the_teachers_greedy_and_ends():
    student, teacher = families.llama(11, **OPTIONS), families.gpt2(11, **OPTIONS, max_length=32)
    params = params_of(student), params_of(teacher, 3)
    prompt = tokens_of(3, 3)
    greedy = jax.jit(partial(generate, decoding(teacher), length=7, temperature=0, end=3, pad=9))
    expected = greedy(params[1], prompt, MASK, KEY)
    run = partial(speculate, decoding(student), decoding(teacher), length=7, proposals=3, temperature=0, end=3, pad=9)
    text = jax.jit(run)(params, prompt, MASK, KEY)
    np.testing.assert_array_equal(text.tokens, expected.tokens)
    np.testing.assert_array_equal(text.mask, expected.mask)
    assert text.accepted < 1
    of_itself = partial(speculate, decoding(teacher), decoding(teacher), length=8, proposals=3, temperature=0)
    text = jax.jit(of_itself)((params[1], params[1]), prompt, MASK, KEY)
    assert text.accepted == 1 and text.rounds == 2, "8 tokens are two runs of 3 accepted and 1 more"
