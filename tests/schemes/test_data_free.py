"""Students that never see real data: who learns from what, and that no image of the batch matters.

The images of every training batch here are NaN and there are no labels: what read them would not stay finite.
"""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.arrays import from_arrays
from kd_jax.data.batches import batch_shapes
from kd_jax.losses import data_free as losses
from kd_jax.losses import response
from kd_jax.models.adapters import as_model
from kd_jax.models.mlp import mlp
from kd_jax.models.vision.cnn import cnn
from kd_jax.models.vision.generators import generator, image_bank
from kd_jax.report.forms import check_section
from kd_jax.schemes import data_free, inversion
from kd_jax.train.check import check_job
from kd_jax.train.jobs import make_model, plan
from kd_jax.types import Role, Stage, Term

SHAPE, BANK = (4, 4, 1), 24
AGREE = {"agree": Term(losses.disagreement_loss, ("student.logits",), ("teacher.logits",))}
KD = {"kd": toy.kd()}
LOOKS = dict(one_hot=1.0, activation=0.1, entropy=5.0, statistics=1.0, tap="hidden", norms={"hidden": "norm"})


class Painter(nn.Module):
    """A generator that compiles faster than ours."""

    @nn.compact
    def __call__(self, like, train: bool):
        noise = jax.random.normal(self.make_rng("params"), (like.shape[0], 4))
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(noise))
        return nn.Dense(16)(nn.relu(x)).reshape(-1, *SHAPE)


def source(split="train", n=48, dtype=np.uint8):
    features = toy.source(n, split)
    images = np.clip(40 * np.repeat(features.images[..., None, None], 4, axis=2) + 128, 0, 255).astype(dtype)
    return dataclasses.replace(features, images=images, image_shape=SHAPE, mean=(0.5,), std=(0.25,))


SOURCES = {"train": source(), "validation": source("validation", 16), "test": source("test", 16)}


def batch(image=jnp.nan):
    blank = {"label": jnp.full(16, -1), "labelled": jnp.zeros(16, bool)}
    return toy.batch() | blank | {"image": jnp.full((16, *SHAPE), image)}


def parts(terms=AGREE, steps=8, **changes):
    roles = toy.roles() | {
        "generator": Role(as_model(Painter()), ("batch.index",), "generator"),
        "bank": Role(image_bank(toy.CLASSES, SHAPE, BANK, shift=1), ("batch.index", "extra.window"), "bank"),
    }
    return dataclasses.replace(toy.parts(roles, terms, steps, **SOURCES), **changes)


def without(role, **kwargs):
    """The parts of one of the two schemes."""
    made = parts(**kwargs)
    return dataclasses.replace(made, roles={k: r for k, r in made.roles.items() if k != role})


def painted(terms=AGREE, **options):
    return data_free.build(without("bank", terms=terms), **options)


def inverted(terms=KD, **options):
    options = {"norms": {"hidden": "norm"}, "variation": 0.1, "norm": 0.1, **options}
    return inversion.build(without("generator", terms=terms), **options)


def only(scheme, group):
    """The scheme with those phases alone that train `group`."""
    phases = tuple(p for p in scheme.stages[-1].phases if p.group == group)
    return dataclasses.replace(scheme, stages=(Stage(8, phases),))


def test_generator_and_student_pull_in_opposite_directions():
    scheme = painted(n_student=2)
    seek, learn, again = scheme.stages[0].phases
    assert (seek.group, learn.group, again.group) == ("generator", "student", "student")
    names = {phase.forward[0].name for phase in (seek, learn, again)}
    assert len(names) == 3  # or every phase of a step would see the same noise
    assert seek.terms["agree"].weight == -1.0 and seek.terms["agree"].inputs == ("student.logits", "teacher.logits")
    assert learn.terms["agree"].targets == ("teacher.logits",)
    first, last, history = scheme_checks.steps(only(scheme, "generator"), batch(), 8)
    assert scheme_checks.moved(first, last) == {"generator"}
    assert history[-1]["loss"] < history[0]["loss"] < 0
    jax.tree.map(np.testing.assert_array_equal, first.stats["student"], last.stats["student"])
    first, last, history = scheme_checks.steps(only(scheme, "student"), batch(), 8)
    assert scheme_checks.moved(first, last) == {"student"}
    assert history[-1]["student/agree"] < history[0]["student/agree"]
    jax.tree.map(np.testing.assert_array_equal, first.stats["generator"], last.stats["generator"])


