"""The length of a run, the view of the data, and the optimizer, as a config gives them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax.config import base, knowledge, training
from kd_jax.core import optimizers
from kd_jax.core.prepare import preparation_of
from kd_jax.data.arrays import from_arrays
from kd_jax.train import jobs
from kd_jax.train.roles import teacher_role
from kd_jax.train.scheme import make_scheme, num_steps
from kd_jax.types import Role

KEY = jax.random.key(0)
CLASSES = 4


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
    labels = np.where(np.arange(40) % 5 == 4, -1, np.arange(40) % CLASSES)
    return from_arrays(train=(images, labels), test=(images[:8], np.arange(8) % CLASSES), names=CLASSES).train


@pytest.fixture(scope="module")
def batch(source):
    rows = [source.example(i) for i in range(10)]
    batch = {k: jnp.stack([r[k] for r in rows]) for k in ("image", "label")}
    numbers = {"index": jnp.arange(10, dtype=jnp.int32), "view": jnp.zeros(10, jnp.int32)}
    return batch | numbers | {"labelled": batch["label"] >= 0}


def prepared(source, batch, augment, view="same", train=True):
    views = {"teacher_image": ()} if view == "clean" else {}
    prepare = preparation_of({"augment": augment, "views": views}, source)
    return jax.jit(functools.partial(prepare, train=train))(batch, KEY)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"steps": 7, "epochs": 0.0}, 7),
        ({"steps": 0, "epochs": 2.0}, 13),  # 200 examples in batches of 16, rounded up
        ({"steps": 0, "epochs": 0.01}, 1),
    ],
)
def test_num_steps(config, expected):
    assert num_steps({**config, "batch_size": 16}, 100) == expected


@pytest.mark.parametrize(
    ("steps", "per_dispatch", "every"),
    [(1000, 1, 100), (1001, 1, 101), (7, 1, 1), (1, 1, 1), (1000, 8, 104), (12, 5, 5), (4, 8, 8)],
)
def test_ten_evaluations_a_training_unless_the_config_says_how_many(steps, per_dispatch, every):
    config = base()
    config.steps_per_dispatch = per_dispatch
    made = functools.partial(jobs.make_settings, config, config.train, steps, 0, None, {})
    assert made().eval_every == every and -(-steps // every) <= 10
    config.eval_every = 3
    assert made().eval_every == 3


@pytest.mark.parametrize(("steps", "epochs"), [(0, 0.0), (5, 1.0), (-5, 0.0), (0, -1.0)])
def test_the_length_is_given_once(steps, epochs):
    with pytest.raises(ValueError, match=f"either train.steps or train.epochs, not steps={steps}, epochs={epochs}"):
        num_steps({"steps": steps, "epochs": epochs, "batch_size": 16}, 100)


def test_without_mixing_the_target_is_the_label(source, batch):
    for augment, train in (((), True), (("flip",), True), (("mixup",), False)):
        shown = prepared(source, batch, augment, train=train)
        np.testing.assert_array_equal(shown["target"], batch["label"])
        assert shown["image"].dtype == jnp.float32 and "teacher_image" not in shown


@pytest.mark.parametrize("op", ["mixup", "cutmix"])
def test_mixing_makes_soft_targets(source, batch, op):
    shown = prepared(source, batch, ({"name": op, "alpha": 1.0},))
    labelled = np.asarray(batch["labelled"])
    target = np.asarray(shown["target"])
    assert target.shape == (10, CLASSES)
    np.testing.assert_allclose(target[labelled].sum(-1), 1.0, rtol=1e-6)
    assert not target[~labelled].any()  # no label, no mass
    weight, other = np.asarray(shown["mix_weight"]), np.asarray(shown["mix_label"])
    for i in np.flatnonzero(labelled):
        expected = weight[i] * np.eye(CLASSES)[int(batch["label"][i])] + (1 - weight[i]) * np.eye(CLASSES)[other[i]]
        np.testing.assert_allclose(target[i], expected, rtol=1e-5)
    assert 0 < weight[0] < 1 and (other != np.asarray(batch["label"])).any()


def test_a_teacher_with_a_clean_view_sees_the_image_as_it_is(source, batch):
    shown = prepared(source, batch, ("flip", {"name": "cutout", "size": 3}), view="clean")
    plain = (np.asarray(batch["image"], np.float32) / 255 - source.mean) / source.std
    np.testing.assert_allclose(shown["teacher_image"], plain, rtol=1e-5, atol=1e-5)
    assert (np.abs(np.asarray(shown["image"]) - plain) > 1e-3).any(axis=(1, 2, 3)).all()
    same = prepared(source, batch, (), view="clean")
    np.testing.assert_array_equal(same["teacher_image"], same["image"])


def test_a_clean_view_and_mixing_exclude_each_other(source, batch):
    with pytest.raises(ValueError, match="mixup and cutmix show two images at once.*teacher_image"):
        prepared(source, batch, ("mixup",), view="clean")
    prepared(source, batch, ("mixup",), view="clean", train=False)  # evaluation mixes nothing


def scheme(source, **teacher):
    config = base()
    config.train.steps = 3
    config.teacher.update(teacher)
    models = {
        r: jobs.make_model({"name": "models.vision.cnn.cnn", "kwargs": {"widths": (2, 2, 2)}}, source) for r in "st"
    }
    roles = {"student": Role(models["s"], group="student"), "teacher": teacher_role(models["t"], config.teacher)}
    terms = {"kd": knowledge.compose("response")["kd"]}
    return make_scheme(config, config.train, terms, roles, {"train": source})


def test_the_view_decides_what_the_teacher_is_fed(source):
    for view, path in (("same", "batch.image"), ("clean", "batch.teacher_image")):
        calls = {c.role: c.inputs for c in scheme(source, view=view).stages[0].phases[0].forward}
        assert calls == {"student": ("batch.image",), "teacher": (path,)}
    with pytest.raises(ValueError, match="'same' or 'clean', not 'claen'"):
        scheme(source, view="claen")


def optimizer(**changes):
    return training(optimizer=changes).optimizer


def rates(steps, total, **changes):
    schedule = optimizers.make_schedule(optimizer(learning_rate=1.0, **changes), total)
    return np.asarray(jax.jit(jax.vmap(lambda s: jnp.asarray(schedule(s), jnp.float32)))(jnp.array(steps)))


def test_learning_rate_in_steps():
    """x0.1 at 150, 180 and 210 of 240 epochs, here of 10 steps each; a warm-up leaves the boundaries in place."""
    at, expected = [0, 1499, 1500, 1799, 1800, 2100, 2399], [1.0, 1.0, 0.1, 0.1, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(rates(at, 2400, schedule="step"), expected, rtol=1e-5)
    warm = rates([0, 120, 240, *at[1:]], 2400, schedule="step", warmup=0.1)
    np.testing.assert_allclose(warm, [0.0, 0.5, 1.0, *expected[1:]], rtol=1e-5)
    other = rates([3, 4, 8, 9], 10, schedule="step", boundaries=(0.4, 0.9), decay=0.5)
    np.testing.assert_allclose(other, [1.0, 0.5, 0.5, 0.25])


def test_boundaries_that_fall_on_one_step_all_count():
    np.testing.assert_allclose(rates([2, 3, 4], 5, schedule="step"), [1.0, 0.1, 0.001], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("constant", [1, 1, 1]), ("linear", [1, 0.75, 0]), ("cosine", [1, 0.5 + 0.125**0.5, 0])],
)
def test_other_schedules_end_with_the_run(name, expected):
    np.testing.assert_allclose(rates([0, 25, 100], 100, schedule=name), expected, atol=1e-6)
    warm = rates([0, 10, 20, 40, 100], 100, schedule=name, warmup=0.2)
    np.testing.assert_allclose(warm, [0, 0.5, *expected], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosin"}, "optimizer.schedule 'cosin' is unknown. Did you mean 'cosine'"),
        ({"warmup": 1.0}, r"warmup is 1.0; it must be in \[0, 1\)"),
        ({"warmup": -0.1}, r"warmup is -0.1; it must be in \[0, 1\)"),
        ({"name": "adamm"}, "optimizer.name 'adamm' is not in optax. Did you mean .*'adam'"),
        ({"name": "losses"}, "'losses' is not in optax"),
        ({"name": "adam", "kwargs": {"momentum": 0.9}}, "'optax.adam' takes no argument 'momentum'"),
        ({"kwargs": {"momentun": 0.9}}, "takes no argument 'momentun'. Did you mean 'momentum'"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(changes, message):
    with pytest.raises(ValueError, match=message):
        config = optimizer().to_dict() | changes
        optimizers.make_optimizer(config, 10)


NORM = {"scale": jnp.full(2, 5.0), "bias": jnp.full(2, 7.0)}
PARAMS = {"student": {"conv": {"kernel": jnp.full(2, 3.0)}, "norm": NORM}}


def make(total, **changes):
    return optimizers.make_optimizer(optimizer(kwargs={"momentum": 0.0}, **changes), total)


def first_update(gradient, **changes):
    tx = make(10, learning_rate=1.0, schedule="constant", **changes)
    updates, _ = tx.update(jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS), tx.init(PARAMS), PARAMS)
    return updates["student"]


def test_weight_decay_is_added_to_the_gradient_of_parameters_that_match():
    update = first_update(1.0, weight_decay=0.1, decay_pattern="kernel$|norm/scale")
    np.testing.assert_allclose(update["conv"]["kernel"], -1.3, rtol=1e-6)
    np.testing.assert_allclose(update["norm"]["scale"], -1.5, rtol=1e-6)
    np.testing.assert_allclose(update["norm"]["bias"], -1.0, rtol=1e-6)
    np.testing.assert_allclose(first_update(0.0, weight_decay=0.1)["norm"]["bias"], -0.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kwargs", "decay"),
    [
        ("sgd", {"momentum": 0.9}, 5e-4),
        *((name, {}, 5e-4) for name in ("adam", "adafactor", "rmsprop", "yogi")),
        *((name, {"weight_decay": 5e-4}, 0.0) for name in ("adamw", "lion", "lamb", "nadamw")),
    ],
)
def test_every_optimizer_is_a_name_alone(name, kwargs, decay):
    """With the defaults of optax, sgd's momentum and one weight decay."""
    fields = optimizer(name=name)
    whole = optimizers.with_defaults(fields)
    assert whole["kwargs"] == kwargs and whole["weight_decay"] == decay
    assert optimizers.with_defaults(whole) == whole
    tx = optimizers.make_optimizer(fields, 10)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))


