import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import NamedSharding, PartitionSpec

from kd_jax.data import augment, image_ops, mixing
from kd_jax.data.augment import prepare

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
RAW = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # gives the stored values back


def batch_of(count: int, size: int = 8, dtype=np.uint8, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(count) < count // 2, np.arange(count) % 5, -1).astype(np.int32)
    return {
        "image": jnp.asarray(rng.integers(1, 256, (count, size, size, 3)).astype(dtype)),
        "label": jnp.asarray(label),
        "labelled": jnp.asarray(label >= 0),
        "index": jnp.asarray(rng.permutation(1000)[:count].astype(np.int32)),
        "view": jnp.zeros(count, jnp.int32),
    }


@functools.cache
def compiled(ops: str):
    return jax.jit(lambda b, k: prepare(b, k, True, **RAW, augment=json.loads(ops)))


def stored(batch, *ops, key=0) -> np.ndarray:
    """The images after `ops`, as uint8."""
    image = compiled(json.dumps(ops))(batch, jax.random.key(key))["image"]
    return np.round(np.asarray(image)).astype(np.uint8)


def test_normalise():
    image = jnp.array([[[[0, 255, 51]]]], jnp.uint8)
    np.testing.assert_allclose(augment.normalise(image, MEAN, STD), [[[[-1, 3, 0.2]]]], rtol=1e-6)
    features = jnp.array([[1.0, 2.0, 3.0]], jnp.bfloat16)
    normalised = augment.normalise(features, MEAN, STD)
    assert normalised.dtype == jnp.float32
    np.testing.assert_allclose(normalised, [[1, 7, 3]], rtol=1e-6)


def test_evaluation_only_normalises():
    batch = batch_of(4)
    prepared = prepare(batch, jax.random.key(0), False, mean=MEAN, std=STD, augment=("flip", "mixup"))
    np.testing.assert_array_equal(prepared["image"], augment.normalise(batch["image"], MEAN, STD))
    assert prepared.keys() == batch.keys()


OPS = (
    {"name": "pad_crop", "padding": 2},
    "flip",
    {"name": "rand_augment", "magnitude": 9},
    {"name": "cutout", "size": 3},
)


def test_one_view_of_an_example_is_one_picture():
    batch = batch_of(16)
    first = stored(batch, *OPS)
    order = np.random.default_rng(1).permutation(16)[:16]
    np.testing.assert_array_equal(stored({k: v[order] for k, v in batch.items()}, *OPS), first[order])
    again = stored(batch | {"view": batch["view"] + 1}, *OPS)
    assert all((again[i] != first[i]).any() for i in range(16))
    assert (stored(batch, *OPS, key=1) != first).any()


def test_pad_crop_reaches_every_offset():
    batch = batch_of(256, size=4)
    images, cropped = np.asarray(batch["image"]), stored(batch, {"name": "pad_crop", "padding": 1})
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    offsets = [(i, j) for i in range(3) for j in range(3)]
    hits = np.array([[(padded[n, i : i + 4, j : j + 4] == cropped[n]).all() for i, j in offsets] for n in range(256)])
    np.testing.assert_array_equal(hits.sum(1), 1)
    assert hits.sum(0).min() > 10


def test_flip():
    batch = batch_of(256, size=4)
    images, result = np.asarray(batch["image"]), stored(batch, "flip")
    flipped = (result == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(flipped, ~(result == images).all((1, 2, 3)))
    assert 96 < flipped.sum() < 160
    floats = prepare(
        batch_of(4, dtype=np.float32), jax.random.key(0), True, mean=(0,) * 3, std=(1,) * 3, augment=["flip"]
    )
    assert floats["image"].dtype == jnp.float32


def test_cutout_hides_one_clipped_square():
    batch = batch_of(64)
    hidden = (stored(batch, {"name": "cutout", "size": 4}) == 0).all(-1)
    for mask in hidden:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns) and 2 <= len(rows) <= 4 and 2 <= len(columns) <= 4
        assert len(rows) == np.ptp(rows) + 1
    assert hidden.any(0).all() and hidden.sum((1, 2)).max() == 16
    # what is hidden has the mean colour: 0 after normalisation
    cut = {"name": "cutout", "size": 4}
    step = jax.jit(lambda b: prepare(b, jax.random.key(0), True, mean=MEAN, std=STD, augment=(cut,)))
    assert (np.asarray(step(batch)["image"])[hidden] == 0).all()


def test_random_erasing_fills_one_box_with_noise_in_a_quarter_of_the_cases():
    count, side = 2000, 16
    images = jnp.zeros((count, side, side, 3))
    keys = jax.random.split(jax.random.key(0), count)
    erased = np.asarray(jax.vmap(image_ops.random_erasing)(keys, images) != 0).all(-1)
    assert erased.any((1, 2)).mean() == pytest.approx(0.25, abs=0.03)
    boxes = [np.nonzero(one) for one in erased if one.any()]
    sides = np.array([[np.ptp(rows) + 1, np.ptp(columns) + 1] for rows, columns in boxes])
    assert all(len(rows) == height * width for (rows, _), (height, width) in zip(boxes, sides, strict=True))
    shares = sides.prod(1) / side**2
    assert 0.01 < shares.min() < 0.05 and 0.25 < shares.max() < 0.38  # of 2 to 33 %, in whole pixels
    assert shares.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    always = np.asarray(jax.vmap(lambda k, x: image_ops.random_erasing(k, x, 1.0))(keys, images))
    assert (always != 0).any((1, 2, 3)).all()
    noise = always[always != 0]
    assert noise.mean() == pytest.approx(0, abs=0.02) and noise.std() == pytest.approx(1, abs=0.02)


def test_rand_augment_of_no_strength_is_the_image():
    batch = batch_of(32)
    np.testing.assert_array_equal(stored(batch, {"name": "rand_augment", "magnitude": 0}), batch["image"])


def test_rand_augment_draws_every_operation(monkeypatch):
    """Each image is one of the ten results, computed here with numpy; and each of the ten occurs."""
    batch = batch_of(128, size=12)
    results = stored(batch, {"name": "rand_augment", "num_ops": 1, "magnitude": 10})
    drawn = set()
    for image, result in zip(np.asarray(batch["image"]).astype(np.float64), results, strict=True):
        choices = expected(image)
        hits = [name for name, value in choices.items() if np.mean(np.abs(value - result) <= 1) > 0.97]
        assert hits, "no operation gives this result"
        drawn.update(hits)
    assert {name.rstrip("+-") for name in drawn} == {*image_ops.COLOUR_OPS, *image_ops.WARP_OPS}


def expected(image: np.ndarray) -> dict[str, np.ndarray]:
    out = {"identity": image, "solarize": 255 - image, "posterize": image // 16 * 16}
    angle, side = np.radians(30), 0.45 * len(image)
    for sign, s in (("+", 1), ("-", -1)):
        cos, sin = np.cos(angle), s * np.sin(angle)
        mean = image.mean()
        out["brightness" + sign] = np.clip(image * (1 + 0.9 * s), 0, 255)
        out["contrast" + sign] = np.clip(mean + (image - mean) * (1 + 0.9 * s), 0, 255)
        out["translate_x" + sign] = warp(image, np.eye(2), [0, s * side])
        out["translate_y" + sign] = warp(image, np.eye(2), [s * side, 0])
        out["rotate" + sign] = warp(image, [[cos, sin], [-sin, cos]], [0, 0])
        out["shear_x" + sign] = warp(image, [[1, 0], [0.3 * s, 1]], [0, 0])
        out["shear_y" + sign] = warp(image, [[1, 0.3 * s], [0, 1]], [0, 0])
    return out


def warp(image: np.ndarray, matrix, move) -> np.ndarray:
    centre = (np.array(image.shape[:2]) - 1) / 2
    full = np.eye(3)
    full[:2, :2] = matrix
    offset = np.append(centre - np.asarray(matrix) @ centre + np.asarray(move), 0)
    return scipy.ndimage.affine_transform(image, full, offset, order=0, mode="grid-constant")


def test_mixup():
    batch = batch_of(16)
    mix = {"name": "mixup", "alpha": 1.0}
    step = jax.jit(lambda b: prepare(b, jax.random.key(0), True, mean=MEAN, std=STD, augment=(mix,)))
    mixed = step(batch)
    weight = np.asarray(mixed["mix_weight"])
    assert weight.shape == (16,) and weight.dtype == np.float32 and (weight == weight[0]).all() and 0 < weight[0] < 1
    assert mixed["mix_label"].dtype == jnp.int32
    clean = np.asarray(augment.normalise(batch["image"], MEAN, STD))
    partners = []
    for i in range(16):
        errors = [
            np.abs(weight[0] * clean[i] + (1 - weight[0]) * clean[j] - mixed["image"][i]).max() for j in range(16)
        ]
        partners.append(int(np.argmin(errors)))
        assert min(errors) < 1e-5
    assert sorted(partners) == list(range(16)) and partners != list(range(16))
    np.testing.assert_array_equal(mixed["mix_label"], np.asarray(batch["label"])[partners])
    np.testing.assert_array_equal(np.asarray(batch["labelled"])[partners], batch["labelled"])
    np.testing.assert_array_equal(mixed["label"], batch["label"])
    assert step(batch | {"view": batch["view"] + 1})["mix_weight"][0] != weight[0]


def test_mixup_of_features():
    batch = batch_of(8) | {"image": jnp.arange(24.0).reshape(8, 3)}
    shapes = jax.eval_shape(lambda b: prepare(b, jax.random.key(0), True, **RAW, augment=("mixup",)), batch)
    assert shapes["image"].shape == (8, 3)


def test_cutmix_weight_is_the_area_that_is_left():
    step = jax.jit(lambda b: prepare(b, jax.random.key(0), True, mean=MEAN, std=STD, augment=("cutmix",)))
    for seed in range(8):
        batch = batch_of(16, seed=seed)
        mixed = step(batch)
        clean = np.asarray(augment.normalise(batch["image"], MEAN, STD))
        untouched = (np.abs(np.asarray(mixed["image"]) - clean) < 1e-4).all(-1)
        moved = ~untouched.all(0)
        np.testing.assert_allclose(mixed["mix_weight"], 1 - moved.mean(), atol=0.02)
        if moved.any():
            rows, columns = np.flatnonzero(moved.any(1)), np.flatnonzero(moved.any(0))
            assert moved.sum() == len(rows) * len(columns)


def test_mixup_or_cutmix_is_one_of_the_two_in_each_step():
    batch = batch_of(16) | {"image": jnp.asarray(np.random.default_rng(0).normal(size=(16, 8, 8, 3)), jnp.float32)}
    either = jax.jit(mixing.mixup_or_cutmix, static_argnames="cutmix_share")
    ops = {"mixup": (jax.jit(mixing.mixup), 0.8), "cutmix": (jax.jit(mixing.cutmix), 1.0)}
    drawn = []
    for seed in range(40):
        key = jax.random.key(seed)
        image, inner = either(key, batch)["image"], jax.random.split(key)[1]
        drawn += [
            n for n, (op, alpha) in ops.items() if np.allclose(image, op(inner, batch, alpha)["image"], atol=1e-5)
        ]
    assert len(drawn) == 40 and 10 < drawn.count("cutmix") < 30
    for share, name in ((0.0, "mixup"), (1.0, "cutmix")):
        op, alpha = ops[name]
        np.testing.assert_allclose(
            either(key, batch, cutmix_share=share)["image"], op(inner, batch, alpha)["image"], atol=1e-5
        )


def test_eight_devices_give_the_same_pictures(rows_over):
    batch, key = batch_of(16), jax.random.key(0)
    ops = ("flip", {"name": "cutout", "size": 3}, "mixup")
    step = jax.jit(lambda b, k: prepare(b, k, True, mean=MEAN, std=STD, augment=ops))
    sharding = rows_over(8)
    many = step(jax.device_put(batch, sharding), jax.device_put(key, NamedSharding(sharding.mesh, PartitionSpec())))
    one = step(batch, key)
    for name in one:  # which multiply-adds are fused differs with the shape, so floats differ in their last bit
        np.testing.assert_allclose(one[name], many[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_users_own_op(monkeypatch):
    module = types.ModuleType("their_ops")
    module.invert = lambda key, image, top=255: jnp.uint8(top) - image
    monkeypatch.setitem(sys.modules, "their_ops", module)
    batch = batch_of(2)
    np.testing.assert_array_equal(stored(batch, "their_ops:invert"), 255 - np.asarray(batch["image"]))


def test_bad_ops():
    batch, key = batch_of(4), jax.random.key(0)

    def run(*ops, **change):
        return prepare(batch | change, key, True, mean=MEAN, std=STD, augment=ops)

    with pytest.raises(ValueError, match="no augmentation 'pad_corp'. Did you mean 'pad_crop'"):
        run("pad_corp")
    with pytest.raises(ValueError, match="no augmentation None"):
        run({"padding": 2})
    with pytest.raises(ValueError, match="'their_missing:op': no module"):
        run("their_missing:op")
    with pytest.raises(ValueError, match="no argument 'paddding'. Did you mean 'padding'"):
        run({"name": "pad_crop", "paddding": 2})
    with pytest.raises(ValueError, match="only one of mixup, cutmix"):
        run("mixup", "cutmix")
    for name in ("flip", "cutmix"):
        with pytest.raises(ValueError, match=f"{name} is for images"):
            run(name, image=jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="needs uint8"):
        run("rand_augment", image=jnp.zeros((4, 8, 8, 3)))
