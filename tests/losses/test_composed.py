"""Losses that are made of others: against those others, and against NumPy where they add something of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.losses import composed, feature, representation, response

B, CLASSES, WIDTH = 4, 5, 6
RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, B, CLASSES)).astype(np.float32) * 2
LABELS = np.array([0, 2, -1, 4], np.int32)
KERNELS, BIASES = (RNG.normal(size=size).astype(np.float32) for size in ((2, WIDTH, CLASSES), (2, CLASSES)))
HEADS = [{"kernel": kernel, "bias": bias} for kernel, bias in zip(KERNELS, BIASES, strict=True)]
MAPS = RNG.normal(size=(2, B, 4, 4, WIDTH)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(2, B, WIDTH)).astype(np.float32)
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)


def run(loss, *args, **options):
    """Compiled as a whole: an eager call compiles every operation that is new."""
    return jax.jit(lambda args, options: loss(*args, **options))(args, options)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (composed.dkd_transfer_loss, response.dkd_loss),
        (composed.nkd_transfer_loss, response.nkd_loss),
        (composed.wsld_transfer_loss, response.wsld_loss),
    ],
)
def test_an_example_without_a_label_has_the_teachers_class(mine, theirs):
    filled = np.array([0, 2, T[2].argmax(), 4], np.int32)
    close(run(mine, S, T, LABELS, temperature=3.0), run(theirs, S, T, filled, temperature=3.0))
    assert mine.__name__ == theirs.__name__  # error messages name the loss


def test_standardized_kd():
    def standardized(z):
        return (z - z.mean(-1, keepdims=True)) / z.std(-1, ddof=1, keepdims=True)

    def log_p(z):
        z = standardized(z.astype(np.float64)) / 2.5
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    expected = 2.5**2 * (np.exp(log_p(T)) * (log_p(T) - log_p(S))).sum(-1)
    close(run(composed.standardized_kd_loss, S, T, temperature=2.5), expected)
    close(run(composed.standardized_kd_loss, 3 * S + 1, T, temperature=2.5), expected, rtol=1e-4)


def test_curriculum_trains_the_temperature_against_the_student():
    def plain(raw, student):
        return jnp.mean(response.kd_loss(student, T, temperature=1.0 + 20.0 * jax.nn.sigmoid(raw)))

    def loss(raw, student, strength):
        return jnp.mean(composed.curriculum_kd_loss(student, raw, T, strength=strength))

    raw = jnp.float32(-2.0)
    value, (plain_raw, plain_student) = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(raw, S)
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    assert abs(float(plain_raw)) > 1e-3
    for strength in (1.0, 0.3, 0.0):
        got, (by_raw, by_student) = both(raw, S, strength)
        close(got, value)
        close(by_raw, -strength * plain_raw, rtol=1e-4)
        close(by_student, plain_student, rtol=1e-4)  # the student's own gradient is not reversed


def test_review_sums_the_stages():
    embedding = EMBEDDINGS
    values = run(composed.review_kd_loss, MAPS[0], embedding[0], MAPS[1], embedding[1])
    square = (MAPS[0] - MAPS[1]).astype(np.float64)
    value, weight, total = (square**2).mean((1, 2, 3)), 1.0, 1.0
    for level in (2, 1):  # the map is 4 x 4: level 4 is skipped and halves nothing
        weight /= 2
        total += weight
        pooled = square.reshape(B, level, 4 // level, level, 4 // level, WIDTH).mean((2, 4))
        value = value + weight * (pooled**2).mean((1, 2, 3))
    close(values, value / total + ((embedding[0] - embedding[1]) ** 2).mean(1))
    with pytest.raises(ValueError):
        composed.review_kd_loss(MAPS[0], MAPS[1], MAPS[0])


def test_teacher_head_reads_the_students_embedding():
    (s, t), head = EMBEDDINGS, HEADS[1]
    read = s.astype(np.float64) @ head["kernel"] + head["bias"]
    hint, regression = ((s - t) ** 2).mean(1), ((read - T) ** 2).mean(1)
    for weight in (1.0, 0.25):
        values = run(composed.teacher_head_loss, s, t, T, head=head, logit_weight=weight)
        close(values, hint + weight * regression)


def test_class_attention_comes_from_the_heads():
    def attention(x, head):
        cam = x.astype(np.float64) @ head["kernel"]
        pooled = cam.reshape(B, 2, 2, 2, 2, CLASSES).mean((2, 4))
        return pooled / np.sqrt((pooled**2).sum((1, 2), keepdims=True))

    expected = ((attention(MAPS[0], HEADS[0]) - attention(MAPS[1], HEADS[1])) ** 2).mean((1, 2, 3))

    def total(head):
        values = composed.class_attention_transfer_loss(MAPS[0], head, MAPS[1], HEADS[1])
        return jnp.sum(values), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(HEADS[0])
    close(values, expected)
    assert np.abs(gradient["kernel"]).max() > 1e-3 and not gradient["bias"].any()


def test_overhaul_measures_its_margin_on_the_batch():
    s, t = MAPS.copy()
    t[..., 0] = np.abs(t[..., 0])  # a channel without a negative value
    margin = np.array([t[..., c][t[..., c] < 0].mean() if (t[..., c] < 0).any() else 0.0 for c in range(WIDTH)])
    assert margin[0] == 0 and (margin[1:] < 0).all()
    target = np.maximum(t, margin)
    expected = np.where((s > target) | (target > 0), (s - target) ** 2, 0).sum((1, 2, 3))
    close(run(composed.overhaul_batch_loss, s, t), expected, rtol=1e-4)
    close(run(feature.overhaul_loss, s, t, margin.astype(np.float32)), expected, rtol=1e-4)


def test_the_margin_of_half_precision_is_measured_in_float32():
    """A sum of 2,048 values of -50 overflows float16 and is rounded in bfloat16."""
    t = np.full((8, 16, 16, 1), -50.0)
    t[:, ::2] = -50.5
    for dtype in (jnp.float16, jnp.bfloat16):
        low = jnp.asarray(t, dtype)
        value = run(composed.overhaul_batch_loss, jnp.zeros_like(low), low)
        margin = float(np.mean(np.asarray(low, np.float64)))
        expected = np.maximum(np.asarray(low, np.float64), margin)
        close(value, (expected**2).sum((1, 2, 3)), rtol=1e-5)


EXAMPLES, NEGATIVES = 12, 7
INDEX = np.array([3, 0, 11, 5], np.int32)


def memory_at(step=2, constants=(0.0, 0.0)):
    """The memory's parts and what a loss and an update get at a step."""
    memory = composed.contrastive_memory(EXAMPLES, width=WIDTH, negatives=NEGATIVES, temperature=0.5)
    first = dict(memory.first, student_constant=jnp.float32(constants[0]), teacher_constant=jnp.float32(constants[1]))
    return memory, first, {"batch": {"index": jnp.asarray(INDEX)}, "step": jnp.int32(step)}


