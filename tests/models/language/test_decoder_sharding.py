"""Teacher and student decoders sharded over meshes: one device's numbers, a share of the memory, generation too."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.decoder import decoding
from kd_jax.models.language.generation import generate
from kd_jax.system import parallel
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

KEY = jax.random.key(0)
TOKENS = ("batch.tokens", "batch.segments")
RULES = {"student": ("fsdp+tensor",), "teacher": ("fsdp+tensor",)}
SIZES = {"width": 32, "heads": 4, "kv_heads": 2, "hidden": 64, "scan": True, "remat": "nothing_saveable"}
STUDENT = families.llama(64, **SIZES, depth=2)
TEACHER = families.gemma2(64, **SIZES, depth=3, windows=(4, 0, 0))


def scheme() -> Scheme:
    kd = Term(response.kd_loss, ("student.logits",), ("teacher.logits",), 1.0, {"temperature": 1.0}, where="batch.real")
    roles = {"student": Role(LinenModel(STUDENT), TOKENS, "student"), "teacher": Role(LinenModel(TEACHER), TOKENS)}
    calls = (Call("teacher", TOKENS, train=False), Call("student", TOKENS))
    return Scheme(roles, (Stage(2, (Phase("student", calls, {"kd": kd}, optax.sgd(0.5, momentum=0.9)),)),))


def batch():
    tokens = jax.random.randint(KEY, (8, 8), 0, 64)
    segments = jnp.asarray([[1] * 5 + [2] * 3, [1] * 6 + [0] * 2] * 4)
    return {"tokens": tokens, "segments": segments, "real": segments > 0}


def run(*sizes: int):
    """(losses of two steps, parameters after, bytes of arguments a device, texts) on a mesh."""
    mesh, bound = toy.mesh(*sizes), scheme()
    with jax.set_mesh(mesh):
        bound, inputs = bind(bound, toy.shapes(batch()))
        create = partial(init_state, bound, inputs, loaded={})
        places = parallel.state_shardings(jax.eval_shape(create, KEY), RULES, mesh)
        state = jax.jit(create, out_shardings=places)(KEY)
        rows = jax.device_put(batch(), parallel.batch_sharding(mesh))
        hyper = hyper_of(bound.stages[0])
        step = jax.jit(make_train_step(bound, bound.stages[0]), donate_argnums=0, out_shardings=(places, None))
        compiled, losses = step.lower(state, rows, hyper, KEY).compile(), []
        for _ in range(2):
            state, metrics = compiled(state, rows, hyper, KEY)
            losses.append(metrics["kd"][0] / metrics["kd"][1])
        params = state.params["student"]["student"]
        texts = jax.jit(partial(generate, decoding(STUDENT), length=4, temperature=1.0))
        tokens = texts(params, rows["tokens"][:, :3], None, KEY).tokens
        memory = compiled.memory_analysis()
        held = max(len(x.sharding.device_set) for x in jax.tree.leaves(params))
        return jax.device_get((jnp.stack(losses), params, tokens)), memory.argument_size_in_bytes, held


@pytest.fixture(scope="module")
def alone():
    return run()


SLOW = [pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((8,), (4, 2))]


@pytest.mark.parametrize("sizes", [(1, 8), (2, 2, 2), *SLOW])
def test_every_mesh_computes_the_same(alone, sizes):
    (losses, params, tokens), size, _ = alone
    (other_losses, other_params, other_tokens), other_size, held = run(*sizes)
    assert held == 8 and losses[1] < losses[0]
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), other_params, params)
    np.testing.assert_array_equal(other_tokens, tokens)
    ways = int(np.prod(sizes[1:]))  # data copies the parameters, fsdp and model share them
    assert other_size < size / ways * 1.25


def test_a_cache_lies_in_shares_by_rows():
    """Each of 8 devices holds an eighth of the cache, on a mesh where FSDP shares the parameters too."""
    module, mesh = families.llama(64, width=16, depth=2, heads=2, hidden=16, scan=True), toy.mesh(2, 4)
    whole = 2 * 2 * 64 * 512 * 16 * 4  # keys and values, layers, rows, slots, width, bytes
    with jax.set_mesh(mesh):
        params = jax.eval_shape(module.init, KEY, jnp.zeros((1, 2), jnp.int32))["params"]
        places = parallel.param_shardings(params, ("fsdp+tensor",), mesh, "student")
        params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, places)
        prompt = jax.ShapeDtypeStruct((64, 8), jnp.int32, sharding=parallel.batch_sharding(mesh))
        texts = jax.jit(partial(generate, decoding(module), length=504, temperature=0))
        memory = texts.lower(params, prompt, None, KEY).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3 * whole / 8
