"""Frozen teachers in fewer bits: what is rounded, by how much, and that a run takes and reports them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from two_stages import SETTINGS, SOURCES

from kd_jax.schemes import offline
from kd_jax.system import parallel, precision
from kd_jax.train import jobs, loop
from kd_jax.train.scores import check_teacher, score_teacher
from kd_jax.types import Role

KEY = jax.random.key(0)


def test_kernels_are_rounded_by_channel_and_nothing_else():
    kernel = jax.random.normal(KEY, (3, 3, 4, 8)) * jnp.arange(8.0).reshape(1, 1, 1, 8)  # one channel is all zeros
    params = {"kernel": kernel, "bias": jnp.arange(8.0), "token": jnp.ones((1, 1, 8))}
    stored = precision.stored(params, "int8")
    assert stored["kernel"].codes.dtype == jnp.int8 and stored["kernel"].scale.shape == (1, 1, 1, 8)
    assert stored["bias"] is params["bias"] and stored["token"] is params["token"]
    error = jnp.abs(precision.restored(stored)["kernel"] - kernel).max((0, 1, 2))
    assert (error <= jnp.abs(kernel).max((0, 1, 2)) / 127 / 2 * 1.001).all() and error[1:].min() > 0 and error[0] == 0
    again = precision.stored(stored, "int8")
    assert jax.tree.structure(again) == jax.tree.structure(stored)
    assert precision.stored(params, "bfloat16")["bias"].dtype == jnp.bfloat16 and precision.stored(params, "") is params


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_a_sharded_run_with_such_a_teacher_is_near_that_of_the_floats(tmp_path, dtype):
    results = []
    for kind, sizes in ((None, ()), (dtype, (4, 2))):
        roles = toy.roles() | {"teacher": Role(toy.net(width=8), dtype=kind)}
        scheme = offline.build(toy.parts(roles, {"kd": toy.kd()}, 6))
        rules = {"teacher": (("hidden/kernel", (None, "fsdp")),)} if sizes else {}
        settings = dataclasses.replace(SETTINGS, rules=rules)
        results.append(loop.fit(scheme, SOURCES, settings, tmp_path / str(kind), toy.mesh(*sizes), "run"))
    ours, floats = (r["last"]["test"]["student"]["nll"] for r in results)
    assert ours != floats
    np.testing.assert_allclose(ours, floats, rtol=0.02)


def test_the_start_of_a_run_says_how_often_it_answers_like_the_floats(capsys):
    model = toy.net(width=8)
    variables = model.init(KEY, jnp.zeros((1, toy.FEATURES)))
    role = Role(model, dtype="int8", initial=(precision.stored(variables[0], "int8"), variables[1]))
    job = jobs.Job("student", offline.build(toy.parts(toy.roles(), {"ce": toy.ce()})), SOURCES, SETTINGS, None, {})
    scores = score_teacher(job, role, (), toy.mesh(), variables)
    assert 0.8 < scores["test"]["agreement_as_trained"] <= 1 and 0 < scores["test"]["kl_as_trained"] < 0.01
    fields = jobs.ConfigDict({"dtype": "int8", "min_accuracy": 0.0})
    check_teacher(job, "teacher", fields, scores)
    assert "teacher in int8" in capsys.readouterr().out
    assert "agreement" not in scores["test"]  # that is the word for student and teacher
    assert parallel.is_lead()


@pytest.mark.parametrize("dtype", ["int4", "int32", "flaot32"])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="teacher.dtype.*'bfloat16'.*'int8'"):
        precision.check_dtype(dtype, "teacher.dtype")
