"""Terms and scores of decoders build logits in chunks: equal to the plain ones, and no program holds them all."""

from __future__ import annotations

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kd_jax.core import chunked, metrics
from kd_jax.core.bind import bind, init_state
from kd_jax.core.evaluate import make_eval_step
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response, response_mixture, task
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import gemma2, llama
from kd_jax.models.lora import lora
from kd_jax.models.projected import Projected
from kd_jax.system import parallel
from kd_jax.tasks import tokens as token_task
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

CLASSES, ROWS, LENGTH, CHUNK = 72, 8, 6, 10
KEY = jax.random.key(0)
SMALL = dict(depth=1, heads=2, hidden=16)
STUDENT, TEACHER = ("student.logits",), ("teacher.logits",)


def terms():
    kd = Term(response_mixture.jsd_loss, STUDENT, TEACHER, 0.7, {"beta": 0.3}, where="batch.labelled")
    ce = Term(task.cross_entropy_loss, STUDENT, ("batch.label",), 0.3, {"smoothing": 0.1}, where="batch.labelled")
    return {"kd": kd, "ce": ce, "all": Term(response.reverse_kl_loss, STUDENT, TEACHER, 0.1)}


def batch(rows=ROWS):
    tokens = jax.random.randint(KEY, (rows, LENGTH + 1), 0, CLASSES)
    real = jnp.arange(LENGTH)[None] < 1 + jnp.arange(rows)[:, None] % LENGTH
    label = jnp.where(real, tokens[:, 1:], -1)
    return {
        "tokens": tokens[:, :-1],
        "label": label,
        "labelled": real,
        "mask": jnp.ones(rows, bool),
        "index": jnp.arange(rows),
    }


def unmarked(fn):
    """The same function, which nothing knows to be by token."""
    return functools.wraps(fn, updated=())(lambda *args, **kwargs: fn(*args, **kwargs))


def plain(marked):
    return {name: dataclasses.replace(term, fn=unmarked(term.fn)) for name, term in marked.items()}


def networks(chunk=CHUNK, family=llama, **options):
    return {
        "student": LinenModel(family(CLASSES, 8, **{**SMALL, "tied": True, "chunk": chunk, **options})),
        "teacher": LinenModel(family(CLASSES, 12, **{**SMALL, "tied": False, "chunk": chunk, **options})),
    }


def scheme_of(models, trained, watched=()):
    roles = {
        "student": Role(models["student"], ("batch.tokens",), group="student"),
        "teacher": Role(models["teacher"], ("batch.tokens",)),
    }
    calls = (Call("student", ("batch.tokens",)), Call("teacher", ("batch.tokens",), train=False))
    stage = Stage(1, (Phase("student", calls, trained, optax.sgd(1.0), dict(watched)),))
    return Scheme(roles, (stage,), evaluate=("student",), reference="teacher", task=token_task.task())


def run(models, trained, watched=(), mesh=None, rules=None, accumulate=1):
    """(what moved, metrics, sums of the evaluation, the programs of both)"""
    scheme, shapes = bind(scheme_of(models, trained, watched), toy.shapes(batch()), accumulate)
    mesh = mesh or toy.mesh()
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(lambda k: init_state(scheme, shapes, k, {}), KEY)
        shardings = parallel.state_shardings(abstract, rules or {}, mesh)
        state = jax.jit(lambda k: init_state(scheme, shapes, k, {}), out_shardings=shardings)(KEY)
        data = jax.device_put(batch(), parallel.batch_sharding(mesh))
        step = jax.jit(make_train_step(scheme, scheme.stages[0], accumulate))
        program = step.lower(state, data, hyper_of(scheme.stages[0]), KEY).compile()
        after, measured = program(state, data, hyper_of(scheme.stages[0]), KEY)
        scoring = jax.jit(make_eval_step(scheme)).lower(state, data, KEY).compile()
        sums = scoring(state, data, KEY)["student"][0]
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)
    return moved, jax.device_get(measured), jax.device_get(sums), (program, scoring)


def close(actual, expected, atol=2e-5):
    """Equal to 2e-5 of the largest value, in float32."""
    flat = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), b in zip(flat, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol * (np.max(np.abs(b)) + 1e-6), err_msg=str(path))


WATCHED = {"accuracy": Term(metrics.accuracy, STUDENT, ("batch.label",), where="batch.labelled")}


@functools.cache
def expected(family=llama):
    unfused = plain(terms())
    return run(networks(1000, family), unfused, plain(WATCHED))


def held(program):
    """Arrays with an axis of the vocabulary that a program makes of more tokens than a chunk."""
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", program.as_text())}
    return [s for s in shapes if s[-1] == CLASSES and np.prod(s[:-1]) > CHUNK and s[:-1] not in {(8,), (12,)}]


@pytest.mark.parametrize("family", [llama, gemma2])
def test_a_step_and_scores_equal_the_plain_ones(family):
    moved, measured, sums, programs = run(networks(family=family), terms(), WATCHED)
    moved_plain, measured_plain, sums_plain, programs_plain = expected(family)
    close(moved, moved_plain)
    assert list(measured) == list(measured_plain)
    close(measured, measured_plain)
    close(sums, sums_plain)
    assert held(programs_plain[0]), "the plain step holds all logits"
    for program in programs:
        assert not held(program)