def test_decoupled_decay_is_of_the_parameters_that_match_too():
    changes = dict(name="adamw", learning_rate=1.0, schedule="constant", weight_decay=0.1)
    tx = optimizers.make_optimizer(optimizer(**changes, decay_pattern="kernel$"), 10)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates = tx.update(zero, tx.init(PARAMS), PARAMS)[0]["student"]
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.3, rtol=1e-6)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0.0)


def test_what_kwargs_say_stays():
    whole = optimizers.with_defaults(optimizer(name="adamw", kwargs={"weight_decay": 0.01, "b1": 0.5}))
    assert whole["kwargs"] == {"weight_decay": 0.01, "b1": 0.5} and whole["weight_decay"] == 0.0
    assert optimizers.with_defaults(optimizer(kwargs={"momentum": 0.0}))["kwargs"] == {"momentum": 0.0}


def test_the_gradient_is_clipped_before_the_decay():
    update = first_update(10.0, weight_decay=0.1, clip_norm=1.0)
    share = 1 / 6**0.5  # six equal entries of a unit vector
    np.testing.assert_allclose(update["conv"]["kernel"], -(share + 0.3), rtol=1e-5)


def test_the_schedule_reaches_the_optimizer():
    tx = make(4, learning_rate=0.5, schedule="linear", weight_decay=0.0)
    state, params, moved = tx.init(PARAMS), PARAMS, []
    for _ in range(5):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append(float(updates["student"]["norm"]["bias"][0]))
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved, [-0.5, -0.375, -0.25, -0.125, 0.0], atol=1e-7)
