"""SSKD, its losses and its view-wise networks; contrastive terms of several teachers, each with a memory of its own."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scheme_checks
import toy
from jax.test_util import check_grads

from kd_jax.config.knowledge import make_terms
from kd_jax.core.bind import bind
from kd_jax.losses import self_supervised as losses
from kd_jax.models.adapters import as_model
from kd_jax.models.projection import head
from kd_jax.models.views import Views
from kd_jax.schemes import multi_teacher, self_supervised
from kd_jax.types import Role

RNG = np.random.default_rng(0)
CONTRASTIVE = scheme_checks.config_module("contrastive")
N = 48


def images(source):
    """The blobs as pictures of 2 x 2 pixels."""
    shape = (2, 2, 1)
    pictures = source.images.reshape(-1, *shape)
    return dataclasses.replace(source, images=pictures, image_shape=shape, mean=(0.0,), std=(1.0,))


def batch():
    data = toy.batch()
    return {**data, "image": data["image"].reshape(-1, 2, 2, 1)}


def sources():
    return {
        split: images(toy.source(N if split == "train" else 16, split)) for split in ("train", "validation", "test")
    }


def make_parts(variant, steps=6, **teachers):
    terms = CONTRASTIVE.get_config(variant).terms.to_dict()
    for fields in terms.values():
        fields["inputs"] = tuple(path.replace("embedding", "hidden") for path in fields["inputs"])
        if fields["memory"]["name"]:  # fewer negatives than examples, as in any real run
            for options in (fields["kwargs"], fields["memory"]["kwargs"]):
                options["negatives"] = 16
    return toy.parts({**toy.roles(), **teachers}, make_terms(terms, steps, N), steps)


def sskd(**options):
    return self_supervised.build(make_parts("sskd"), **{"head_steps": 4, "tap": "hidden", **options})


def test_sskd():
    scheme = sskd()
    assert [(s.name, s.steps) for s in scheme.stages] == [("teacher_head", 4), ("student", 6)]
    for stage, group in enumerate(("teacher_head", "student")):
        first, last, history = scheme_checks.steps(scheme, batch(), count=6, stage=stage)
        assert scheme_checks.moved(first, last) == {group}
        assert history[-1]["loss"] < history[0]["loss"]
    scheme_checks.same_on_eight_devices(scheme, last, batch(), count=6, stage=1)
    assert {"ce", "kd", "transformed", "similarity"} < set(history[0])
    # Every group but the stage's own, and the teacher, keeps its averages too.
    chex.assert_trees_all_equal(first.stats["teacher_head"], last.stats["teacher_head"])


def test_sskd_resumes_in_its_second_stage(tmp_path, monkeypatch):
    # The head that the first stage trained has no optimizer any more, and must come back all the same.
    scheme_checks.resumes_exactly(sskd(), tmp_path, monkeypatch, stop=6, sources=sources())


def test_rotations():
    scheme = sskd()
    data = batch()
    prepared = scheme.prepare(data, jax.random.key(0), True)
    assert prepared["rotated"].shape == (16, 3, 2, 2, 1)
    for k in (1, 2, 3):
        np.testing.assert_array_equal(prepared["rotated"][:, k - 1], np.rot90(data["image"], k, axes=(1, 2)))
    assert "rotated" not in scheme.prepare(data, jax.random.key(0), False)
    with pytest.raises(ValueError, match=r"square images .*\(16, 4\)"):
        bind(scheme, toy.shapes(toy.batch()))


def test_rotations_of_pictures_that_were_cropped_anew():
    crops, data = ("one", "two", "three"), batch()
    more = {name: data["image"] + i for i, name in enumerate(crops, 1)}
    parts = make_parts("sskd")
    parts = dataclasses.replace(parts, prepare=lambda *args: {**make_parts("sskd").prepare(*args), **more})
    prepared = self_supervised.build(parts, tap="hidden", crops=crops).prepare(data, jax.random.key(0), True)
    for k, name in enumerate(crops, 1):
        np.testing.assert_array_equal(prepared["rotated"][:, k - 1], np.rot90(more[name], k, axes=(1, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tap="hiden"), "hidden"),
        (dict(head_steps=0, head_share=0.0), "at least 1 step"),
        (dict(crops=("one", "two")), "three pictures of each image"),
        (dict(crops=("one", "two", "three")), r"config.train.views has no \['one', 'two', 'three'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        bind(sskd(**options), toy.shapes(batch()))


def test_sskd_needs_a_teacher_and_images():
    parts = make_parts("sskd")
    alone = dataclasses.replace(parts, roles={"student": parts.roles["student"]})
    with pytest.raises(ValueError, match="needs a teacher"):
        self_supervised.build(alone)
    clean = dataclasses.replace(parts.roles["teacher"], inputs=("batch.teacher_image",))
    with pytest.raises(ValueError, match=r"batch\.teacher_image"):
        self_supervised.build(dataclasses.replace(parts, roles={**parts.roles, "teacher": clean}))


def test_views():
    model, key = toy.net(), jax.random.key(0)
    both = Views(model)
    one, further = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((3, 2, 2, 1), (3, 2, 2, 2, 1)))
    params, stats = both.init(key, one, further)
    chex.assert_trees_all_equal((params, stats), model.init(key, one))

    def run(model, *inputs, train=False, taps=()):
        return model.apply(params, stats, *inputs, train=train, key=key, taps=taps)

    outputs, _ = run(both, one, further, taps=("hidden", "further_logits"))
    alone, _ = run(both, one, taps=("hidden",))
    chex.assert_trees_all_equal(alone, run(model, one, taps=("hidden",))[0])
    np.testing.assert_allclose(outputs.logits, alone.logits, rtol=1e-5)
    np.testing.assert_allclose(outputs.features["hidden"][:, 0], alone.features["hidden"], rtol=1e-5)
    for i in range(2):
        other, _ = run(model, further[:, i], taps=("hidden",))
        np.testing.assert_allclose(outputs.features["further_logits"][:, i], other.logits, rtol=1e-5)
        np.testing.assert_allclose(outputs.features["hidden"][:, 1 + i], other.features["hidden"], rtol=1e-5)
    joint = jnp.concatenate([one, *jnp.moveaxis(further, 1, 0)])  # BatchNorm sees one batch of all views
    new, expected = (run(m, *x, train=True)[1] for m, x in ((both, (one, further)), (model, (joint,))))
    chex.assert_trees_all_close(new, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"\[batch, views, \.\.\.\], not \(3, 2, 2, 1\)"):
        run(both, one, one)
    with pytest.raises(ValueError, match="no tap 'hiden'"):
        run(both, one, further, taps=("hiden",))


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def softmax(z):
    e = np.exp(np.asarray(z, np.float64) - np.max(z))
    return e / e.sum()


def test_view_matching():
    x = RNG.normal(size=(4, 3, 5)).astype(np.float32)
    expected = [
        -np.mean([np.log(softmax([cosine(x[i, v], x[j, 0]) / 0.5 for j in range(4)])[i]) for v in (1, 2)])
        for i in range(4)
    ]
    np.testing.assert_allclose(losses.view_matching_loss(x, temperature=0.5), expected, rtol=1e-5)
    check_grads(lambda x: losses.view_matching_loss(x).sum(), (x,), 1, ["rev"], atol=1e-2, rtol=1e-2)
    dead = jax.grad(lambda x: losses.view_matching_loss(x).sum())(jnp.asarray(x).at[1].set(0))
    assert np.isfinite(dead).all()
    with pytest.raises(ValueError, match=r"\(4, 1, 5\)"):
        losses.view_matching_loss(x[:, :1])


def kl(t, s, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    return temperature**2 * float(p @ np.log(p / q))


def test_transformed_kd():
    s, t = RNG.normal(size=(2, 4, 3, 5)).astype(np.float32) * 2
    labels = np.array([0, 3, -1, 2], np.int32)
    each = np.array([[kl(t[i, v], s[i, v], 3.0) for v in range(3)] for i in range(4)])
    np.testing.assert_allclose(losses.transformed_kd_loss(s, t, labels, temperature=3.0), each.mean(1), rtol=1e-4)
    rank = np.array([[0 if y < 0 else (t[i, v] > t[i, v, y]).sum() for v in range(3)] for i, y in enumerate(labels)])
    wrong = np.sort(rank[rank > 0])
    count = int(0.5 * len(wrong))
    assert 0 < count < len(wrong)
    order = np.argsort(rank.reshape(-1), kind="stable")[: (rank == 0).sum() + count]
    halved = losses.transformed_kd_loss(s, t, labels, temperature=3.0, wrong_ratio=0.5)
    np.testing.assert_allclose(halved.mean(), each.reshape(-1)[order].mean(), rtol=1e-4)
    np.testing.assert_allclose(losses.transformed_kd_loss(t, t, labels), 0, atol=1e-5)
    with pytest.raises(ValueError, match=r"labels \(3,\)"):
        losses.transformed_kd_loss(s, t, labels[:3])


def test_projection_head():
    x = jnp.ones((2, 4, 6))
    for width, expected in ((0, 6), (3, 3)):
        model = as_model(head(width))
        params, stats = model.init(jax.random.key(0), x)
        assert model.apply(params, stats, x, train=True, key=jax.random.key(0))[0].logits.shape == (2, 4, expected)


def test_contrast_with_several_teachers():
    parts = make_parts("ensemble_contrastive", second=Role(toy.net(width=6)), third=Role(toy.net(width=5)))
    parts = dataclasses.replace(parts, make_tx=lambda *_: optax.adam(0.01))  # three sums over negatives: steep
    scheme = dataclasses.replace(multi_teacher.build(parts), prepare=parts.prepare)
    names = ("contrast_teacher", "contrast_second", "contrast_third")
    first, last, history = scheme_checks.steps(scheme, batch(), count=10, mesh=toy.mesh(4, 2))
    assert scheme_checks.moved(first, last) == {"student"}
    written = batch()["index"]
    for name in names:
        assert history[-1][name] < history[0][name]
        for side in ("student", "teacher"):
            rows = (first.extra[name][side] != last.extra[name][side]).any(1)
            assert rows[written].all() and rows.sum() == len(written)
        assert last.extra[name]["student_constant"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", CONTRASTIVE.VARIANTS)
def test_config(variant, tmp_path):
    results = scheme_checks.run_tiny("contrastive", variant, tmp_path)
    assert results["models"]["student"]["last"]["step"] == (8 if variant == "sskd" else 6)