@pytest.mark.parametrize("mesh", [(8,), (2, 2, 2)])
def test_a_mesh_changes_nothing(mesh):
    """Tokens over data and fsdp, the classes of both heads over model."""
    rules = {"student": ("fsdp+tensor",), "teacher": ("fsdp+tensor",)} if len(mesh) == 3 else {}
    moved, measured, sums, _ = run(networks(3), terms(), WATCHED, toy.mesh(*mesh), rules)
    close((moved, measured, sums), expected()[:3])


def test_microbatches_change_nothing():
    moved, measured, *_ = run(networks(3), terms(), WATCHED, accumulate=2)
    close((moved, measured), expected()[:2])


def test_an_adapted_head_is_two_products_and_merges():
    """LoRA on every linear layer and the head: the pieces equal the logits, and the frozen table gets no gradient."""
    base, tokens = LinenModel(llama(CLASSES, 8, **SMALL, chunk=CHUNK)), batch()["tokens"]
    model, (params, _) = lora(base, rank=2, targets="."), base.init(KEY, tokens)
    adapters = model.adapters(KEY, params)
    adapters = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), adapters)
    assert adapters["head"]["b"].shape == (2, CLASSES)

    def mean(adapters, chunked_form):
        inputs = (tokens, params)
        outputs, _ = model.apply(adapters, {}, *inputs, train=True, key=KEY, taps=("projected",))
        projected = outputs.features["projected"]
        assert chunked.stands_for(projected, outputs.logits) and len(projected.heads) == 2
        read = projected if chunked_form else outputs.logits
        piece = chunked.Piece("ce", task.cross_entropy_loss, (read, tokens), {}, 1, None, 1.0)
        return chunked.sums_of([piece])[0] if chunked_form else task.cross_entropy_loss(read, tokens).mean()

    results = [jax.jit(jax.value_and_grad(functools.partial(mean, chunked_form=form)))(adapters) for form in (0, 1)]
    close(results[1], results[0])
    merged = model.merged(adapters, params)
    logits = base.apply(merged, {}, tokens, train=False, key=KEY)[0].logits
    expected = model.apply(adapters, {}, tokens, params, train=False, key=KEY)[0].logits
    np.testing.assert_allclose(logits, expected, atol=1e-5)


class Halved(nn.Module):
    """A network whose logits are not those that its decoder projects."""

    decoder: nn.Module

    def __call__(self, tokens):
        return self.decoder(tokens) / 2


def test_logits_that_a_network_changes_are_not_projected():
    for module, tap in ((llama(CLASSES, 8, **SMALL), "projected"), (Halved(llama(CLASSES, 8, **SMALL)), "")):
        model, tokens = LinenModel(module), batch()["tokens"]
        assert chunked.projection_tap(model, jax.eval_shape(model.init, KEY, tokens), (tokens,)) == tap


@pytest.mark.parametrize("axes", [(8,), (2, 2, 2)])
def test_pieces_on_a_mesh_of_explicit_axes(axes):
    """jax.make_mesh's default: values and gradients by both sides' hidden states and heads."""
    rng = np.random.default_rng(0)
    shapes = [(8, 6, 8), (64, 8), (8, 6, 12), (64, 12)]
    hs, ws, ht, wt = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    labels = jnp.asarray(rng.integers(0, 64, (8, 6)))

    def total(hs, ws, ht, wt, labels):
        student, teacher = Projected((hs,), (ws,), chunk=4), Projected((ht,), (wt,), chunk=4)
        pieces = [
            chunked.Piece("kd", response.kd_loss, (student, teacher), {"temperature": 2.0}, 1, labels > 3, 0.7),
            chunked.Piece("ce", task.cross_entropy_loss, (student, labels), {}, 1, labels > 3, 0.3),
            chunked.Piece("accuracy", metrics.accuracy, (student, labels), {}, 1),
        ]
        return chunked.sums_of(pieces)

    def plainly(hs, ws, ht, wt, labels):
        s, t = hs @ ws.T, ht @ wt.T
        parts = {"kd": response.kd_loss(s, t, temperature=2.0), "ce": task.cross_entropy_loss(s, labels)}
        sums = {k: (jnp.where(labels > 3, v, 0).sum(), (labels > 3).sum(dtype=jnp.float32)) for k, v in parts.items()}
        sums["accuracy"] = metrics.accuracy(s, labels).sum(), jnp.float32(labels.size)
        return 0.7 * sums["kd"][0] / sums["kd"][1] + 0.3 * sums["ce"][0] / sums["ce"][1], sums

    both = [jax.jit(jax.value_and_grad(fn, argnums=(0, 1), has_aux=True)) for fn in (plainly, total)]
    expected = both[0](hs, ws, ht, wt, labels)
    names = ("data", "fsdp", "model")[: len(axes)]
    mesh = jax.make_mesh(axes, names, axis_types=(AxisType.Explicit,) * len(axes))
    model = "model" if len(axes) == 3 else None
    rows = PartitionSpec(names if model is None else names[:2])
    specs = (rows, PartitionSpec(model, "fsdp" if model else None), rows, PartitionSpec(model), rows)
    with jax.set_mesh(mesh):
        arrays = [
            jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip((hs, ws, ht, wt, labels), specs, strict=True)
        ]
        close(jax.device_get(both[1](*arrays)), jax.device_get(expected))
