"""Losses fused with the output projection: against NumPy, against the plain loss, and what they keep in memory."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.vocabulary import programs
from kd_jax.losses import response, task
from kd_jax.losses import vocabulary as voc

LABELS = np.array([3, 0, 5, 2])


def softmax(z):
    weights = [math.exp(x) for x in z]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mix(share, p, q):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def of_hidden(value, temperature):
    """T^2 times the mean over tokens of value(p_s, p_t, token), in Python numbers."""

    def reference(hidden_s, head_s, bias, hidden_t, head_t):
        total = 0.0
        for i in range(len(hidden_s)):
            z_s = [sum(hidden_s[i] * head_s[:, c]) + bias[c] for c in range(head_s.shape[1])]
            z_t = [sum(hidden_t[i] * head_t[c]) for c in range(head_t.shape[0])]
            p_s, p_t = softmax([z / temperature for z in z_s]), softmax([z / temperature for z in z_t])
            total += temperature**2 * value(p_s, p_t, i)
        return total / len(hidden_s)

    return reference


GOLDEN = {
    "kd": (functools.partial(voc.fused_kd_loss, temperature=2.0), lambda s, t, i: kl(t, s), 2.0),
    "reverse_kl": (voc.fused_reverse_kl_loss, lambda s, t, i: kl(s, t), 1.0),
    "jsd": (
        functools.partial(voc.fused_jsd_loss, beta=0.3, temperature=1.5),
        lambda s, t, i: 0.3 * kl(t, mix(0.3, t, s)) + 0.7 * kl(s, mix(0.3, t, s)),
        1.5,
    ),
    "skew_kl": (functools.partial(voc.fused_skew_kl_loss, alpha=0.2), lambda s, t, i: kl(t, mix(0.2, t, s)), 1.0),
    "skew_reverse_kl": (
        functools.partial(voc.fused_skew_reverse_kl_loss, alpha=0.2),
        lambda s, t, i: kl(s, mix(0.8, t, s)),
        1.0,
    ),
    "total_variation": (
        functools.partial(voc.fused_total_variation_loss, temperature=2.0),
        lambda s, t, i: 0.5 * sum(abs(a - b) for a, b in zip(s, t, strict=True)),
        2.0,
    ),
    "cross_entropy": (
        lambda h, w, *_, **kw: voc.fused_cross_entropy_loss(
            h, w, LABELS, smoothing=0.1, chunk=kw["chunk"], student_bias=kw["student_bias"]
        ),
        lambda s, t, i: -0.9 * math.log(s[LABELS[i]]) - 0.1 * sum(map(math.log, s)) / len(s),
        1.0,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, check):
    """Value, and gradients by hidden states, head and bias, teacher's too, of a plain and a tied head of two widths."""
    fused, value, temperature = GOLDEN[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in ((4, 3), (3, 6), (6,), (4, 2), (6, 2))]

    def loss(hidden_s, head_s, bias, hidden_t, head_t):
        return fused(hidden_s, head_s, hidden_t, head_t, student_bias=bias, teacher_transposed=True, chunk=3)

    check(loss, of_hidden(value, temperature), *arrays, wrt=(0, 1, 2) if name == "cross_entropy" else (0, 1, 2, 3, 4))


def draw(tokens=(2, 11), student=5, teacher=7, classes=37, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = ((*tokens, student), (student, classes), (*tokens, teacher), (teacher, classes))
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance * float(jnp.max(jnp.abs(y)))), a, b)


def both(fused, plain, arrays):
    """(values, gradients by all arrays) of each."""
    return [jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))(*arrays) for loss in (fused, plain)]


@pytest.mark.parametrize("cotangents", ["one number", "a number for each token"])
def test_equals_the_plain_loss_whatever_is_done_with_its_values(cotangents):
    """Soft-capped logits, masked tokens that hold NaN, an option for each token, gradients of the options too."""
    *arrays, temperature = *draw(), jnp.linspace(0.5, 3.0, 22).reshape(2, 11)
    weights = jnp.ones((2, 11)) if cotangents == "one number" else jnp.cos(jnp.arange(22.0)).reshape(2, 11)
    where = jnp.arange(11)[None] < jnp.array([[11], [6]])
    dirty = [jnp.where(where[..., None], x, jnp.nan) if x.ndim == 3 else x for x in arrays]

    def fused(hs, ws, ht, wt, temperature, beta):
        options = dict(temperature=temperature, beta=beta, student_softcap=4.0, where=where, chunk=4)
        return jnp.sum(weights * voc.fused_jsd_loss(hs, ws, ht, wt, **options))

    def plain(hs, ws, ht, wt, temperature, beta):
        values = response.jsd_loss(4 * jnp.tanh(hs @ ws / 4), ht @ wt, temperature=temperature, beta=beta)
        return jnp.sum(jnp.where(where, weights * values, 0))

    options = (temperature, jnp.float32(0.3))
    result, _ = both(fused, plain, (*dirty, *options))
    _, expected = both(fused, plain, (*arrays, *options))
    close(result, expected)


def test_one_head_for_both_and_the_cotangents_of_a_mask_outside():
    hs, ws, *_ = draw()
    mask = jnp.arange(22).reshape(2, 11) % 3 > 0

    def total(loss):
        return lambda h, w: jnp.sum(jnp.where(mask, loss(h, w, jnp.sin(h), w), 0)) / 7

    fused = functools.partial(voc.fused_reverse_kl_loss, chunk=5)
    close(*both(total(fused), total(lambda a, w, b, v: response.reverse_kl_loss(a @ w, b @ v)), (hs, ws)))


