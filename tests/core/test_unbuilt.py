"""Losses of sequences, and the k likeliest tokens of a teacher that is asked once: no program holds all logits."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from kd_jax.cache.model import CachedTeacher, Store, encode
from kd_jax.core.bind import bind, init_state
from kd_jax.core.chunked import answer_of
from kd_jax.core.evaluate import make_eval_step
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of, takes_where
from kd_jax.losses import on_policy, response
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import gemma2, llama
from kd_jax.system import parallel
from kd_jax.tasks import tokens as token_task
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

CLASSES, ROWS, LENGTH, CHUNK, K = 1000, 8, 24, 16, 5
KEY, TOKENS = jax.random.key(0), ("batch.tokens",)
ALL_LOGITS = ROWS * LENGTH * CLASSES * 4  # bytes


def network(width=8, family=llama, chunk=CHUNK):
    return LinenModel(family(CLASSES, width, depth=1, heads=2, hidden=16, tied=True, chunk=chunk))


def batch():
    tokens = jax.random.randint(KEY, (ROWS, LENGTH + 1), 0, CLASSES)
    real = jnp.arange(LENGTH)[None] < 3 + 2 * jnp.arange(ROWS)[:, None]
    return {
        "tokens": tokens[:, :-1],
        "label": jnp.where(real, tokens[:, 1:], -1),
        "labelled": real,
        "mask": jnp.ones(ROWS, bool),
        "index": jnp.arange(ROWS),
    }


def run(term, teacher, data, mesh=None, accumulate=1):
    """((what moved, metrics, sums of the evaluation), the programs of step and evaluation)"""
    roles = {"student": Role(network(), TOKENS, group="student"), "teacher": teacher}
    calls = Call("student", TOKENS), Call("teacher", teacher.inputs, train=False)
    # A large rate: what moved has to be larger than the rounding of the parameters that it is a difference of.
    stages = (Stage(1, (Phase("student", calls, {"kd": term}, optax.sgd(100.0)),)),)
    task = token_task.task()
    scheme = Scheme(roles, stages, evaluate=("student", "teacher"), reference="teacher", task=task)
    scheme, shapes = bind(scheme, toy.shapes(data), accumulate)
    mesh = mesh or toy.mesh()
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(lambda k: init_state(scheme, shapes, k, {}), KEY)
        state = jax.jit(
            lambda k: init_state(scheme, shapes, k, {}), out_shardings=parallel.state_shardings(abstract, {}, mesh)
        )(KEY)
        data = jax.device_put(data, parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, scheme.stages[0], accumulate))
        step = step.lower(state, data, hyper_of(scheme.stages[0]), KEY).compile()
        scoring = jax.jit(make_eval_step(scheme)).lower(state, data, KEY).compile()
        after, measured = step(state, data, hyper_of(scheme.stages[0]), KEY)
        scored = {name: sums for name, (sums, _) in scoring(state, data, KEY).items()}
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
    return jax.device_get((moved, measured, scored)), (step, scoring)


def close(actual, expected):
    """Equal to 1e-4 of the largest value: what moved is a difference of parameters in float32."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * (np.max(np.abs(b)) + 1e-6), err_msg=str(path))


def most_tokens(program):
    """The most tokens of which a program has logits at once."""
    shapes = re.findall(r"f32\[([\d,]+)\]", program.as_text())
    sizes = [tuple(map(int, s.split(","))) for s in shapes]
    return max(np.prod(s[:-1]) for s in sizes if len(s) > 1 and s[-1] == CLASSES and s[:-1] not in {(8,), (12,)})


# Losses of sequences, with their options; those of a rollout count a part of what is labelled.
SEQUENCES = {
    "MiniLLM": Term(on_policy.sequence_reverse_kl_loss, (), (), 1.0, {"mix": 0.2, "long": 0.7}),
    "IW-OPD": Term(on_policy.position_weighted_loss, (), (), 1.0, {"gamma": 0.8, "temperature": 2.0}),
    "IW-OPD of a rollout": Term(
        on_policy.position_weighted_loss, (), (), 1.0, {}, options={"rollout_log_probs": "batch.rollout"}
    ),
}


