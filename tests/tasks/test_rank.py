"""The ranking task against metrics counted by hand, and its lists and groups in a report."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax.data.source import Source
from kd_jax.tasks import rank
from kd_jax.types import Outputs

SCORES = np.zeros((4, 15), np.float32)
SCORES[:, :12] = np.arange(12, 0, -1)  # the first item is the best
SCORES[1, 14] = 100.0  # which is no candidate
LABELS = np.zeros((4, 15), np.int32)
LABELS[0, 2] = 1  # third
LABELS[1, [0, 11]] = 1  # first and, with one item more left out, twelfth
LABELS[1, 14] = -1
LABELS[2, [0, 1]] = 1  # the best order
LABELS[3] = -1  # nobody to recommend to


def scored(reference=None, groups=None, labels=LABELS):
    task = rank.task(groups=groups)
    batch = {"label": jnp.asarray(labels), "mask": np.array([True, True, True, True]), "side": np.array([0, 1, 1, 0])}
    totals = task.sums(lambda: Outputs(jnp.asarray(SCORES), {}), batch, reference, jax.random.key(0))
    return task.finish({k: tuple(np.asarray(x) for x in v) for k, v in totals.items()}, {})


def test_metrics_by_hand():
    values = scored(groups={"side": ("left", "right")})
    ndcg = [1 / math.log2(4), 1 / (1 + 1 / math.log2(3)), 1.0]
    np.testing.assert_allclose(values["ndcg"], np.mean(ndcg), rtol=1e-5)
    np.testing.assert_allclose(values["ndcg_error"], np.std(ndcg) / math.sqrt(3), rtol=1e-4)
    assert values["hit_rate"] == 1.0
    np.testing.assert_allclose(values["recall"], np.mean([1, 0.5, 1]), rtol=1e-6)
    np.testing.assert_allclose(values["ndcg_by_side"], [ndcg[0], np.mean(ndcg[1:])], rtol=1e-5)
    z = SCORES[0] - np.log(np.exp(SCORES[0]).sum())
    log_probs = SCORES[1, :14] - np.log(np.exp(SCORES[1, :14]).sum())
    nll = [-z[2], -(log_probs[0] + log_probs[11]) / 2, -(z[0] + z[1]) / 2]
    np.testing.assert_allclose(values["nll"], np.mean(nll), rtol=1e-5)


def test_agreement_is_the_share_of_the_lists():
    assert scored(Outputs(jnp.asarray(SCORES), {}))["agreement"] == 1.0
    other = jnp.asarray(SCORES).at[:, 9].set(0.5)  # the tenth gives way to the eleventh
    np.testing.assert_allclose(scored(Outputs(other, {}))["agreement"], 0.9, rtol=1e-6)
    assert "agreement" not in scored(Outputs(jnp.zeros((4, 3)), {}))


def test_examples_without_candidates_have_no_gradient():
    gradient = jax.grad(lambda s: rank.chosen_nll(s, jnp.asarray(LABELS)).sum())(jnp.asarray(SCORES))
    assert np.all(np.isfinite(gradient)) and np.all(gradient[3] == 0) and gradient[1, 14] == 0


def test_nothing_to_score_is_not_zero():
    values = scored(labels=np.full((4, 15), -1, np.int32))
    assert values["ndcg"] is None and values["ndcg_error"] is None


def source(labels):
    width = labels.shape[1] if labels.ndim == 2 else 3
    return Source(
        "clicks",
        "train",
        width,
        tuple("abcdefghijklmnopq"[:width]),
        (0.0,),
        (1.0,),
        (1,),
        labels,
        np.zeros((4, 1), np.float32),
    )


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"labels of clicks are float32 \(4, 2\).*1 chosen, 0 a candidate, -1 none"):
        rank.terms(source(np.zeros((4, 2), np.float32)))
    with pytest.raises(ValueError, match=r"groups names 'sex'; the fields of clicks are \[\]"):
        rank.task(source(LABELS), groups={"sex": ("f", "m")})
    with pytest.raises(ValueError, match=r"\[batch, items\], \(4, 15\)"):
        rank.check(Outputs(jnp.zeros((4, 3)), {}), {"label": LABELS})


def test_a_run_of_your_own_ratings(tmp_path):
    """Clicks of 200 people of two tastes: the road from arrays to lists in the report."""
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 2, 200)
    likes = rng.random((200, 30)) < np.where(np.arange(30)[None] % 2 == taste[:, None], 0.4, 0.05)
    taken = (likes & (rng.random((200, 30)) < 0.7)).astype(np.int32)
    held = np.where(taken > 0, -1, likes.astype(np.int32))
    data = kd_jax.from_arrays(
        train=(taken.astype(np.float32), taken),
        test=(taken.astype(np.float32), held),
        mean=(0.0,) * 30,
        std=(1.0,) * 30,
        names=[f"item {i}" for i in range(30)],
        fields={"train": {"taste": taste.astype(np.int32)}, "test": {"taste": taste.astype(np.int32)}},
    )
    config = kd_jax.base()
    config.task.name = "tasks.rank.task"
    config.task.kwargs = {"groups": {"taste": ("even", "odd")}}
    config.terms = {"softmax": {"weight": 1.0}}
    config.terms.teacher = dict(
        fn="losses.ranking.listwise_kl_loss", inputs=("student.logits",), targets=("teacher.logits",)
    )
    for role, kwargs in (("student", dict(hidden=4, width=2)), ("teacher", dict(hidden=32, width=16))):
        config[role].model = dict(name="models.recommender.networks.two_towers", kwargs=kwargs)
    config.train.steps = config.teacher.train.steps = 60
    config.train.batch_size = config.teacher.train.batch_size = 40
    config.train.optimizer.name = config.teacher.train.optimizer.name = "adam"
    config.train.optimizer.learning_rate = config.teacher.train.optimizer.learning_rate = 0.01
    results = kd_jax.run(config, tmp_path, data=data)
    chance = 10 / 24  # ten of about two dozen candidates
    scores = results["models"]["student"]["last"]["test"]
    assert scores["hit_rate"] > chance and len(scores["ndcg_by_taste"]) == 2
    titles = [section["title"] for section in results["sections"]]
    assert {"Top lists", "By taste"} <= set(titles)
    text = (tmp_path / "report.html").read_text()
    assert "item 3" in text and "NDCG@10" in text
