import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.terms import masked_sum_and_count, taps_of, term_value
from kd_jax.types import Outputs, Term

CONTEXT = {
    "batch": {"label": jnp.array([0, 1]), "labelled": jnp.array([True, False])},
    "student": Outputs(jnp.array([[1.0, 2.0], [3.0, 4.0]]), {"stage1": jnp.ones((2, 3))}),
    "extra": {"queue": jnp.zeros((2, 2))},
}


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
