"""One table, a row for each loss; every test below runs on every row to which it applies.

A new loss needs a row here and a golden number in test_golden_<family>.py.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kd_jax.losses import (
    adversarial,
    attention,
    dense,
    ensemble,
    feature,
    relation,
    representation,
    response,
    task,
)

B, C = 4, 5
BIG = 1e4  # a gradient above this on a degenerate input is the 1 / eps of a norm that should not be there


@dataclasses.dataclass(frozen=True)
class Row:
    """`fn(student, teacher, **extras, **options)`; extras have one entry an example, options are traced floats."""

    fn: Callable[..., jax.Array]
    student: Any  # a shape, or a tuple of shapes
    teacher: Any = None  # as the student where None
    extras: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    options: dict[str, float] = dataclasses.field(default_factory=dict)
    equal: str = "zero"  # at student == teacher: "zero" (value and gradient), "minimum" (gradient), "anything"
    positive: bool = True
    where: bool = False
    logits: bool = False
    invariant: tuple[str, ...] = ()
    teacher_gradient: bool = True
    mismatch: bool = True  # a teacher with another batch size raises ValueError that names both shapes

    @property
    def twins(self) -> bool:
        return self.teacher is None


def logits_row(fn, *invariant, options=None, shape=(B, C), **kwargs) -> Row:
    options = {"temperature": 2.0} if options is None else options
    return Row(fn, shape, options=options, logits=True, invariant=("shift_rows", *invariant), **kwargs)


LABELS = {"labels": np.array([0, 2, -1, 4], np.int32)}
MAP, SMALL = (B, 4, 4, 3), (B, 3, 2, 5)
NEGATIVES = np.array([[4, 5], [6, 7], [8, 9], [0, 9]], np.int32)
BANK = np.random.default_rng(3).normal(size=(2, 10, 6)).astype(np.float32)
BANK /= np.linalg.norm(BANK, axis=-1, keepdims=True)
TOKENS = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
TOP = {"teacher_ids": np.array([[0, 2], [1, 4], [3, 2], [4, 0]], np.int32)}


def crd(s, t, **kwargs):
    banks = dict(student_bank=BANK[0], teacher_bank=BANK[1], student_constant=30.0, teacher_constant=40.0)
    return representation.contrastive_representation_loss(s, t, **banks, **kwargs)


def topk(tail):
    def fn(s, t, teacher_ids, **options):
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(t, axis=-1), teacher_ids, axis=-1)
        return response.topk_kd_loss(s, log_probs, teacher_ids, tail=tail, **options)

    return fn


def two_teachers(fn):
    return lambda s, t, **kwargs: fn(s, t, 0.5 * t + 0.1, **kwargs)


def standardized_kd(s, t, **options):
    return response.kd_loss(response.standardize_logits(s), response.standardize_logits(t), **options)


TABLE = {
    "kd": logits_row(response.kd_loss, "permute_classes"),
    "kd positions": logits_row(response.kd_loss, shape=(2, 3, C)),
    "soft_cross_entropy": logits_row(response.soft_cross_entropy_loss, equal="minimum"),
    "logit_mse": Row(response.logit_mse_loss, (B, C), invariant=("permute_classes",)),
    "reverse_kl": logits_row(response.reverse_kl_loss, "permute_classes"),
    "jsd": logits_row(response.jsd_loss, options={"beta": 0.3, "temperature": 2.0}),
    "jsd 0": logits_row(response.jsd_loss, options={"beta": 0.0, "temperature": 2.0}),
    "jsd 1": logits_row(response.jsd_loss, options={"beta": 1.0, "temperature": 2.0}),
    "skew_kl": logits_row(response.skew_kl_loss, options={"alpha": 0.1, "temperature": 2.0}),
    "skew_reverse_kl": logits_row(response.skew_reverse_kl_loss, options={"alpha": 0.1, "temperature": 2.0}),
    "adaptive_kl": logits_row(response.adaptive_kl_loss, "permute_classes", options={"mu": 0.5}),
    "total_variation": logits_row(response.total_variation_loss, "permute_classes"),
    "dkd": logits_row(response.dkd_loss, extras=LABELS, options={"alpha": 1.0, "beta": 8.0, "temperature": 2.0}),
    "nkd": logits_row(response.nkd_loss, extras=LABELS, options={"gamma": 1.5, "temperature": 2.0}, equal="anything"),
    "wsld": logits_row(response.wsld_loss, extras=LABELS, equal="minimum"),
    "dist": logits_row(
        response.dist_loss, options={"beta": 1.0, "gamma": 2.0, "temperature": 2.0}, where=True, equal="almost"
    ),
    "standardized kd": logits_row(standardized_kd, "scale_rows"),
    "ttm": logits_row(response.ttm_loss, options={"gamma": 0.5}, equal="anything"),
    "wttm": logits_row(response.wttm_loss, options={"gamma": 0.5}, equal="anything"),
    "multi_level": logits_row(
        lambda s, t, temperature, **kw: response.multi_level_logit_loss(s, t, temperatures=(temperature, 4.0), **kw),
        where=True,
    ),
    "topk bucket": logits_row(topk("bucket"), extras=TOP, options={"temperature": 1.0}),
    "topk renormalize": logits_row(topk("renormalize"), extras=TOP, equal="anything"),
    "uld": logits_row(response.uld_loss, "permute_student"),
    "uld vocabularies": Row(response.uld_loss, (B, C), (B, 7), options={"temperature": 2.0}, logits=True),
    "hint": Row(feature.feature_hint_loss, MAP),
    "feature_sum": Row(feature.feature_sum_loss, MAP),
    "attention_transfer": Row(feature.attention_transfer_loss, MAP, invariant=("scale_rows", "permute_classes")),
    "attention_transfer p": Row(feature.attention_transfer_loss, MAP, options={"p": 1.0}, invariant=("scale_rows",)),
    "attention_transfer uneven": Row(feature.attention_transfer_loss, MAP, SMALL),
    "neuron_selectivity": Row(feature.neuron_selectivity_loss, MAP, invariant=("scale_rows", "permute_classes")),
    "neuron_selectivity uneven": Row(feature.neuron_selectivity_loss, SMALL, MAP),
    "fsp": Row(lambda s, t: feature.fsp_loss(s, t), (MAP, (B, 2, 2, 5))),
    "fsp uneven": Row(lambda s, t: feature.fsp_loss(s, t), (MAP, (B, 3, 3, 2)), ((B, 2, 2, 3), (B, 3, 3, 2))),
    "factor_transfer": Row(feature.factor_transfer_loss, MAP, equal="almost", invariant=("scale_rows",)),
    "variational": Row(
        lambda s, t: feature.variational_information_loss(s, t, jnp.arange(3.0)), MAP, equal="minimum", positive=False
    ),
    "activation_boundary": Row(
        feature.activation_boundary_loss, MAP, options={"margin": 0.7}, equal="anything", teacher_gradient=False
    ),
    "overhaul": Row(lambda s, t: feature.overhaul_loss(s, t, jnp.array([-0.5, -0.2, -0.1])), MAP, equal="anything"),
    "hierarchical_context": Row(feature.hierarchical_context_loss, MAP),
    "class_attention": Row(feature.class_attention_loss, MAP, invariant=("scale_rows",)),
    "class_attention uneven": Row(feature.class_attention_loss, MAP, (B, 3, 5, 3)),
    "inter_channel": Row(feature.inter_channel_loss, MAP, invariant=("scale_rows",)),
    "inter_channel uneven": Row(feature.inter_channel_loss, MAP, (B, 3, 2, 3)),
    "pearson_feature": Row(feature.pearson_feature_loss, MAP, where=True, invariant=("scale_all", "shift_all")),
    "pearson_feature uneven": Row(feature.pearson_feature_loss, MAP, (B, 3, 5, 3), where=True),
    "softmax_regression": Row(feature.softmax_regression_loss, (B, C)),
    "relation": Row(
        relation.relation_loss,
        (B, 6),
        options={"distance_weight": 25.0, "angle_weight": 50.0},
        where=True,
        invariant=("scale_all", "shift_all", "permute_batch"),
    ),
    "distance_relation": Row(relation.distance_relation_loss, (B, 6), (B, 3), where=True, invariant=("permute_batch",)),
    "angle_relation": Row(relation.angle_relation_loss, (B, 6), (B, 3), where=True, invariant=("permute_batch",)),
    "similarity_preserving": Row(
        relation.similarity_preserving_loss, MAP, where=True, invariant=("scale_all", "permute_batch")
    ),
    "similarity_preserving uneven": Row(relation.similarity_preserving_loss, MAP, SMALL, where=True),
    "correlation_congruence": Row(
        relation.correlation_congruence_loss,
        (B, 6),
        options={"gamma": 0.4},
        where=True,
        invariant=("scale_rows", "permute_batch"),
    ),
    "probabilistic_transfer": Row(
        relation.probabilistic_transfer_loss, (B, 6), where=True, invariant=("scale_rows", "permute_batch")
    ),
    "instance_relation_graph": Row(
        relation.instance_relation_graph_loss,
        (MAP, (B, 2, 2, 6), (B, 4), (B, C)),
        options={"vertex_weight": 0.1, "edge_weight": 5.0, "transformation_weight": 5.0},
        where=True,
        invariant=("permute_batch",),
    ),
    "info_nce": Row(
        representation.info_nce_loss,
        (B, 6),
        options={"temperature": 0.5},
        where=True,
        equal="anything",
        invariant=("scale_rows", "permute_batch"),
    ),
    "contrastive_representation": Row(
        crd,
        (B, 6),
        extras={"index": np.arange(4, dtype=np.int32), "negatives": NEGATIVES},
        options={"temperature": 0.5},
        where=True,
        equal="anything",
        invariant=("scale_rows",),
    ),
    "similarity_transfer": Row(
        representation.similarity_transfer_loss,
        (B, 3, 6),
        (B, 3, 4),
        options={"temperature": 0.5, "wrong_ratio": 0.75},
        where=True,
    ),
    "similarity_transfer twins": Row(
        representation.similarity_transfer_loss, (B, 3, 6), options={"temperature": 0.5}, where=True
    ),
    "attention_score": Row(attention.attention_score_loss, (B, 2, 3, 3)),
    "attention_score masked": Row(attention.attention_score_loss, (B, 2, 3, 3), extras={"mask": TOKENS}),
    "hidden_state": Row(attention.hidden_state_loss, (B, 3, 6)),
    "hidden_state masked": Row(attention.hidden_state_loss, (B, 3, 6), extras={"mask": TOKENS}),
    "cosine_embedding": Row(attention.cosine_embedding_loss, (B, 6), where=True, invariant=("scale_rows",)),
    "cosine_embedding masked": Row(
        attention.cosine_embedding_loss, (B, 3, 6), extras={"mask": TOKENS}, where=True, invariant=("scale_rows",)
    ),
    "attention_relation": Row(attention.attention_relation_loss, (B, 2, 3, 3), extras={"mask": TOKENS}),
    "value_relation": Row(attention.value_relation_loss, (B, 2, 3, 6), (B, 2, 3, 4), extras={"mask": TOKENS}),
    "self_relation": Row(
        functools.partial(attention.self_relation_loss, relation_heads=2), (B, 3, 6), extras={"mask": TOKENS}
    ),
    "self_relation uneven": Row(
        functools.partial(attention.self_relation_loss, relation_heads=2), (B, 3, 6), (B, 3, 4)
    ),
    "patient": Row(attention.patient_loss, (B, 2, 6), invariant=("scale_rows",)),
    "channel_wise": Row(dense.channel_wise_loss, MAP, options={"temperature": 2.0}, invariant=("shift_rows",)),
    "pairwise_affinity": Row(dense.pairwise_affinity_loss, (B, 5, 4, 3), (B, 5, 4, 2), invariant=("scale_rows",)),
    "pairwise_affinity twins": Row(dense.pairwise_affinity_loss, (B, 5, 4, 3)),
    "pixel_wise": Row(dense.pixel_wise_loss, MAP, options={"temperature": 2.0}, equal="minimum"),
    "localization": logits_row(dense.localization_loss, shape=(2, 4, C)),
    "discriminator": Row(adversarial.discriminator_loss, (B, 3), equal="anything"),
    "least_squares_discriminator": Row(adversarial.least_squares_discriminator_loss, (B, 3), equal="anything"),
    "hinge_discriminator": Row(adversarial.hinge_discriminator_loss, (B,), equal="anything"),
    "fool": Row(lambda s, t: adversarial.fool_loss(s), (B, 3), equal="anything", mismatch=False),
    "least_squares_fool": Row(
        lambda s, t: adversarial.least_squares_fool_loss(s), (B, 3), equal="anything", mismatch=False
    ),
    "cross_entropy": logits_row(
        lambda s, t, labels, smoothing: task.cross_entropy_loss(s, labels, smoothing=smoothing),
        extras=LABELS,
        options={"smoothing": 0.1},
        equal="anything",
        mismatch=False,
    ),
    "cross_entropy soft": logits_row(
        lambda s, t: task.cross_entropy_loss(s, jax.nn.softmax(t)), options={}, equal="minimum"
    ),
    "mean_squared": Row(task.mean_squared_loss, MAP),
    "binary_cross_entropy": Row(
        lambda s, t: task.binary_cross_entropy_loss(s, jax.nn.sigmoid(t)), (B, 3), equal="minimum"
    ),
    "average_kl": logits_row(two_teachers(ensemble.average_kl_loss), equal="anything"),
    "average_logits": logits_row(two_teachers(ensemble.average_logits_loss), equal="anything"),
    "average_probabilities": logits_row(two_teachers(ensemble.average_probabilities_loss), equal="anything"),
    "entropy_weighted": logits_row(two_teachers(ensemble.entropy_weighted_loss), equal="anything"),
    "confidence_weighted": logits_row(two_teachers(ensemble.confidence_weighted_loss), extras=LABELS, equal="anything"),
}


def parametrize(condition: Callable[[Row], bool] = lambda row: True):
    return pytest.mark.parametrize("name", [name for name, row in TABLE.items() if condition(row)])


def shapes(spec) -> list[tuple[int, ...]]:
    return [spec] if isinstance(spec[0], int) else list(spec)


def draw(spec, seed: int):
    rng = np.random.default_rng(seed)
    arrays = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes(spec))
    return arrays[0] if isinstance(spec[0], int) else arrays


def pair(row: Row):
    return draw(row.student, 1), draw(row.teacher or row.student, 2)


def size(row: Row) -> int:
    return shapes(row.student)[0][0]


def each(fn, tree):
    return jax.tree.map(fn, tree)


def cast(tree, dtype):
    return each(lambda x: x.astype(dtype), tree)


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
    assert values.shape == (shapes(row.student)[0][:-1] if row.logits else (size(row),))
    assert_finite(values, gradients)
    assert np.any(jax.tree.leaves(gradients[0])[0] != 0)
    if row.positive:
        assert np.min(values) >= -1e-6
    for dtype in (jnp.bfloat16, jnp.float16):
        abstract = jax.eval_shape(lambda s, t: row.fn(s, t, **row.extras, **row.options), *cast(pair(row), dtype))
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
    for s, t in ((large(student), large(teacher)), (large(student), -large(student)), (large(student), teacher)):
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
    assert values[1] == 0
    np.testing.assert_allclose(values[mask], alone, rtol=1e-4, atol=1e-6)
    for g, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(alone_gradients), strict=True):
        np.testing.assert_allclose(g[mask], expected, rtol=1e-3, atol=1e-5)
        assert np.all(np.asarray(g)[1] == 0)
    nobody, gradients = run(name, student, teacher, extras=row.extras | {"where": np.zeros(B, bool)})
    assert np.all(nobody == 0)
    assert_finite(nobody, gradients)


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