def test_images_of_the_batch_change_no_bit():
    scheme = painted(KD, n_student=1, **LOOKS)
    bound, inputs = bind(scheme, toy.shapes(batch()))
    state = jax.jit(lambda key: init_state(bound, inputs, key, {}))(scheme_checks.KEY)
    step, hyper = jax.jit(make_train_step(bound, bound.stages[0])), hyper_of(bound.stages[0])
    others = batch(image=1.0) | {"label": jnp.ones(16, jnp.int32), "labelled": jnp.ones(16, bool)}
    one, other = (step(state, data, hyper, scheme_checks.KEY)[0] for data in (batch(), others))
    jax.tree.map(np.testing.assert_array_equal, (one.params, one.stats), (other.params, other.stats))
    assert scheme_checks.moved(state, one) == {"generator", "student"}
    scheme_checks.same_on_eight_devices(scheme, one, batch(), 1)


def test_dafl_learns_to_paint_before_the_student_learns(tmp_path, monkeypatch):
    scheme = painted(KD, n_generator=0, n_student=1, before=0.5, disagreement=0.0, **LOOKS)
    assert [(stage.name, stage.steps) for stage in scheme.stages] == [("generator", 4), ("student", 4)]
    assert [[phase.group for phase in stage.phases] for stage in scheme.stages] == [["generator"], ["student"]]
    results = scheme_checks.resumes_exactly(scheme, tmp_path, monkeypatch, stop=5, sources=SOURCES)
    (section,) = results["sections"]
    check_section(section)
    assert 0 < len(section["images"]) == len(section["labels"]) <= 2 * toy.CLASSES
    assert np.shape(section["images"][0]) == SHAPE[:2]


def test_inversion_makes_part_of_the_bank_then_teaches_it():
    scheme = inverted(rounds=2, compete=1.0)
    assert [stage.steps for stage in scheme.stages] == [2, 2, 2, 2]
    assert scheme.stages[1].phases is scheme.stages[3].phases  # compiled once
    assert "compete" in scheme.stages[2].phases[0].terms and "compete" not in scheme.stages[0].phases[0].terms
    first, last, history = scheme_checks.steps(scheme, batch(), 6, 2)
    assert scheme_checks.moved(first, last) == {"bank"}
    assert history[-1]["statistics_norm"] < history[0]["statistics_norm"]
    one, other = (state.params["bank"]["bank"]["images"] for state in (first, last))
    assert -2 <= other.min() and other.max() <= 2  # (0 - mean) / std and (1 - mean) / std
    changed = (np.clip(one, -2, 2) != other).any((1, 2, 3))
    assert changed[12:].any() and not changed[:12].any()
    scheme_checks.same_on_eight_devices(scheme, last, batch(), 6, 2)
    first, last, history = scheme_checks.steps(scheme, batch(), 6, 3)
    assert scheme_checks.moved(first, last) == {"student"} and last.extra["window"].tolist() == [0, 24]
    assert history[-1]["kd"] < history[0]["kd"]


def test_inversion_resumes(tmp_path, monkeypatch):
    results = scheme_checks.resumes_exactly(inverted(), tmp_path, monkeypatch, stop=5, sources=SOURCES)
    check_section(results["sections"][0])


def test_statistics_are_found_by_the_names_of_our_models():
    made = without("generator", terms=KD)
    roles = made.roles | {"teacher": Role(as_model(cnn(toy.CLASSES, (2, 3))))}
    scheme = inversion.build(dataclasses.replace(made, roles=roles))
    terms = bind(scheme, toy.shapes(batch()))[0].stages[0].phases[0].terms
    assert set(terms) == {"label", "statistics_stage1_norm", "statistics_stage2_norm"}
    assert terms["statistics_stage2_norm"].inputs == ("teacher.features:stage2/conv",)
    plain = dataclasses.replace(made, roles=roles | {"teacher": Role(as_model(mlp(toy.CLASSES, (3,))))})
    with pytest.raises(ValueError, match="no BatchNorm"):
        inversion.build(plain)


def test_images_of_floats_have_no_range():
    made = dataclasses.replace(without("generator", terms=KD), sources={"train": source(dtype=np.float32)})
    assert inversion.build(made, statistics=0.0).stages[0].post_update is None
    images, teacher = jnp.linspace(-9, 9, 4 * 16).reshape(4, *SHAPE), made.roles["teacher"].model
    state = types.SimpleNamespace(frozen={"teacher": teacher.init(scheme_checks.KEY, images)})
    (section,) = data_free.samples(made, state, images, "")
    assert {np.min(section["images"]), np.max(section["images"])} <= set(range(256))
    assert data_free.samples(made, state, images.reshape(4, 16), "") == []  # not images


