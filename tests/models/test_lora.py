"""Low-rank adapters of decoders through the one step: what is trained, what is saved, what is exported."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from tiny_decoders import MODULES, VOCABULARY, params_of, tokens_of

from kd_jax.core.bind import bind, init_state, loaded_variables
from kd_jax.core.evaluate import runs_of
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response
from kd_jax.models.adapters import LinenModel
from kd_jax.models.lora import lora
from kd_jax.schemes.continuations import weights
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

KEY = jax.random.key(0)
TOKENS = ("batch.tokens",)


def scheme_of(module, base, teacher, **options) -> Scheme:
    kd = Term(response.kd_loss, ("student.logits",), ("teacher.logits",), kwargs={"temperature": 1.0})
    student = Role(lora(module, **options), (*TOKENS, "params.base"), "student")
    roles = {
        "student": student,
        "base": Role(LinenModel(module), TOKENS, initial=(base, {})),
        "teacher": Role(LinenModel(module), TOKENS, initial=(teacher, {})),
    }
    calls = (Call("teacher", TOKENS, train=False), Call("student", student.inputs))
    return Scheme(roles, (Stage(5, (Phase("student", calls, {"kd": kd}, optax.adam(3e-2)),)),))


def test_adapters_learn_and_nothing_else_does():
    module = MODULES["qwen3"]  # which scans its layers
    base, teacher = params_of(module), params_of(module, 5)
    batch = {"tokens": tokens_of(4, 6)}
    scheme = scheme_of(module, base, teacher, rank=2, targets=r"attention/(query|value)$|mlp/up$")
    scheme, inputs = bind(scheme, toy.shapes(batch))
    state = jax.jit(lambda k: init_state(scheme, inputs, k, loaded_variables(scheme)))(KEY)
    adapted = state.params["student"]["student"]
    count = sum(x.size for x in jax.tree.leaves(adapted))
    assert count < sum(x.size for x in jax.tree.leaves(base)) / 3
    saved = dataclasses.replace(state, frozen={})  # what a checkpoint holds
    assert sum(x.size for x in jax.tree.leaves((saved.params, saved.opt))) < 3 * count + 3

    step, losses = jax.jit(make_train_step(scheme, scheme.stages[0])), []
    for _ in range(5):
        state, metrics = step(state, batch, hyper_of(scheme.stages[0]), KEY)
        losses.append(float(metrics["kd"][0] / metrics["kd"][1]))
    assert losses[-1] < 0.9 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.frozen["base"][0], base)

    first = jax.jit(lambda p: module.apply({"params": p}, batch["tokens"]))
    logits = jax.jit(lambda s: runs_of(scheme, s, batch, KEY)["student"]().logits)(state)
    merged = scheme.roles["student"].model.merged(state.params["student"]["student"], base)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    jax.tree.map(np.testing.assert_array_equal, weights(state, scheme.roles["student"], "student"), merged)
    np.testing.assert_allclose(logits, first(merged), atol=2e-4)
    assert jnp.abs(logits - first(base)).max() > 0.1
    unchanged = init_state(scheme, inputs, KEY, loaded_variables(scheme))
    np.testing.assert_allclose(runs_of(scheme, unchanged, batch, KEY)["student"]().logits, first(base), atol=1e-5)


def test_targets_that_choose_nothing():
    module = MODULES["llama"]
    base = params_of(module)
    with pytest.raises(ValueError, match="chooses no layer.*Did you mean 'layer0/attention/query'"):
        lora(module, targets="layer0/attention/quer_y").init(KEY, tokens_of(1, 2), base)
    with pytest.raises(ValueError, match="rank of 1 or more"):
        lora(module, rank=0)
    named = lora({"name": "models.language.decoder_families.llama", "kwargs": {"vocabulary": VOCABULARY}})
    assert named.network.module.options.vocabulary == VOCABULARY


def test_a_base_that_is_no_role():
    module = MODULES["llama"]
    scheme = scheme_of(module, params_of(module), params_of(module))
    roles = {name: role for name, role in scheme.roles.items() if name != "base"}
    with pytest.raises(ValueError, match="reads the parameters of role 'base'"):
        bind(dataclasses.replace(scheme, roles=roles), toy.shapes({"tokens": tokens_of(4, 6)}))
