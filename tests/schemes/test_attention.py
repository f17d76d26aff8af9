"""Terms between vision transformers, and the student with a distillation token."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.config.knowledge import make_terms
from kd_jax.core.bind import bind
from kd_jax.core.evaluate import runs_of
from kd_jax.data.batches import batch_shapes
from kd_jax.data.load import load
from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision.vit import vit
from kd_jax.schemes import attention
from kd_jax.train.jobs import make_model, plan
from kd_jax.types import Role

CONFIG = scheme_checks.config_module("attention")
BATCH = {
    **toy.batch(8),
    "image": jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, 4, 1)), jnp.float32),
    "labelled": jnp.arange(8) < 4,
    "target": toy.batch(8)["label"],
}


def build(terms, token, **options):
    depths = (1, 1) if token else (2, 4)  # the attention terms name block1 and block3
    student, teacher = (
        vit(3, patch=2, width=8 * i, depth=depth, heads=2, distillation_token=token and i == 1)
        for i, depth in enumerate(depths, start=1)
    )
    roles = {"student": Role(LinenModel(student), group="student"), "teacher": Role(LinenModel(teacher))}
    return attention.build(toy.parts(roles, make_terms(terms)), **options)


def test_attention_and_relations_teach_the_student():
    terms = CONFIG.attention_maps() | CONFIG.value_relations() | CONFIG.self_relations()
    scheme = build(terms, token=False, heads=())
    first, last, history = scheme_checks.steps(scheme, BATCH, count=4)
    assert scheme_checks.moved(first, last) == {"student"} and scheme.evaluate == ("student",)
    assert set(first.params["student"]) == {"student", "hidden0/connector", "hidden1/connector"}
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(history[0][name] > 0 for name in terms)


def test_the_token_learns_from_the_teacher_and_both_heads_are_scored():
    soft, hard = CONFIG.distillation_token(False), CONFIG.distillation_token(True)
    terms = {"ce": soft["ce"], "soft": soft["token"], "hard": hard["token"]}
    scheme = build(terms, token=True)
    first, last, history = scheme_checks.steps(scheme, BATCH, count=4)
    assert scheme_checks.moved(first, last) == {"student"}
    assert history[-1]["loss"] < history[0]["loss"] and min(history[0]["soft"], history[0]["hard"]) > 0
    scheme_checks.same_on_eight_devices(scheme, last, BATCH, count=4)
    heads = ("student.features:head", "student.features:head_distillation")
    logits = {entry: run().logits for entry, run in runs_of(scheme, last, BATCH, scheme_checks.KEY).items()}
    assert list(logits) == ["student", *heads, "teacher"]
    np.testing.assert_allclose(logits["student"], (logits[heads[0]] + logits[heads[1]]) / 2, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no tap 'head_distilation'; did you mean 'head_distillation'"):
        runs_of(build(terms, token=True, heads=("head_distilation",)), last, BATCH, scheme_checks.KEY)


def test_every_variant_of_the_config_fits_together():
    splits = load(CONFIG.get_config().data)
    sources = splits._asdict()
    for variant in CONFIG.VARIANTS:
        config = CONFIG.get_config(variant)
        models = {role: make_model(config[role].model, splits.train) for role in ("student", "teacher")}
        jobs = plan(config, Path("nowhere"), models, sources, {"teacher": sources})
        bind(jobs["student"].scheme, batch_shapes(splits.train, config.train.batch_size))


@pytest.mark.slow
def test_config(tmp_path):
    results = scheme_checks.run_tiny("attention", "distillation_token_hard", tmp_path, baseline=True)
    assert set(results["models"]) == {"teacher", "baseline", "student"}