def sequence_term(name, fn=None):
    term = SEQUENCES[name]
    where = "batch.some" if term.options else "batch.labelled"
    paths = dict(inputs=("student.logits",), targets=("teacher.logits", "batch.label"), where=where)
    return dataclasses.replace(term, fn=fn or term.fn, **paths)


def of_sequences():
    """A batch with what a rollout gave its tokens, and some of those that are labelled."""
    data = batch()
    rollout = -3 + jax.random.normal(KEY, (ROWS, LENGTH))
    return data | {"rollout": rollout, "some": data["labelled"] & (jnp.arange(LENGTH)[None] % 5 != 1)}


@functools.cache
def plain_sequences(name):
    """The run of a term whose loss says nothing of itself, so that it reads all logits."""
    loss = SEQUENCES[name].fn

    def unmarked(*read, **options):
        return loss(*read, **options)

    def masked(*read, where, **options):
        return loss(*read, where=where, **options)

    term = sequence_term(name, masked if takes_where(loss) else unmarked)
    return run(term, Role(network(12), TOKENS), of_sequences())


@pytest.mark.parametrize("form", ["one", "mesh", "accumulated"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_a_loss_of_sequences_is_computed_in_two_passes(name, form):
    """What moves, loss and scores are those of the plain one, and no program holds all logits."""
    more = {"one": {}, "mesh": {"mesh": toy.mesh(8)}, "accumulated": {"accumulate": 2}}[form]
    result, (step, _) = run(sequence_term(name), Role(network(12), TOKENS), of_sequences(), **more)
    expected, (whole, _) = plain_sequences(name)
    close(result, expected)
    assert np.abs(result[1]["kd"][0]) > 0
    if form == "one":
        used, before = (p.memory_analysis().temp_size_in_bytes for p in (step, whole))
        assert most_tokens(whole) == ROWS * LENGTH and most_tokens(step) <= CHUNK
        assert used < ALL_LOGITS < before / 2


@pytest.mark.parametrize("family", [llama, gemma2])
def test_the_likeliest_tokens_are_written_without_the_logits(family):
    model, data, store = network(12, family), batch(), Store(k=K, temperature=1.5)
    params, _ = model.init(KEY, data["tokens"])

    def answer(params, whole):
        outputs, _ = model.apply(params, {}, data["tokens"], train=False, key=KEY, taps=("projected",))
        return encode(store, outputs, None if whole else answer_of(outputs))

    programs = [jax.jit(functools.partial(answer, whole=w)).lower(params).compile() for w in (False, True)]
    made, expected = (program(params) for program in programs)
    np.testing.assert_array_equal(made["ids"], expected["ids"])
    close(made, expected)
    used, before = (p.memory_analysis().temp_size_in_bytes for p in programs)
    assert used < ALL_LOGITS / 2 < ALL_LOGITS < before
    assert most_tokens(programs[0]) <= CHUNK < most_tokens(programs[1])


@pytest.mark.parametrize("form", ["one", "mesh", "accumulated"])
def test_stored_answers_are_read_without_the_logits(form):
    """A step and scores of students, and of the answers, against a loss that reads all logits of both."""
    data, teacher, store = batch(), network(12), Store(k=K)
    params, _ = teacher.init(KEY, data["tokens"])
    fields = encode(store, teacher.apply(params, {}, data["tokens"], train=False, key=KEY)[0])
    data |= fields
    role = Role(CachedTeacher(store, CLASSES), tuple(f"batch.{name}" for name in store.names))
    term = Term(
        response.kd_loss, ("student.logits",), ("teacher.logits",), 1.0, {"temperature": 2.0}, where="batch.labelled"
    )
    more = {"one": {}, "mesh": {"mesh": toy.mesh(8)}, "accumulated": {"accumulate": 2}}[form]
    result, programs = run(term, role, data, **more)
    whole = dataclasses.replace(term, fn=lambda s, t, temperature: response.kd_loss(s, t, temperature=temperature))
    expected, before = run(whole, role, data)
    close(result, expected)
    if form == "one":
        assert most_tokens(before[0]) == ROWS * LENGTH
        for program in programs:
            assert most_tokens(program) <= CHUNK
        assert programs[0].memory_analysis().temp_size_in_bytes < ALL_LOGITS
