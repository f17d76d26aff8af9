"""Networks that transcribe, and the search for transcripts against every alignment counted by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.adapters import as_model
from kd_jax.models.speech import conformer, ctc_search

NETWORKS = {
    "conformer": lambda: conformer.conformer(5, width=8, depth=1, heads=2, channels=4),
    "convolutional": lambda: conformer.convolutional(5, width=8, depth=1),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    model = as_model(NETWORKS[request.param]())
    mel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 21, 8)), jnp.float32)
    frames = jnp.asarray([[True] * 6, [True] * 4 + [False] * 2])
    mel = jnp.where(jnp.repeat(frames, 4, 1)[:, :21, None], mel, 0)
    params, stats = model.init(jax.random.key(0), mel, frames)
    run = lambda *x: model.apply(params, stats, *x, train=False, key=jax.random.key(0), taps=("*",))[0]  # noqa: E731
    return run, mel, frames


def test_padding_answers_blank_and_changes_nothing(network):
    run, mel, frames = network
    outputs = run(mel, frames)
    assert outputs.logits.shape == (2, 6, 5) and {"subsampled", "embedding", "head"} <= set(outputs.features)
    padded = jax.nn.softmax(outputs.logits[1, 4:])
    np.testing.assert_allclose(padded[:, 0], 1, atol=1e-6)
    shorter = run(mel[1:, :16], frames[1:, :4])
    np.testing.assert_allclose(shorter.logits[0], outputs.logits[1, :4], atol=1e-5)
    with pytest.raises(ValueError, match=r"batch.frames \(2, 3\) are not those of the network, \(2, 6\).*stride is 4"):
        run(mel, frames[:, ::2])


def test_width_is_a_multiple_of_heads():
    with pytest.raises(ValueError, match="width=10 is no multiple of heads=4"):
        conformer.conformer(5, width=10)


def by_hand(logits):
    """{transcript: probability} over all alignments."""
    p, total = np.asarray(jax.nn.softmax(logits)), {}
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        text = tuple(s for s, _ in itertools.groupby(path) if s)
        total[text] = total.get(text, 0) + np.prod(p[np.arange(len(p)), path])
    return total


def test_the_search_finds_all_transcripts_where_it_has_room():
    logits = jnp.asarray(2 * np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    frames = np.ones((2, 5), bool)
    frames[1, 4] = False
    texts, scores = ctc_search.prefix_beams(logits, frames, 40, 5)
    for row, real in enumerate(frames):
        expected = by_hand(logits[row][real])
        mine = {
            tuple(t[t >= 0].tolist()): float(np.exp(s))
            for t, s in zip(np.asarray(texts[row]), np.asarray(scores[row]), strict=True)
            if s > ctc_search.NEVER / 2
        }
        assert mine.keys() == expected.keys()
        np.testing.assert_allclose([mine[k] for k in expected], list(expected.values()), rtol=1e-4)
        assert (np.diff(scores[row]) <= 0).all()


def test_few_beams_find_the_best_and_none_is_longer_than_there_is_room():
    logits = jnp.asarray(3 * np.random.default_rng(1).normal(size=(1, 6, 4)), jnp.float32)
    frames = jnp.ones((1, 6), bool)
    expected = by_hand(logits[0])
    texts, _ = ctc_search.prefix_beams(logits, frames, 8, 6)
    best = np.asarray(texts[0, 0])
    assert tuple(best[best >= 0].tolist()) == max(expected, key=expected.get)
    short, scores = ctc_search.prefix_beams(logits, frames, 8, 1)
    told = np.asarray(scores[0]) > ctc_search.NEVER / 2
    assert told.sum() == 4 and ((np.asarray(short[0])[told] >= 0).sum(1) <= 1).all()


def test_greedy_leaves_repeats_and_blanks_out():
    path = np.array([[0, 1, 1, 0, 1, 2], [0, 0, 0, 0, 0, 0]])
    rows = ctc_search.greedy(jax.nn.one_hot(path, 3))
    np.testing.assert_array_equal(rows, [[1, 1, 2, -1, -1, -1], [-1] * 6])
