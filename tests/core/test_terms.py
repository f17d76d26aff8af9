import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.terms import hyper_of, masked_sum_and_count, options_of, taps_of, term_value
from kd_jax.losses.dense import pairwise_affinity_loss
from kd_jax.losses.feature import feature_hint_loss
from kd_jax.losses.response import dist_loss, jsd_loss, kd_loss, reverse_kl_loss
from kd_jax.types import Outputs, Phase, Stage, Term

CONTEXT = {
    "batch": {"label": jnp.array([0, 1]), "labelled": jnp.array([True, False])},
    "student": Outputs(jnp.array([[1.0, 2.0], [3.0, 4.0]]), {"stage1": jnp.ones((2, 3))}),
    "extra": {"queue": jnp.zeros((2, 2))},
}


def test_numbers_that_a_loss_says_are_static_reach_it_as_they_are():
    maps = jnp.ones((2, 4, 4, 3))
    term = Term(pairwise_affinity_loss, ("student",), ("teacher",), kwargs={"scale": 0.25})
    phase = Phase("student", (), {"pairs": term}, None)
    hyper = hyper_of(Stage(1, (phase,)))["student"]["terms"]["pairs"]
    assert hyper["kwargs"] == {} and float(hyper["weight"]) == 1.0

    @jax.jit
    def value(hyper):
        kwargs = options_of(term, hyper, jnp.int32(0))[1]
        return term_value("pairs", term, {"student": maps, "teacher": maps}, kwargs)[0]

    assert value(hyper) == 0


def squared(x, y, *, scale=1.0):
    return scale * jnp.square(x - y).sum(-1)


def test_inputs_are_differentiated_and_nothing_else():
    def loss(a, b, where, factor):
        context = {"batch": {"a": a, "b": b, "where": where, "factor": factor}}
        term = Term(
            lambda x, y, *, factor: factor * squared(x, y),
            ("batch.a",),
            ("batch.b",),
            options={"factor": "batch.factor"},
            where="batch.where",
        )
        total, count, _ = term_value("t", term, context, {})
        return total / count

    a, b = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [5.0]])
    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(a, b, jnp.array([1.0, 0.0]), jnp.array([2.0, 2.0]))
    np.testing.assert_allclose(grads[0], [[2 * 2 * (1 - 3)], [0.0]])
    assert all(not g.any() for g in grads[1:])


def test_masked_reduction_keeps_padding_out():
    total, count = masked_sum_and_count(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True]))
    assert (float(total), float(count)) == (4.0, 2.0)
    total, count = masked_sum_and_count(jnp.ones((2, 5)), jnp.array([True, False]))
    assert (float(total), float(count)) == (5.0, 5.0)
    with pytest.raises(ValueError, match="leading axes"):
        masked_sum_and_count(jnp.ones(3), jnp.ones(2))


def test_where_reaches_a_loss_that_takes_it():
    def centred(x, *, where):
        return x - jnp.where(where, x, 0).sum() / where.sum()

    context = {"batch": {"x": jnp.array([1.0, 3.0, 100.0]), "mask": jnp.array([True, True, False])}}
    total, count, _ = term_value("t", Term(centred, ("batch.x",), where="batch.mask"), context, {})
    assert (float(total), float(count)) == (0.0, 2.0)


def test_scalar_losses_and_bad_shapes_are_named():
    with pytest.raises(ValueError, match="one value an example"):
        term_value("t", Term(lambda x: x.sum(), ("student.logits",)), CONTEXT, {})
    with pytest.raises(ValueError, match=r"Term 'hint' .*student.features:stage1.*\(2, 3\)"):
        term_value("hint", Term(squared, ("student.features:stage1",), ("student.logits",)), CONTEXT, {})


def test_taps_come_from_the_paths():
    terms = {
        "a": Term(squared, ("student.features:stage2",), ("teacher.features:stage3",)),
        "b": Term(squared, ("student.features:stage1",), ("student.logits",), where="student.features:mask"),
    }
    assert taps_of(terms, "student") == ("mask", "stage1", "stage2")
    assert taps_of(terms, "teacher") == ("stage3",)


def seen_by(term, context, kwargs=None):
    """What the loss of a term is called with, inputs first."""
    calls = []

    def fn(*arrays, **options):
        calls.append((arrays, options))
        return jnp.zeros(2)

    term_value("t", dataclasses.replace(term, fn=fn), context, kwargs or {})
    return calls[0]