compiled_crd = jax.jit(functools.partial(composed.contrastive_memory_loss, negatives=NEGATIVES))
draw = jax.jit(composed.negative_rows, static_argnums=3)
ANY = composed.class_tables(EXAMPLES)  # no labels: negatives come from all rows


def crd(memory, step, student=EMBEDDINGS[0], teacher=EMBEDDINGS[1], **options):
    options |= {"memory": memory, "index": INDEX, "step": jnp.int32(step), "temperature": 0.5}
    return compiled_crd(student, teacher, **options)


def direct(memory, step, **constants):
    rows = draw(jnp.int32(step), INDEX, ANY, NEGATIVES)
    banks = {f"{side}_bank": memory[side] for side in ("student", "teacher")}
    loss = representation.contrastive_representation_loss
    return run(loss, *EMBEDDINGS, index=INDEX, negatives=rows, temperature=0.5, **banks, **constants)


def test_contrastive_memory_is_the_loss_on_the_negatives_of_the_step():
    _, memory, _ = memory_at()
    for step in (0, 2):
        close(crd(memory, step), direct(memory, step))  # no constant is kept yet: that of the batch
    _, filled, _ = memory_at(constants=(30.0, 40.0))
    close(crd(filled, 2), direct(filled, 2, student_constant=30.0, teacher_constant=40.0))