def test_what_the_generator_maximises():
    ramp = Term(response.reverse_kl_loss, ("student.logits",), ("teacher.logits",), lambda step: 2.0 * step)
    scheme = painted({**AGREE, "ramp": ramp}, adversarial=("ramp",), disagreement=3.0)
    (term,) = scheme.stages[0].phases[0].terms.values()
    assert term.fn is response.reverse_kl_loss and term.weight(2) == -12.0
    hint = dataclasses.replace(ramp, connector=lambda *_: toy.net())
    with pytest.raises(ValueError, match="'hint' has a connector"):
        painted({"hint": hint})
    assert "hint" not in painted({**AGREE, "hint": hint}, adversarial=("agree",)).stages[0].phases[0].terms


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data_free.build(without("generator")), "needs a role 'generator'"),
        (lambda: inversion.build(without("teacher")), "needs a role 'teacher'"),
        (lambda: painted({}), "no terms"),
        (lambda: painted({"ce": toy.ce()}), r"'ce' reads \['batch.label', 'batch.labelled'\]"),
        (lambda: inverted({"ce": toy.ce()}), "neither the images nor their labels"),
        (lambda: painted(n_student=0), "n_student >= 1"),
        (lambda: painted(n_generator=0), "0 after before > 0"),
        (lambda: painted(before=1.0, one_hot=1.0), r"before in \[0, 1\)"),
        (lambda: painted(before=0.01, n_generator=0, one_hot=1.0), "before=0.01 of 8 steps"),
        (lambda: painted(before=0.5), "nothing to learn"),
        (lambda: painted(disagreement=0.0), "nothing to learn"),
        (lambda: painted(adversarial=("agre",)), "no term 'agre'.*'agree'"),
        (lambda: inverted(label=0.0, statistics=0.0, variation=0.0, norm=0.0), "nothing to learn"),
        (lambda: inverted(synthesis=1.0), "rounds that divide the bank"),
        (lambda: inverted(rounds=5), "24 images"),
        (lambda: bind(inverted(norms=None), toy.shapes(batch())), "no tap 'conv'"),
        (lambda: bind(inverted(norms={"hidden": "nrm"}), toy.shapes(batch())), "no 'nrm'.*'norm'"),
        (lambda: generator((6, 6, 1)), r"multiples of 4, not \(6, 6, 1\)"),
        (lambda: image_bank(3, (4, 4)), "needs shape="),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_generator_paints_normalised_images():
    model, like, keys = as_model(generator((8, 4, 3), noise=4, width=4)), jnp.zeros(32, jnp.int32), jax.random.key(0)

    @jax.jit
    def paint(key):
        variables = model.init(key, like)
        keys = (key, jax.random.key(1))
        return [[model.apply(*variables, like, train=t, key=k)[0].logits for k in keys] for t in (True, False)]

    (images, others), (fixed, same) = paint(keys)
    assert images.shape == (32, 8, 4, 3)
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=1e-2)
    assert (images != others).any()
    np.testing.assert_array_equal(fixed, same)


def test_bank_draws_from_its_window():
    model, like, window = image_bank(3, SHAPE, 30, shift=1), jnp.zeros(64, jnp.int32), jnp.array([10, 5])
    params, _ = model.init(jax.random.key(0), like, window)
    for train in (False, True):
        outputs, _ = model.apply(params, {}, like, window, train=train, key=jax.random.key(1))
        rows, labels = outputs.features["row"], outputs.features["label"]
        assert set(rows.tolist()) == {10, 11, 12, 13, 14} and (labels == rows % 3).all()
        same = np.isclose(outputs.logits, params["images"][rows]).all((1, 2, 3))
        assert same.all() if not train else 0 < same.sum() < 20  # one shift of nine is none


def test_bank_adds_noise_in_training():
    model, like, window = image_bank(3, SHAPE, 30, noise=0.5), jnp.zeros(256, jnp.int32), jnp.array([0, 30])
    params, _ = model.init(jax.random.key(0), like, window)
    for train in (False, True):
        outputs, _ = model.apply(params, {}, like, window, train=train, key=jax.random.key(1))
        added = outputs.logits - params["images"][outputs.features["row"]]
        assert np.std(added) == pytest.approx(0.5 * train, rel=0.02) and abs(np.mean(added)) < 0.02


def test_config(tmp_path):
    results = scheme_checks.run_tiny("data_free", "dafl_statistics", tmp_path)
    assert results["sections"][0]["kind"] == "images"


@pytest.mark.parametrize("variant", scheme_checks.config_module("data_free").OPTIONS)
def test_every_variant_builds(variant, tmp_path):
    """From the config to the shapes of every term, on blank images."""
    config = scheme_checks.config_module("data_free").get_config(variant)
    blank = np.zeros((160, 8, 8, 1), np.uint8)
    data = from_arrays(train=(blank, np.arange(160) % 10), test=(blank, np.arange(160) % 10), names=10)
    models = {"student": config.student.model, "teacher": config.teacher.model}
    models |= {name: role.model for name, role in config.roles.items()}
    models = {name: make_model(model, data.train) for name, model in models.items()}
    sources = {"train": data.train, "validation": None, "test": data.test}
    job = plan(config, tmp_path, models, sources, {"teacher": sources})["student"]
    check_job(job, batch_shapes(data.train, config.train.batch_size), toy.mesh())
    assert sum(stage.steps for stage in job.scheme.stages) == config.train.steps