def test_masked_rows_are_cleared_before_the_loss():
    nan = jnp.nan
    outputs = {"boxes": jnp.array([[1.0, nan], [nan, nan]]), "classes": (jnp.array([1.0, nan]), jnp.array([3, 4]))}
    context = {
        "student": Outputs(outputs, {"stage1": jnp.array([[1.0], [nan]])}),
        "batch": {"real": jnp.array([True, False]), "weight": jnp.array([nan, nan]), "label": jnp.array([1, 2])},
    }
    paths = dict(inputs=("student.logits", "student.features:stage1"), targets=("student",), where="batch.real")
    options = {"weight": "batch.weight", "label": "batch.label", "real": "batch.real"}
    (logits, feature, whole), others = seen_by(Term(squared, **paths, options=options), context)
    np.testing.assert_array_equal(logits["boxes"], [[1, nan], [1, 1]])  # a row that counts stays as it is
    np.testing.assert_array_equal(logits["classes"][0], [1, 1])
    np.testing.assert_array_equal(logits["classes"][1], [3, 4])  # integers hold no NaN
    np.testing.assert_array_equal(feature, [[1], [1]])
    np.testing.assert_array_equal(whole.features["stage1"], feature)
    np.testing.assert_array_equal(others["weight"], [nan, 1])
    np.testing.assert_array_equal(others["label"], [1, 2])
    np.testing.assert_array_equal(others["real"], [True, False])


SHAPES = {"pooled": (2, 4), "scores": (2, 2, 3)}


def test_masked_tokens_are_cleared_and_what_has_no_tokens_is_not():
    nan, mask = jnp.nan, jnp.array([[True, True, False], [True, False, False]])
    context = {
        "student": Outputs(
            jnp.full((2, 3, 4), nan), {"pooled": jnp.full((2, 4), nan), "scores": jnp.full((2, 2, 3), nan)}
        ),
        "batch": {"mask": mask.astype(jnp.float32) * 0.5},
    }
    taps = ("student.features:pooled", "student.features:scores")
    term = Term(squared, ("student.logits", *taps), where="batch.mask")

    def fn(logits, pooled, scores):
        np.testing.assert_array_equal(jnp.isnan(logits).any(-1), mask)
        assert jnp.isnan(pooled).all() and jnp.isnan(scores).all()
        return jnp.zeros((2, 3))

    term_value("t", dataclasses.replace(term, fn=fn), context, {})


def test_what_a_mask_never_reaches():
    """Parameters, memories and a connector's one scale a channel, though they have as many rows as the batch."""
    square = jnp.full((2, 2), 5.0)
    context = {
        "kd/connector": Outputs((square, jnp.full(2, 5.0)), {}),
        "params": {"teacher": {"head": square}},
        "extra": {"queue": square, "replay": {"logits": square, "held": jnp.array([True, False])}},
        "batch": {"real": jnp.array([True, False])},
    }
    term = Term(squared, ("kd/connector.logits.0", "kd/connector.logits.1"), ("extra.queue", "extra.replay.logits"))
    term = dataclasses.replace(term, options={"head": "params.teacher.head"}, where="batch.real")
    (mean, scale, queue, replay), options = seen_by(term, context)
    np.testing.assert_array_equal(mean, [[5, 5], [1, 1]])
    for whole in (scale, queue, replay, options["head"]):
        assert (whole == 5).all()
    (_, _, queue, replay), _ = seen_by(dataclasses.replace(term, where="extra.replay.held"), context)
    assert (queue == 5).all()
    np.testing.assert_array_equal(replay, [[5, 5], [1, 1]])


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf, jnp.inf])
@pytest.mark.parametrize("fn", [kd_loss, jsd_loss, reverse_kl_loss, feature_hint_loss, dist_loss])
def test_a_masked_row_of_the_teacher_may_hold_anything(fn, bad):
    s = jnp.arange(10.0).reshape(2, 5)

    def loss(s, teacher):
        context = {"student": Outputs(s, {}), "teacher": Outputs(teacher, {})}
        context["batch"] = {"real": jnp.array([True, False])}
        term = Term(fn, ("student.logits",), ("teacher.logits",), where="batch.real")
        total, count, _ = term_value("kd", term, context, {})
        return total / count

    value, gradient = jax.value_and_grad(loss)(s * 1.1, s.at[1].set(bad))
    expected = jax.value_and_grad(loss)(s * 1.1, s)
    assert value == expected[0] and not gradient[1].any()
    np.testing.assert_array_equal(gradient, expected[1])


def test_a_memory_gets_the_rows_as_they_were():
    term = Term(squared, ("student.logits",), ("student.logits",), where="batch.labelled")
    assert term_value("t", term, CONTEXT, {})[2][0] is CONTEXT["student"].logits