def test_negatives_are_a_function_of_the_step_alone():
    rows = [np.asarray(draw(jnp.int32(step), INDEX, ANY, NEGATIVES)) for step in (2, 2, 3)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()
    np.testing.assert_array_equal(rows[0], composed.negative_rows(jnp.int32(2), INDEX, ANY, NEGATIVES))
    many = np.asarray(draw(jnp.int32(5), np.zeros(100, np.int32), ANY, 50))
    assert many.min() == 0 and many.max() == EXAMPLES - 1
    counts = np.bincount(many.ravel(), minlength=EXAMPLES)
    assert np.abs(counts / counts.mean() - 1).max() < 0.2


def test_negatives_are_of_other_classes():
    labels = np.array([2, 0, 1, 0, 2, 2, -1, 1, 0, 2, -1, 0], np.int32)
    tables = composed.class_tables(EXAMPLES, labels)
    index = np.arange(EXAMPLES, dtype=np.int32)
    rows = np.asarray(draw(jnp.int32(3), index, tables, 500))
    for i, label in enumerate(labels):
        others = np.flatnonzero(labels != label) if label >= 0 else np.arange(EXAMPLES)  # -1: no class
        assert {*rows[i]} == {*others}
        shares = np.bincount(rows[i], minlength=EXAMPLES)[others] / 500 * len(others)
        assert np.abs(shares - 1).max() < 0.5  # each equally often


def test_the_memory_follows_the_batch_and_keeps_its_first_constants():
    memory, first, context = memory_at()
    assert first["student"].shape == first["teacher"].shape == (EXAMPLES, WIDTH)
    edge = (WIDTH / 3) ** -0.5
    assert 0.9 * edge < np.abs(first["student"]).max() <= edge and (first["student"] != first["teacher"]).any()
    inputs = tuple(jnp.asarray(x) for x in EMBEDDINGS)
    update = jax.jit(lambda m, step: memory.update(m, inputs, {**context, "step": step}))
    after = update(first, context["step"])
    for side, x in zip(("student", "teacher"), EMBEDDINGS, strict=True):
        rows = np.asarray(first[side]).copy()
        moved = 0.5 * rows[INDEX] + 0.5 * x / np.linalg.norm(x, axis=1, keepdims=True)
        rows[INDEX] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        close(after[side], rows)
    rows = np.concatenate([INDEX[:, None], draw(context["step"], INDEX, ANY, NEGATIVES)], 1)
    for side, x, other in (("student", EMBEDDINGS[0], "teacher"), ("teacher", EMBEDDINGS[1], "student")):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        scores = np.einsum("id,ikd->ik", unit, np.asarray(first[other])[rows]) / 0.5
        close(after[f"{side}_constant"], EXAMPLES * np.exp(scores).mean(), rtol=1e-4)
    assert update(after, jnp.int32(9))["student_constant"] == after["student_constant"]
    # The loss of the first step is the one with the constants that are kept from it.
    close(crd(first, 2), crd({**first, **{k: v for k, v in after.items() if "constant" in k}}, 2))


def test_masked_rows_leave_the_contrastive_memory_loss():
    _, memory, _ = memory_at()
    where = np.array([True, False, True, True])
    dirty = EMBEDDINGS.copy()
    dirty[:, 1] = np.nan
    values = crd(memory, 2, *dirty, where=where)
    assert values[1] == 0 and np.isfinite(values).all() and (np.asarray(values)[where] > 0).all()


CASES = {  # function of (student, teacher), and the shape of both
    "dkd": (lambda s, t: composed.dkd_transfer_loss(s, t, LABELS), (B, CLASSES)),
    "standardized": (composed.standardized_kd_loss, (B, CLASSES)),
    "curriculum": (lambda s, t: composed.curriculum_kd_loss(s, jnp.zeros(()), t), (B, CLASSES)),
    "review": (lambda s, t: composed.review_kd_loss(s, s.mean((1, 2)), t, t.mean((1, 2))), (B, 4, 4, WIDTH)),
    "srrl": (lambda s, t: composed.teacher_head_loss(s, t, T, head=HEADS[1]), (B, WIDTH)),
    "cat_kd": (lambda s, t: composed.class_attention_transfer_loss(s, HEADS[0], t, HEADS[1]), (B, 4, 4, WIDTH)),
    "overhaul": (composed.overhaul_batch_loss, (B, 4, 4, WIDTH)),
    "crd": (lambda s, t: crd(memory_at()[1], 2, s, t), (B, WIDTH)),
}


@pytest.mark.parametrize("name", CASES)
def test_dtypes_and_dead_inputs(name):
    """bfloat16 in, float32 out, close to the same numbers in float32; gradients stay finite and small at zeros."""
    loss, shape = CASES[name]
    both = jax.jit(jax.value_and_grad(lambda s, t: jnp.sum(loss(s, t)), argnums=(0, 1)))
    s, t = np.random.default_rng(5).normal(size=(2, *shape))
    low = jnp.asarray(s, jnp.bfloat16), jnp.asarray(t, jnp.bfloat16)
    values = jax.eval_shape(loss, *low)
    assert values.dtype == jnp.float32 and values.shape == (B,)
    wide = [np.asarray(x, np.float32) for x in low]
    value, _ = both(*wide)
    close(jnp.sum(run(loss, *low)), value, rtol=1e-2 if name == "review" else 1e-4)  # this case averages in bfloat16
    zero, equal = np.zeros(shape, np.float32), np.full(shape, 0.1, np.float32)
    for pair in ((zero, wide[1]), (wide[0], zero), (zero, zero), (equal, equal), (wide[0], wide[0])):
        value, gradients = both(*pair)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() and np.abs(g).max() < 1e4 for g in gradients)
