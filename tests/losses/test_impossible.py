"""Classes of logit -inf and equal values, where the table of properties does not reach; see test_properties.py."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import composed, feature, lifelong, on_policy, response, self_distillation, task, vocabulary
from kd_jax.losses.data_free import disagreement_loss
from kd_jax.losses.response_alignment import aligned_loss

C, MORE = 6, 2  # possible classes, impossible ones after them
S, T = jax.random.normal(jax.random.key(0), (2, 3, C))
LABELS = np.array([0, 3, 5], np.int32)
MASKED = np.concatenate([np.ones(C, bool), np.zeros(MORE, bool)])


def more(x, value=-jnp.inf):
    return jnp.concatenate([x, jnp.full((*x.shape[:-1], MORE), value)], axis=-1)


def check(loss, *arrays, padded=None):
    """`padded` (of logits with impossible classes) has the value and gradients of `loss` of the others."""
    expected = jax.value_and_grad(lambda *x: loss(*x).sum(), argnums=range(len(arrays)))(*arrays)
    actual = jax.value_and_grad(lambda *x: (padded or loss)(*x).sum(), argnums=range(len(arrays)))(*map(more, arrays))
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for g, without in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(g[..., :C], without, rtol=1e-4, atol=1e-6)
        assert not g[..., C:].any()


@pytest.mark.parametrize("loss", [response.kd_loss, response.jsd_loss, response.skew_kl_loss])
def test_a_mask_that_is_added_to_the_logits(loss):
    """The network adds -inf to what it computed: no NaN reaches what it computed."""
    mask = jnp.where(MASKED, 0, -jnp.inf)[None]
    wide = [jnp.concatenate([x, jnp.ones((3, MORE))], axis=1) for x in (S, T)]
    value, gradient = jax.value_and_grad(lambda s: loss(s + mask, wide[1] + mask).sum())(wide[0])
    np.testing.assert_allclose(value, loss(S, T).sum(), rtol=1e-5)
    assert not gradient[:, C:].any() and np.isfinite(gradient).all()


def test_a_class_that_one_side_excludes():
    """What the teacher excludes costs the student its probability; what the student excludes costs it without end."""
    one = T.at[:, 0].set(-jnp.inf)
    value, gradient = jax.value_and_grad(lambda s: response.kd_loss(s, one).sum())(S)
    assert np.isfinite(value) and np.isfinite(gradient).all() and (gradient[:, 0] > 0).all()
    assert np.all(response.kd_loss(one, T) == jnp.inf) and np.isfinite(response.jsd_loss(one, T)).all()


def test_arrays_that_name_each_class():
    rivals = np.eye(C, dtype=bool) | (np.arange(C) % 2 == np.arange(C)[:, None] % 2)
    wide = np.pad(rivals, (0, MORE), constant_values=True)
    check(
        lambda s: lifelong.rival_cross_entropy_loss(s, LABELS, rivals),
        S,
        padded=lambda s: lifelong.rival_cross_entropy_loss(s, LABELS, wide),
    )
    groups = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
    for further in ([[0, 0], [1, 1]], [[0, 0], [0, 0]]):
        wide = np.concatenate([groups, np.array(further, bool)], axis=1)
        check(
            lambda s, t: lifelong.grouped_kd_loss(s, t, groups),
            S,
            T,
            padded=lambda s, t, wide=wide: lifelong.grouped_kd_loss(s, t, wide),
        )
    probabilities = jax.nn.softmax(T)
    progressive = functools.partial(self_distillation.progressive_loss, labels=LABELS, index=np.arange(3))
    check(
        lambda s: progressive(s, predictions=probabilities),
        S,
        padded=lambda s: progressive(s, predictions=more(probabilities, 0.0)),
    )


@pytest.mark.parametrize(
    "fused",
    [
        vocabulary.fused_kd_loss,
        vocabulary.fused_reverse_kl_loss,
        vocabulary.fused_jsd_loss,
        vocabulary.fused_skew_kl_loss,
        vocabulary.fused_skew_reverse_kl_loss,
        vocabulary.fused_total_variation_loss,
    ],
)
def test_fused_losses_with_a_bias_of_minus_infinity(fused):
    head = jnp.eye(C)
    bias = jnp.where(MASKED, 0, -jnp.inf)
    wide = functools.partial(fused, chunk=2, student_bias=bias, teacher_bias=bias)

    def plain(s, head, t):
        return fused(s, head, t, head, chunk=2).sum()

    def padded(s, head, t):
        return wide(s, head, t, head).sum()

    expected = jax.value_and_grad(plain, argnums=(0, 1, 2))(S, head, T)
    actual = jax.value_and_grad(padded, argnums=(0, 1, 2))(S, jnp.pad(head, ((0, 0), (0, MORE))), T)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for g, without in zip(actual[1], expected[1], strict=True):
        np.testing.assert_allclose(g[:, :C], without, rtol=1e-4, atol=1e-6)
    assert not actual[1][1][:, C:].any()


def test_fused_cross_entropy_with_smoothing():
    bias = jnp.where(MASKED, 0, -jnp.inf)
    head = jnp.eye(C, C + MORE)
    loss = functools.partial(vocabulary.fused_cross_entropy_loss, smoothing=0.1, student_bias=bias, chunk=2)
    actual, gradient = jax.value_and_grad(lambda s: loss(s, head, LABELS).sum())(S)
    expected, wanted = jax.value_and_grad(lambda s: task.cross_entropy_loss(s, LABELS, smoothing=0.1).sum())(S)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_a_learned_temperature():
    """Its gradient is that of the possible classes, where -inf / T^2 times 0 was NaN."""
    slope = jax.grad(lambda raw, s, t: composed.curriculum_kd_loss(s, raw, t).sum())
    np.testing.assert_allclose(slope(0.3, more(S), more(T)), slope(0.3, S, T), rtol=1e-5)


def test_tokens_that_no_tokenizer_says():
    ids = np.arange(3)
    texts = dict(
        student_tokens=LABELS[None],
        teacher_tokens=LABELS[None],
        student_groups=np.arange(3)[None],
        teacher_groups=np.arange(3)[None],
        matched_weight=0.5,
    )
    some, all_three = (functools.partial(aligned_loss, **texts, student_ids=i, teacher_ids=i) for i in (ids, ids[:0]))
    with_shared = functools.partial(
        aligned_loss, **texts, student_ids=np.r_[ids, C, C + 1], teacher_ids=np.r_[ids, C, C + 1]
    )
    for loss, padded in ((some, some), (some, with_shared), (all_three, all_three)):
        check(lambda s, t, f=loss: f(s[None], t[None]), S, T, padded=lambda s, t, f=padded: f(s[None], t[None]))


def test_tokens_that_were_not_sampled():
    labels = np.array([[0, 3, -1]])

    def loss(s, t):
        return on_policy.sequence_reverse_kl_loss(s[None], t[None], labels)

    check(loss, S, T)
    first = S.at[2, 0].set(-jnp.inf)  # -1 reads class 0
    value, gradient = jax.value_and_grad(lambda s: loss(s, T.at[2, 0].set(-jnp.inf)).sum())(first)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_binary_labels_that_cannot_be():
    logits = jnp.array([[0.3, -jnp.inf, jnp.inf]])
    loss = lambda z: task.binary_cross_entropy_loss(z, jnp.array([[1.0, 0.0, 1.0]])).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, np.log1p(np.exp(-0.3)) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1 / (1 + np.exp(0.3)) / 3, 0, 0]], rtol=1e-6, atol=0)


def test_an_absolute_value_has_slope_0_at_0():
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])

    def size(value):
        return disagreement_loss(jnp.reshape(value, (1, 1)), jnp.zeros((1, 1)))[0]

    for fn in (size, jax.jit(size)):
        np.testing.assert_array_equal(jax.vmap(fn)(x), np.abs(x))
        np.testing.assert_array_equal(jax.vmap(jax.grad(fn))(x), [-1, 0, 0, 1])
        np.testing.assert_array_equal(jax.vmap(jax.grad(jax.grad(fn)))(x), np.zeros(4))
    assert size(-jnp.inf) == jnp.inf


def test_equal_values_pull_nowhere():
    """The losses with an absolute value at student == teacher, where jnp.abs gave each entry the slope 1."""
    maps = jax.random.normal(jax.random.key(1), (2, 3, 3, 4)).at[:, 0].set(0.0)
    tokens = dict(
        student_tokens=LABELS[None],
        teacher_tokens=LABELS[None],
        student_groups=np.arange(3)[None],
        teacher_groups=np.arange(3)[None],
        student_ids=np.arange(2),
        teacher_ids=np.arange(2),
    )
    for loss, x in (
        (feature.factor_transfer_loss, maps),
        (response.total_variation_loss, S),
        (response.uld_loss, S),
        (lambda s, t: aligned_loss(s[None], t[None], **tokens), S),
    ):
        np.testing.assert_allclose(jax.grad(lambda s, f=loss, t=x: f(s, t).sum())(x), 0, atol=1e-7)
    for p in (0.5, 1.0, 2.0):
        gradient = jax.grad(lambda s, p=p: feature.attention_transfer_loss(s, maps + 1, p=p).sum())(maps)
        assert np.isfinite(gradient).all() and not gradient[:, 0].any()
