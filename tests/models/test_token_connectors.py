"""Tokens and maps that meet: a transformer learns from a convolutional network, and the other way round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax.config import part, supervised, term
from kd_jax.models.token_connectors import layout, map_to_tokens, tokens_to_map, tokens_to_tokens
from kd_jax.models.vision.cnn import cnn
from kd_jax.models.vision.vit import vit


def shape(*sizes):
    return jax.ShapeDtypeStruct((2, *sizes), jnp.float32)


@pytest.mark.parametrize(
    ("builder", "student", "teacher", "options", "wanted"),
    [
        (tokens_to_map, (17, 6), (8, 8, 5), {}, (8, 8, 5)),
        (tokens_to_map, (4 + 5, 6), (2, 2, 5), dict(leading=5), (2, 2, 5)),
        (tokens_to_map, (1 + 6, 6), (4, 6, 5), dict(grid=(2, 3)), (4, 6, 5)),
        (map_to_tokens, (8, 8, 5), (17, 6), {}, (17, 6)),
        (map_to_tokens, (8, 8, 5), (21, 6), dict(leading=5), (21, 6)),
        (map_to_tokens, (8, 8, 5), (17, 6), dict(keep="drop"), (16, 6)),
        (map_to_tokens, (8, 8, 5), (17, 6), dict(keep="class"), (1, 6)),
        (tokens_to_tokens, (17, 6), (5 + 64, 3), dict(leading=(1, 5)), (69, 3)),
        (tokens_to_tokens, (65, 6), (16, 3), {}, (16, 3)),
    ],
)
def test_shapes(builder, student, teacher, options, wanted):
    model, x = builder(shape(*student), shape(*teacher), **options), jnp.ones((2, *student))
    params, stats = model.init(jax.random.key(0), x)
    assert model.apply(params, stats, x, train=True, key=jax.random.key(0))[0].logits.shape == (2, *wanted)


def test_tokens_lie_in_rows_behind_the_leading_ones():
    x = jax.random.normal(jax.random.key(0), (2, 1 + 6, 3))
    model = tokens_to_map(shape(7, 3), shape(2, 3, 3), grid=(2, 3))
    params = {"dense": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    out = model.apply(params, {}, x, train=False, key=jax.random.key(0))[0].logits
    np.testing.assert_allclose(out, x[:, 1:].reshape(2, 2, 3, 3), rtol=1e-6)
    back = map_to_tokens(shape(2, 3, 3), shape(7, 3), grid=(2, 3), keep="drop")
    tokens = back.apply(params, {}, out, train=False, key=jax.random.key(0))[0].logits
    np.testing.assert_allclose(tokens, x[:, 1:], rtol=1e-6)


def test_what_fills_no_grid_is_said():
    assert layout(50, None, None) == (1, (7, 7)) and layout(201, 5, None) == (5, (14, 14))
    for tokens, leading, grid in ((18, 1, None), (17, 0, (4, 4)), (5, None, (3, 2))):
        with pytest.raises(ValueError, match=rf"{tokens} tokens are not .* and a grid of .*: give leading and grid"):
            layout(tokens, leading, grid)
    with pytest.raises(ValueError, match=r"tokens_to_map connects tokens .* got student \(2, 4, 4, 3\)"):
        tokens_to_map(shape(4, 4, 3), shape(4, 4, 3))
    with pytest.raises(ValueError, match="keep is one of drop, class, mean"):
        map_to_tokens(shape(4, 4, 3), shape(5, 3), keep="all")


@pytest.mark.parametrize("way", ["tokens_to_map", "map_to_tokens"])
def test_a_student_learns_across(way, tmp_path):
    networks = vit(10, patch=2, width=8, depth=1, heads=2), cnn(10, widths=(4, 6))
    taps = {"tokens_to_map": ("block0", "stage2"), "map_to_tokens": ("stage2", "block0")}[way]
    student, teacher = networks if way == "tokens_to_map" else networks[::-1]
    config = kd_jax.base()
    config.data.update(dict(name="digits", validation=0.125))
    hint = term(
        "losses.feature.feature_hint_loss",
        (f"student.features:{taps[0]}",),
        (f"teacher.features:{taps[1]}",),
        connector=part(f"models.token_connectors.{way}"),
    )
    config.terms = {**supervised(), "hint": hint}
    config.log_every, config.train.steps, config.teacher.train.steps, config.baseline, config.report = (
        4,
        12,
        2,
        False,
        False,
    )
    results = kd_jax.run(config, tmp_path, student=student, teacher=teacher)
    curve = [point["hint"] for point in results["models"]["student"]["curve"] if "hint" in point]
    assert curve and np.isfinite(curve).all()
