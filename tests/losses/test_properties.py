"""Every test runs on every row of the table to which it applies."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from loss_table import TABLE, B, Row, cast, each, pair, shapes, size

from kd_jax.core.terms import term_value
from kd_jax.types import Outputs, Term

STUDENT, REAL = "student.logits", "batch.real"
BIG = 1e4  # a gradient above this on a degenerate input is the 1 / eps of a norm that should not be there


def parametrize(condition: Callable[[Row], bool] = lambda row: True):
    return pytest.mark.parametrize("name", [name for name, row in TABLE.items() if condition(row)])


@functools.cache
def compiled(name: str):
    """(values, gradients of their sum) with traced options; one compilation for all tests that keep the shapes."""
    row = TABLE[name]

    def total(student, teacher, extras, options):
        values = row.fn(student, teacher, **extras, **options)
        return jnp.sum(values), values

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))


def run(name: str, student, teacher, extras=None, **options):
    row = TABLE[name]
    gradients, values = compiled(name)(
        student, teacher, row.extras if extras is None else extras, row.options | options
    )
    return np.asarray(values), gradients


def assert_finite(values, gradients, limit=np.inf):
    assert np.all(np.isfinite(values))
    for g in jax.tree.leaves(gradients):
        assert np.all(np.isfinite(g)) and np.max(np.abs(g)) <= limit


@parametrize()
def test_one_value_an_example(name):
    row = TABLE[name]
    values, gradients = run(name, *pair(row))
    assert values.shape == (shapes(row.student)[0][: -row.axes] if row.logits else (size(row),))
    assert_finite(values, gradients)
    assert np.any(jax.tree.leaves(gradients[0])[0] != 0)
    if row.positive:
        assert np.min(values) >= -1e-6
    half = cast(pair(row), jnp.bfloat16)
    abstract = jax.eval_shape(lambda s, t: row.fn(s, t, **row.extras, **row.options), *half)
    assert abstract.dtype == jnp.float32 and abstract.shape == values.shape


@pytest.mark.parametrize("name", ["kd", "dist", "attention_transfer", "correlation_congruence"])
def test_low_precision_in_is_computed_in_float32(name):
    """The values of bfloat16 inputs are those of the same numbers in float32; eager as jit, options traced or not."""
    row = TABLE[name]
    student, teacher = cast(pair(row), jnp.bfloat16)
    eager = row.fn(student, teacher, **row.options)
    traced, _ = run(name, *cast((student, teacher), jnp.float32))
    np.testing.assert_allclose(eager, traced, rtol=2e-5, atol=2e-6)
    halves = {option: jnp.asarray(value, jnp.bfloat16) for option, value in row.options.items()}
    rounded = {option: float(value) for option, value in halves.items()}
    np.testing.assert_allclose(
        row.fn(student, teacher, **halves),
        run(name, *cast((student, teacher), jnp.float32), **rounded)[0],
        rtol=2e-5,
        atol=2e-6,
    )


@parametrize(lambda row: row.twins)
def test_student_equal_to_teacher(name):
    row = TABLE[name]
    student, _ = pair(row)
    values, gradients = run(name, student, student)
    assert_finite(values, gradients, BIG)
    if row.equal in ("zero", "minimum"):
        for g in jax.tree.leaves(gradients[0]):
            np.testing.assert_allclose(g, 0, atol=2e-5)
        further = run(name, each(lambda x: 1.1 * x + 0.1 * jnp.cos(9 * x), student), student)[0]
        assert np.mean(further) >= np.mean(values) - 1e-6
    if row.equal in ("zero", "almost"):
        np.testing.assert_allclose(values, 0, atol=2e-6 if row.equal == "zero" else 1e-4)


@parametrize()
def test_degenerate_inputs(name):
    """All-zero, equal and repeated rows on either side: finite values, and gradients without a trace of 1 / eps."""
    student, teacher = pair(TABLE[name])
    zero = functools.partial(each, jnp.zeros_like)
    constant = functools.partial(each, lambda x: jnp.full_like(x, 0.1))
    same = functools.partial(each, lambda x: jnp.broadcast_to(x[:1], x.shape))
    twice = functools.partial(each, lambda x: x.at[1].set(x[0]))
    one_dead = functools.partial(each, lambda x: x.at[1].set(0.0))
    for change in (zero, constant, same, twice, one_dead):
        assert_finite(*run(name, change(student), teacher), BIG)
        assert_finite(*run(name, student, change(teacher)), BIG)
        assert_finite(*run(name, change(student), change(teacher)), BIG)


@parametrize(lambda row: row.logits)
def test_large_logits(name):
    row = TABLE[name]
    student, teacher = pair(row)
    large = functools.partial(each, lambda x: 1e4 * jnp.sign(x))
    options = {"temperature": 0.5} if "temperature" in row.options else {}
    opposite = each(jnp.negative, large(student if row.twins else teacher))
    for s, t in ((large(student), large(teacher)), (large(student), opposite), (large(student), teacher)):
        assert_finite(*run(name, s, t, **options))
        assert_finite(*run(name, t, s, **options)) if row.twins else None


@parametrize(lambda row: row.where)
def test_masked_rows_take_no_part(name):
    """The masked mean is the mean on the subset, masked rows are 0 and get no gradient even where they hold NaN."""
    row = TABLE[name]
    student, teacher = pair(row)
    mask = np.array([True, False, True, True])
    dirty = functools.partial(each, lambda x: x.at[1].set(jnp.nan))
    values, gradients = run(name, dirty(student), dirty(teacher), extras=row.extras | {"where": mask})
    subset = jax.tree.map(lambda x: x[mask], (student, teacher, row.extras))
    alone, alone_gradients = run(name, *subset)
    assert np.all(values[1] == 0)
    np.testing.assert_allclose(values[mask], alone, rtol=1e-4, atol=1e-6)
    for g, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(alone_gradients), strict=True):
        np.testing.assert_allclose(g[mask], expected, rtol=1e-3, atol=1e-5)
        assert np.all(np.asarray(g)[1] == 0)
    nobody, gradients = run(name, student, teacher, extras=row.extras | {"where": np.zeros(B, bool)})
    assert np.all(nobody == 0)
    assert_finite(nobody, gradients)


@parametrize(lambda row: not row.where)
def test_masked_rows_of_a_term_may_hold_nan(name):
    """In a term a masked row is cleared before the loss: its gradient is 0 whatever it holds, others stay to the bit.

    Losses that take `where` clear it themselves too: the test above.
    """
    row = TABLE[name]
    student, teacher = pair(row)
    real = np.arange(size(row)) != 1
    context = {"teacher": Outputs(teacher, {}), "batch": {"real": real}}
    term = Term(lambda s, t: row.fn(s, t, **row.extras, **row.options), (STUDENT,), ("teacher.logits",), where=REAL)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def mean(student, teacher):
        outputs = {"student": Outputs(student, {}), "teacher": Outputs(teacher, {})}
        total, count, _ = term_value(name, term, context | outputs, {})
        return total / count

    value, gradients = mean(student, teacher)
    assert np.isfinite(value) and np.any(jax.tree.leaves(gradients[0])[0])
    for hold in (np.nan, -np.inf):
        dirty = functools.partial(each, lambda x, hold=hold: x.at[1].set(hold))
        for pair_of in ((dirty(student), dirty(teacher)), (student, dirty(teacher))):
            again, others = mean(*pair_of)
            assert again == value
            for g, expected in zip(jax.tree.leaves(others[0]), jax.tree.leaves(gradients[0]), strict=True):
                np.testing.assert_array_equal(g, expected)
                assert not np.any(np.asarray(g)[1])
            assert not any(np.any(np.asarray(g)) for g in jax.tree.leaves(others[1]))  # a target


@parametrize(lambda row: row.logits if row.impossible is None else row.impossible)
def test_impossible_classes_change_nothing(name):
    """With two more classes of logit -inf on both sides, values and gradients are those of the others; theirs are 0.

    Rows whose arrays name each class have tests of their own. The labels of a binary cross-entropy are no classes of
    one softmax: one that is impossible is a label that is 0 for sure, and counts.
    """
    row = TABLE[name]
    student, teacher = pair(row)
    values, gradients = run(name, student, teacher)

    def more(x):  # attention between two peers has no classes
        return x if x.shape[-1] < 3 else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 2)], constant_values=-jnp.inf)

    padded_values, padded = run(name, each(more, student), each(more, teacher))
    np.testing.assert_allclose(padded_values, values, rtol=1e-5, atol=1e-6)
    for g, expected in zip(jax.tree.leaves(padded), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(g[..., : expected.shape[-1]], expected, rtol=1e-4, atol=1e-6)
        assert not np.any(np.asarray(g)[..., expected.shape[-1] :])


@parametrize(lambda row: "mask" in row.extras)
def test_tokens_that_the_mask_leaves_out_may_hold_nan(name):
    row = TABLE[name]
    student, teacher = pair(row)
    keep, length = row.extras["mask"], row.extras["mask"].shape[1]
    values, gradients = run(name, student, teacher)

    def dirty(x):
        for axis in (a for a in range(1, x.ndim) if x.shape[a] == length):
            at = keep.reshape([len(keep)] + [length if a == axis else 1 for a in range(1, x.ndim)])
            x = jnp.where(at, x, jnp.nan)
        return x

    again, others = run(name, each(dirty, student), each(dirty, teacher))
    np.testing.assert_array_equal(again, values)
    for g, expected in zip(jax.tree.leaves(others), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_array_equal(g, expected)


@parametrize(lambda row: row.where or row.logits)
def test_batch_of_one(name):
    row = TABLE[name]
    student, teacher, extras = jax.tree.map(lambda x: x[:1], (*pair(row), row.extras))
    total = lambda s: jnp.sum(row.fn(s, teacher, **extras, **row.options))  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(total))(student)
    assert_finite(value, gradient, BIG)


@parametrize(lambda row: bool(row.invariant))
def test_invariances(name):
    row = TABLE[name]
    student, teacher = pair(row)
    scale = lambda x: x * jnp.linspace(0.5, 3.0, x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
    shift = lambda x: x + jnp.linspace(-2.0, 3.0, x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
    order = np.array([2, 0, 3, 1])
    changes = {
        "shift_rows": (each(shift, student), each(lambda x: shift(-x) * -1, teacher)),
        "scale_rows": (each(scale, student), teacher),
        "scale_all": (each(lambda x: 3 * x, student), each(lambda x: 0.5 * x, teacher)),
        "shift_all": (each(lambda x: x + 2, student), each(lambda x: x - 1, teacher)),
        "permute_classes": (each(lambda x: x[..., ::-1], student), each(lambda x: x[..., ::-1], teacher)),
        "permute_student": (each(lambda x: x[..., ::-1], student), teacher),
    }
    values, _ = run(name, student, teacher)
    for kind in row.invariant:
        if kind == "permute_batch":
            changed, _ = run(name, *each(lambda x: x[order], (student, teacher)))
            expected = values[order]
        else:
            changed, _ = run(name, *changes[kind])
            expected = values
        np.testing.assert_allclose(changed, expected, rtol=1e-3, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", ["jsd", "dkd", "attention_transfer", "correlation_congruence"])
def test_gradients_are_those_of_the_values(name):
    row = TABLE[name]
    student, teacher = pair(row)
    loss = jax.jit(lambda s, t: jnp.mean(row.fn(s, t, **row.extras, **row.options)))
    check_grads(loss, (student, teacher), order=1, modes=("rev",), atol=2e-2, rtol=2e-2, eps=1e-2)


@parametrize(lambda row: row.mismatch)
def test_shape_errors_name_both_shapes(name):
    row = TABLE[name]
    student, teacher = pair(row)
    fewer = each(lambda x: x[:-1], teacher)
    with pytest.raises(ValueError) as error:
        jax.eval_shape(lambda s, t: row.fn(s, t, **row.extras, **row.options), student, fewer)
    if name not in ("topk bucket", "topk renormalize"):  # built in the table's own lambda
        shapes_named = [str(x.shape) for x in jax.tree.leaves((student, fewer))]
        assert sum(shape in str(error.value) for shape in shapes_named) >= 2 or "fsp" in name
