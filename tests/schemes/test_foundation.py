"""Encoders taught by encoders: standardised features of several, queues, two towers, views of oneself."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scheme_checks
import toy

from kd_jax.config.knowledge import make_terms
from kd_jax.core.bind import bind
from kd_jax.losses.standardization import phi_standardization
from kd_jax.models.adapters import LinenModel
from kd_jax.models.encoders import Encoder, TwoTowers
from kd_jax.schemes import agglomerative, dino, offline
from kd_jax.tasks import embed
from kd_jax.types import Role

FOUNDATION = scheme_checks.config_module("foundation")
N, WIDTH = 48, 5


class Maps(nn.Module):
    """Positions [2, 2] -> map -> embedding -> head."""

    width: int
    size: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(self.width, name="final")(x.reshape(x.shape[0], self.size, -1, 1)))
        x = nn.tanh(nn.Dense(self.width, name="embedding")(x.mean((1, 2))))
        return nn.Dense(3, name="head")(x)


def encoder(width=WIDTH, size=2):
    return Encoder(LinenModel(Maps(width, size)), "embedding")


def towers(width):
    return TwoTowers(*(LinenModel(toy.Net(width=width, classes=4)) for _ in range(2)))


def views(batch):
    noise = {name: 0.1 * jnp.cos(7 * i * batch["image"]) for i, name in enumerate(("other", "crop1", "crop2"), 1)}
    halves = {"upper": batch["image"][:, :2], "lower": batch["image"][:, 2:]}
    return {**batch, **halves, **{name: batch["image"] + x for name, x in noise.items()}, "target": batch["label"]}


def make_parts(variant, roles, steps=6, **memory):
    config = FOUNDATION.get_config(variant)
    terms = {name: fields for name, fields in config.terms.to_dict().items() if "fn" in fields}
    for fields in terms.values():
        if fields["memory"]["name"]:
            fields["memory"]["kwargs"] |= {"width": WIDTH, "rows": 24} | memory
    sources = {"train": toy.source(N), "validation": toy.source(16, "validation"), "test": toy.source(16, "test")}
    parts = toy.parts(roles, make_terms(terms, steps, N), steps, **sources)
    kwargs = config.task.kwargs.to_dict()
    return dataclasses.replace(
        parts,
        prepare=lambda batch, key, train: views(batch),
        task=embed.task(**kwargs),
        # Adam would enlarge the rounding errors of biases that a BatchNorm takes away.
        make_tx=lambda *_: optax.sgd(0.001) if variant == "clip" else optax.adam(0.01),
    )


def with_preparation(scheme, parts):
    return dataclasses.replace(scheme, prepare=parts.prepare)


def several(standardize=True, steps=6, second=6, **options):
    roles = {"student": Role(encoder(4), group="student"), "teacher": Role(encoder()), "second": Role(encoder(second))}
    variant = "agglomerative" if standardize else "agglomerative_plain"
    parts = make_parts(variant, roles, steps)
    paths = {f"phi_{name}": f"{name}.features:final" for name in ("teacher", "second")}
    build = functools.partial(agglomerative.build, standardize=paths, **options) if standardize else offline.build
    return with_preparation(build(parts), parts)


def label_free(steps=6, **memory):
    roles = {"student": Role(encoder(4), group="student"), "teacher": Role(encoder())}
    parts = make_parts("label_free", roles, steps, **memory)
    return with_preparation(offline.build(parts), parts)


def clip(steps=6):
    inputs = ("batch.upper", "batch.lower")
    roles = {"student": Role(towers(4), inputs, "student"), "teacher": Role(towers(8), inputs)}
    parts = make_parts("clip", roles, steps)
    parts = dataclasses.replace(parts, terms={**parts.task.terms(None), **parts.terms})
    return with_preparation(offline.build(parts), parts)


def own_views(steps=6, **options):
    parts = make_parts("dino", {"student": Role(encoder(4), group="student")}, steps)
    kwargs = FOUNDATION.get_config("dino").scheme.kwargs.to_dict() | dict(prototypes=8, hidden=6, bottleneck=4)
    return with_preparation(dino.build(parts, **{**kwargs, **options}), parts)


SCHEMES = {
    "agglomerative": several,
    "agglomerative_plain": functools.partial(several, standardize=False),
    "label_free": label_free,
    "clip": clip,
    "dino": own_views,
}
each = pytest.mark.parametrize("name", SCHEMES)
MOVED = {"dino": {"student", "average"}}


@each
def test_loss_falls_and_eight_devices_do_what_one_does(name):
    scheme = SCHEMES[name]()
    first, last, history = scheme_checks.steps(scheme, count=6)
    assert scheme_checks.moved(first, last) == MOVED.get(name, {"student"})
    # The answers of an average that follows its student change too: there it is enough that they come apart.
    assert name == "dino" or history[-1]["loss"] < history[0]["loss"]
    scheme_checks.same_on_eight_devices(scheme, last, count=6)


@each
def test_resumes_exactly(name, tmp_path, monkeypatch):
    results = scheme_checks.resumes_exactly(SCHEMES[name](), tmp_path, monkeypatch, stop=3)
    scores = results["last"]["test"]["student"]
    assert 0 <= scores["knn_accuracy"] <= 1 and ("recall" in scores) == (name == "clip")


def test_features_are_standardised_before_the_first_step():
    scheme = several(examples=32)
    first, last, _ = scheme_checks.steps(scheme, count=1)
    rows = np.unique(np.linspace(0, N - 1, 32).round().astype(int))
    images = toy.source(N).images[rows]
    for name in ("teacher", "second"):
        params, stats = first.frozen[name]
        how = dict(train=False, key=jax.random.key(0), taps=("final",))
        outputs, _ = scheme.roles[name].model.apply(params, stats, images, **how)
        features = np.asarray(outputs.features["final"]).reshape(-1, outputs.features["final"].shape[-1])
        mean, matrix = phi_standardization(features)
        stored = first.extra[f"phi_{name}"]
        np.testing.assert_allclose(stored["mean"], mean, atol=1e-5)
        np.testing.assert_allclose(stored["matrix"].T @ stored["matrix"], matrix.T @ matrix, rtol=1e-3, atol=1e-3)
        standard = (features - stored["mean"]) @ stored["matrix"].T
        np.testing.assert_allclose(standard.var(0, ddof=1), 1, rtol=1e-3)
    chex.assert_trees_all_equal(first.extra, last.extra)


def test_maps_of_another_size_have_a_head_of_their_own():
    """A teacher whose map is [4, 1] and whose width is another one."""
    roles = {"student": Role(encoder(4), group="student"), "teacher": Role(encoder()), "second": Role(encoder(7, 4))}
    parts = make_parts("agglomerative_plain", roles)
    scheme = with_preparation(offline.build(parts), parts)
    _, inputs = bind(scheme, toy.shapes(toy.batch()))
    heads = {name for name in inputs if name.endswith("/connector")}
    assert heads == {f"{kind}_{who}/connector" for kind in ("summary", "dense") for who in ("teacher", "second")}


def test_the_queue_holds_the_newest_answers():
    scheme = label_free()
    first, last, _ = scheme_checks.steps(scheme, count=2)
    params, stats = first.frozen["teacher"]
    how = dict(train=False, key=jax.random.key(0))
    answers = np.array(scheme.roles["teacher"].model.apply(params, stats, toy.batch()["image"], **how)[0].logits)
    answers /= np.linalg.norm(answers, axis=1, keepdims=True)
    np.testing.assert_allclose(last.extra["global"]["queue"], np.concatenate([answers, answers[:8]]), atol=1e-5)
    assert not np.any(first.extra["global"]["queue"])


def test_the_average_follows_and_the_centre_moves():
    scheme = own_views(steps=4, decay=0.5)
    first, last, _ = scheme_checks.steps(scheme, count=1)
    keep = 0.5
    for name, start in (("average", "student"), ("average_head", "student_head")):
        expected = jax.tree.map(
            lambda a, b: keep * a + (1 - keep) * b, first.params["average"][name], last.params["student"][start]
        )
        chex.assert_trees_all_close(last.params["average"][name], expected, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_equal(first.params["average"]["average"], first.params["student"]["student"])
    prepared, mean = views(toy.batch()), []
    for view in ("image", "other"):
        how = dict(train=False, key=jax.random.key(0))
        x = scheme.roles["average"].model.apply(first.params["average"]["average"], {}, prepared[view], **how)[0].logits
        head = scheme.roles["average_head"].model
        mean.append(head.apply(first.params["average"]["average_head"], {}, x, **how)[0].logits.mean(0))
    np.testing.assert_allclose(last.extra["center"], 0.1 * np.mean(mean, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", FOUNDATION.VARIANTS)
def test_config(variant, tmp_path):
    config = FOUNDATION.get_config(f"{variant},tiny")
    config.report = False
    results = scheme_checks.train.run(config, tmp_path)
    scores = results["models"]["student"]["last"]["test"]
    assert 0 <= scores["knn_accuracy"] <= 1 and scores["rank"] > 1
    assert results["headline"]["metric"] == "knn_accuracy"
