"""Teacher and student read different entries of a batch; the pair is all that joins them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.data.batches import batch_shapes
from kd_jax.data.load import load
from kd_jax.losses import feature, representation
from kd_jax.models import connectors, method_connectors
from kd_jax.resolve import resolve
from kd_jax.schemes import offline
from kd_jax.system.parallel import make_mesh
from kd_jax.train.check import check_job
from kd_jax.train.jobs import make_model, plan
from kd_jax.types import Role, Term

RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(toy.FEATURES, 6)).astype(np.float32)
BATCH = {**toy.batch(), "sound": jnp.tanh(toy.batch()["image"] @ MIX)}
HIDDEN = ("student.features:hidden",), ("teacher.features:hidden",)


def scheme(terms, steps=6):
    roles = {
        "student": Role(toy.net(), ("batch.sound",), group="student"),
        "teacher": Role(toy.net(width=8)),
    }
    return offline.build(toy.parts(roles, terms, steps))


def align():
    return {"align": Term(feature.feature_hint_loss, *HIDDEN, connector=connectors.linear)}


def contrast():
    connector = functools.partial(method_connectors.embed_pair, dim=4)
    fn = representation.info_nce_loss
    return {"contrast": Term(fn, (*HIDDEN[0], *HIDDEN[1]), kwargs={"temperature": 0.5}, connector=connector)}


def test_response_and_embeddings_cross_over():
    both = scheme({"kd": toy.kd(), **align(), **contrast()})
    unlabelled = {**BATCH, "label": jnp.full(16, -1), "labelled": jnp.zeros(16, bool)}
    first, last, history = scheme_checks.steps(both, unlabelled, 8)
    assert scheme_checks.moved(first, last) == {"student"}
    for name in ("loss", "kd", "align", "contrast"):
        assert history[-1][name] < history[0][name]
    scheme_checks.same_on_eight_devices(both, last, unlabelled, 8)


def test_the_student_sees_its_own_modality_only():
    alone = scheme({"ce": toy.ce()})
    _, last, _ = scheme_checks.steps(alone, BATCH, 2)
    _, other, _ = scheme_checks.steps(alone, {**BATCH, "image": jnp.zeros_like(BATCH["image"])}, 2)
    for a, b in zip(
        last.params["student"]["student"]["head"].values(),
        other.params["student"]["student"]["head"].values(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert last.params["student"]["student"]["hidden"]["kernel"].shape == (6, 4)


def test_a_modality_that_is_not_there():
    with pytest.raises(ValueError, match="'batch.sound': no 'sound'"):
        scheme_checks.steps(scheme({"kd": toy.kd()}), toy.batch(), 1)


MODULE = scheme_checks.config_module("cross_modal")


@pytest.mark.parametrize(
    ("variant", "pair"), [(v, "spectrum") for v in MODULE.VARIANTS] + [("response+embedding", "lower")]
)
def test_configs_in_shapes(variant, pair, tmp_path):
    config = MODULE.get_config(f"{variant},{pair},tiny")
    splits = load(config.data)
    models = {role: make_model(config[role].model, splits.train) for role in ("student", "teacher")}
    sources = splits._asdict()
    jobs = plan(config, tmp_path, models, sources, {"teacher": sources})
    for job in jobs.values():
        check_job(job, batch_shapes(splits.train, config.train.batch_size), make_mesh(config.mesh.axes))
    assert ("ce" in config.terms) == (variant != "response")
    assert resolve(config.prepare.name)


def test_a_run_of_the_config(tmp_path):
    results = scheme_checks.run_tiny("cross_modal", "response+embedding", tmp_path, baseline=True)
    assert set(results["models"]) == {"teacher", "baseline", "student"}