def test_flax_layers_are_heads_and_any_loss_can_be_fused():
    hs, ws, ht, wt = draw()
    bias = jnp.linspace(-1.0, 1.0, 37)[None, None]
    plain = response.adaptive_kl_loss(hs @ ws + bias, ht @ wt, mu=0.4)
    heads = {"kernel": ws, "bias": bias[0, 0]}, {"embedding": wt.T}
    fused = voc.fused_loss(response.adaptive_kl_loss, hs, heads[0], ht, heads[1], {"mu": 0.4}, chunk=4)
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda head: voc.fused_kd_loss(hs, head, ht, heads[1]).sum())(heads[0])
    expected = jax.grad(lambda head: response.kd_loss(hs @ head["kernel"] + head["bias"][None, None], ht @ wt).sum())(
        heads[0]
    )
    close(gradient, expected)


def test_bfloat16_inputs():
    """The value is that of the same numbers in float32, gradients are off by their rounding; one head is float32."""
    half = draw(dtype=jnp.bfloat16)
    full = [x.astype(jnp.float32) for x in half]
    loss = jax.jit(jax.value_and_grad(lambda *x: voc.fused_kd_loss(*x, chunk=8).mean(), argnums=(0, 1)))
    value, gradients = loss(half[0], full[1], *half[2:])
    plain = jax.jit(jax.value_and_grad(lambda a, b, c, d: response.kd_loss(a @ b, c @ d).mean(), argnums=(0, 1)))
    expected, exact = plain(*full)
    assert value.dtype == jnp.float32 and [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    close(tuple(g.astype(jnp.float32) for g in gradients), exact, 1e-2)


def test_never_more_than_a_chunk_of_logits_and_only_the_gradients_asked_for():
    compiled = programs("kd", (512, 4096, 8, 16), 16)
    memory = {kind: p.memory_analysis().temp_size_in_bytes for kind, p in compiled.items()}
    assert memory["fused"] <= memory["plain"] / 8
    assert "512,4096" in compiled["plain"].as_text() and "512,4096" not in compiled["fused"].as_text()

    def flops(argnums):
        loss = jax.value_and_grad(lambda *x: voc.fused_kd_loss(*x, chunk=16).mean(), argnums=argnums)
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((16, 8), (8, 4096), (16, 16), (16, 4096))]
        return jax.jit(loss).lower(*shapes).compile().cost_analysis()["flops"]

    assert flops((0, 1)) - flops((0,)) > 0.9 * 2 * 16 * 8 * 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(student_head=np.zeros((6, 37))), r"student's hidden states \(2, 11, 5\) do not fit its head \(6, 37\)"),
        (dict(teacher_hidden=np.zeros((2, 10, 7))), r"student \(2, 11, 5\) and teacher \(2, 10, 7\)"),
        (dict(student_head={"kernal": np.zeros((5, 37))}), "kernal"),
        (dict(student_head=np.zeros(5)), r"head has shape \(5,\)"),
        (dict(student_bias=np.zeros(5)), r"bias \(5,\) does not fit 37 classes"),
        (dict(where=np.ones(11)), r"where \(11,\).*\(2, 11\)"),
        (dict(temperature=np.ones(11)), r"temperature has shape \(11,\).*\(2, 11\)"),
        (dict(teacher_head=np.zeros((7, 40))), '37 classes, the teacher 40.*"slice"'),
        (dict(teacher_head=None), "hidden states and a head"),
        (dict(vocabulary="cut"), "'cut'"),
        (dict(teacher_head=np.zeros((7, 40)), vocabulary="pad"), "infinite where the student lacks"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    hs, ws, ht, wt = draw()
    arrays = dict(student_hidden=hs, student_head=ws, teacher_hidden=ht, teacher_head=wt) | change
    with pytest.raises(ValueError, match=message):
        voc.fused_kd_loss(**arrays)


def test_padded_vocabularies():
    hs, ws, ht, wt = draw()
    wider = jnp.pad(wt, ((0, 0), (0, 3)), constant_values=0.3)
    sliced = voc.fused_kd_loss(hs, ws, ht, wider, vocabulary="slice", chunk=4)
    np.testing.assert_allclose(sliced, response.kd_loss(hs @ ws, ht @ wt), rtol=1e-5, atol=1e-6)

    def plain(hs, ws, ht, wider):
        z = jnp.pad(hs @ ws, ((0, 0), (0, 0), (0, 3)), constant_values=-jnp.inf)
        return response.jsd_loss(z, ht @ wider).sum()

    padded = functools.partial(voc.fused_jsd_loss, vocabulary="pad", chunk=4)
    values, expected = both(lambda *x: padded(*x).sum(), plain, (hs, ws, ht, wider))
    close(values, expected)
    assert all(jnp.all(jnp.isfinite(g)) for g in values[1])
    hard = voc.fused_cross_entropy_loss(hs, ws, jnp.zeros((2, 11), int), chunk=4)
    np.testing.assert_allclose(hard, task.cross_entropy_loss(hs @ ws, jnp.zeros((2, 11), int)), rtol=1e-5)
