"""Steps of a chain on networks alone: cut agrees with masked, folded with plain, packed with rounded."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.compress import channels, folding, lowrank, packed, rounding
from kd_jax.compress.plan import network_of
from kd_jax.compress.units import Gated, magnitudes, masks, ones, strongest
from kd_jax.models.adapters import LinenModel
from kd_jax.models.described import describe, rebuild
from kd_jax.models.quantised import pack, rounded_params
from kd_jax.models.vision.cnn import CNN
from kd_jax.models.vision.resnet import ResNet

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
NETWORKS = {
    "joined stem": ResNet(4, blocks=(2, 1), widths=(4, 8), stem_width=4),
    "stem of its own": ResNet(4, blocks=(1, 1), widths=(8, 8), stem_width=4),
    "strided first stage": ResNet(4, blocks=(1, 1), widths=(4, 8), stem_width=4, first_stride=2),
    "cnn": CNN(4, widths=(4, 6)),
    "cnn with a hidden layer": CNN(4, widths=(4, 6), hidden=6),
}


def trained(module: nn.Module) -> tuple[LinenModel, dict, dict]:
    """A network whose norms have averages and scales that matter."""
    model = LinenModel(module)
    params, stats = jax.jit(model.init)(jax.random.key(0), IMAGES)
    rng = np.random.default_rng(1)

    def moved(path, x):
        name = path[-1].key
        shift = {"mean": (-0.5, 0.5), "var": (0.5, 2.0), "scale": (0.5, 2.0), "bias": (-0.5, 0.5)}.get(name)
        return x if shift is None else jnp.asarray(rng.uniform(*shift, x.shape), x.dtype)

    return model, *jax.tree_util.tree_map_with_path(moved, (params, stats))


def logits(model, params, stats, *more):
    return jax.jit(lambda p, s, *x: model.apply(p, s, *x, train=False, key=jax.random.key(0))[0].logits)(
        params, stats, IMAGES, *more
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sliced_network_computes_what_the_masked_one_does(name):
    model, params, stats = trained(NETWORKS[name])
    smaller = channels.prune(network_of(model, (IMAGES,)), 0.5)
    scores = {unit.name: magnitudes(params, unit) for unit in smaller.units}
    sliced = smaller.transform(params, stats, scores)
    shapes = jax.eval_shape(smaller.model.init, jax.random.key(0), IMAGES)
    assert jax.tree.map(jnp.shape, sliced) == jax.tree.map(lambda x: x.shape, shapes)
    remaining = {unit.name: strongest(scores[unit.name], unit.count // 2) for unit in smaller.units}
    masked = logits(Gated(model, smaller.units), params, stats, masks(smaller.units, remaining))
    np.testing.assert_allclose(logits(smaller.model, *sliced), masked, atol=1e-5)
    whole = logits(model, params, stats)
    assert np.abs(masked - whole).max() > 1e-2  # the units matter
    np.testing.assert_array_equal(logits(Gated(model, smaller.units), params, stats, ones(smaller.units)), whole)


def test_the_channels_of_a_group_have_one_score_and_go_together():
    model, params, stats = trained(NETWORKS["joined stem"])
    units = {unit.name: unit for unit in channels.channel_groups(network_of(model, (IMAGES,)))}
    assert set(units) == {"stage1", "stage2", "stage1/block0", "stage1/block1", "stage2/block0"}
    assert [gate.path for gate in units["stage1"].gates] == ["stem", "stage1/block0/conv2", "stage1/block1/conv2"]
    by_hand = np.zeros(4)
    for path, axis in [
        ("stem/conv", 3), ("stage1/block0/conv2/conv", 3), ("stage1/block1/conv2/conv", 3),
        ("stage1/block0/conv1/conv", 2), ("stage1/block1/conv1/conv", 2), ("stage2/block0/conv1/conv", 2),
        ("stage2/block0/shortcut/conv", 2),
    ]:  # fmt: skip
        node = params
        for part in path.split("/"):
            node = node[part]
        by_hand += (np.moveaxis(np.asarray(node["kernel"]), axis, 0).reshape(4, -1) ** 2).sum(1)
    for block in ("stem", "stage1/block0/conv2", "stage1/block1/conv2"):
        node = params
        for part in (*block.split("/"), "norm"):
            node = node[part]
        by_hand += np.asarray(node["scale"]) ** 2 + np.asarray(node["bias"]) ** 2
    np.testing.assert_allclose(magnitudes(params, units["stage1"]), np.sqrt(by_hand), rtol=1e-5)


def test_the_gradient_for_a_gate_is_what_the_loss_loses():
    model, params, stats = trained(NETWORKS["cnn"])
    units = channels.channel_groups(network_of(model, (IMAGES,)))

    def loss(gates):
        outputs = Gated(model, units).apply(params, stats, IMAGES, gates, train=False, key=jax.random.key(0))[0]
        return (outputs.logits**2).sum(), outputs.features["gated"]

    gradient, passed = jax.grad(loss, has_aux=True)(ones(units))
    step = 1e-3
    nudged = {u.name: jnp.ones(u.count).at[0].set(1 + step) for u in units[:1]} | ones(units[1:])
    np.testing.assert_allclose(gradient[units[0].name][0], (loss(nudged)[0] - loss(ones(units))[0]) / step, rtol=3e-2)
    taps = model.apply(params, stats, IMAGES, train=False, key=jax.random.key(0), taps=("stage1",))[0].features
    np.testing.assert_allclose(passed["stage1"], np.abs(taps["stage1"]).mean((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_computes_what_the_plain_one_does(name):
    model, params, stats = trained(NETWORKS[name])
    smaller = folding.fold(network_of(model, (IMAGES,)))
    folded = smaller.transform(params, stats, {})
    assert not jax.tree.leaves(folded[1])  # no averages are left
    np.testing.assert_allclose(logits(smaller.model, *folded), logits(model, params, stats), atol=1e-5)
    assert jax.tree.structure(folded) == jax.tree.structure(
        jax.eval_shape(smaller.model.init, jax.random.key(0), IMAGES)
    )


def test_a_norm_after_something_else_is_left_alone():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
            x = nn.BatchNorm(use_running_average=not train, name="after_relu")(x)
            return nn.BatchNorm(use_running_average=not train, epsilon=1e-3, name="norm")(
                nn.Dense(4, name="dense")(x.mean((1, 2)))
            )

    model, params, stats = trained(Net())
    network = network_of(model, (IMAGES,))
    assert [(pair.norm, pair.layer, pair.epsilon) for pair in folding.pairs_of(network)] == [("norm", "dense", 1e-3)]
    smaller = folding.fold(network)
    folded = smaller.transform(params, stats, {})
    assert set(folded[1]["batch_stats"]) == {"after_relu"}
    np.testing.assert_allclose(logits(smaller.model, *folded), logits(model, params, stats), atol=1e-5)


def test_factors_are_the_truncated_svd_and_only_where_they_are_smaller():
    model, params, stats = trained(NETWORKS["cnn with a hidden layer"])
    network = network_of(model, (IMAGES,))
    smaller = lowrank.factorise(network, 0.5)
    new, same = smaller.transform(jax.tree.map(np.asarray, params), stats, {})
    assert same is stats
    # [9, 1, 4]: rank 2 would weigh 2 * (9 + 4) < 36; [6, 6]: 3 * 12 = 36, and [6, 4]: 2 * 10 < 24.
    assert set(smaller.model.ranks) == {"stage1/conv", "stage2/conv", "head"}
    kernel = np.asarray(params["stage2"]["conv"]["kernel"]).reshape(-1, 6)
    u, s, v = np.linalg.svd(kernel, full_matrices=False)
    node = new["stage2"]["conv"]
    product = node["down_kernel"].reshape(-1, 3) @ node["up_kernel"]
    np.testing.assert_allclose(product, (u[:, :3] * s[:3]) @ v[:3], atol=1e-5)

    def with_products(tree):
        tree = jax.tree.map(np.asarray, tree)
        for layer in (tree["stage1"]["conv"], tree["stage2"]["conv"], tree["head"]):
            down, up = layer.pop("down_kernel"), layer.pop("up_kernel")
            layer["kernel"] = (down.reshape(-1, down.shape[-1]) @ up).reshape(*down.shape[:-1], up.shape[-1])
        return tree

    plain = logits(model, with_products(new), stats)
    np.testing.assert_allclose(logits(smaller.model, new, stats), plain, atol=1e-5)
    shapes = jax.eval_shape(smaller.model.init, jax.random.key(0), IMAGES)
    assert jax.tree.map(jnp.shape, (new, stats)) == jax.tree.map(lambda x: x.shape, shapes)


def chain(module, *steps):
    """(model, params, stats) after these steps, by magnitude."""
    model, params, stats = trained(module)
    for step, options in steps:
        smaller = step(network_of(model, (IMAGES,)), **options)
        scores = {unit.name: magnitudes(params, unit) for unit in smaller.units}
        params, stats = smaller.transform(jax.tree.map(np.asarray, params), stats, scores)
        model = smaller.model
    return model, params, stats


PRUNE, FOLD = (channels.prune, {"share": 0.5}), (folding.fold, {})
INT4, INT8 = (rounding.quantise, {"bits": 4, "keep": "head"}), (rounding.quantise, {"bits": 8, "activations": 8})
CHAINS = {
    "float": (PRUNE,),
    "int8": (INT8,),
    "pruned, folded, int4": (PRUNE, FOLD, INT4),
    "int4, then folded and pruned again": (INT4, FOLD, PRUNE, PRUNE),
    "low rank, int4": ((lowrank.factorise, {"rank": 0.3}), INT4),
}


@pytest.mark.parametrize("steps", CHAINS.values(), ids=CHAINS)
def test_a_packed_file_holds_the_integers_and_gives_the_same_answers(steps, tmp_path):
    model, params, stats = chain(ResNet(4, blocks=(1, 1), widths=(8, 16), stem_width=8), *steps)
    path = tmp_path / "network.safetensors"
    size = packed.write_packed(path, {"name": "a network", "sha256": {}}, model, params, stats, {"words": "text"})
    assert size == path.stat().st_size
    head = packed.read_head(path)
    assert head["model"] == {"name": "a network"} and head["texts"] == {"words": "text"}
    again = rebuild(json.loads(json.dumps(describe(model))))  # as a file that was read describes it
    shapes = jax.eval_shape(packed.unrounded(again).init, jax.random.key(0), IMAGES)
    read = packed.read_arrays(path, head, *shapes)
    answers = logits(packed.unrounded(again), *read)
    np.testing.assert_allclose(answers, logits(model, params, stats), rtol=1e-6, atol=1e-6)
    if isinstance(model, rounding.Rounded):
        rounded = rounded_params(params, jnp.float32(model.bits), model.pattern, model.keep)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), read[0], dict(rounded))


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_a_rounded_network_changes_no_integer(name):
    model, params, stats = chain(NETWORKS[name], INT4)
    smaller = folding.fold(network_of(model, (IMAGES,)))
    folded = smaller.transform(params, stats, {})
    np.testing.assert_allclose(logits(smaller.model, *folded), logits(model, params, stats), atol=1e-5)
    codes = [pack(tree, 4, keep="head") for tree in (params, folded[0])]
    layer = next(k for k in codes[0] if k.endswith("stage2/conv/kernel:codes") or k.endswith("conv2/conv/kernel:codes"))
    np.testing.assert_array_equal(codes[0][layer], codes[1][layer])  # the scales of these norms are positive


def test_two_integers_of_four_bits_lie_in_a_byte(tmp_path):
    model, params, stats = chain(NETWORKS["cnn"], INT4)
    packed.write_packed(tmp_path / "file", {}, model, params, stats)
    with packed.safe_open(tmp_path / "file", "np") as file:
        count = len(file.get_tensor("codes"))
    assert count == (9 * 4 + 9 * 4 * 6) // 2 + 6 * 4  # the head has 8 bits


def test_damaged_files_are_told(tmp_path):
    model, params, stats = chain(NETWORKS["cnn"], INT4)
    packed.write_packed(tmp_path / "file", {}, model, params, stats)
    head, shapes = packed.read_head(tmp_path / "file"), jax.eval_shape(lambda: (params, stats))
    wider = jax.eval_shape(LinenModel(CNN(4, widths=(8, 6))).init, jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="ends before its network does"):
        packed.read_arrays(tmp_path / "file", head, *wider)
    with pytest.raises(ValueError, match="bytes that its network does not read"):
        packed.read_arrays(tmp_path / "file", head, shapes[0], {})
    (tmp_path / "other").write_bytes(b"no network")
    with pytest.raises(ValueError, match="is no packed network"):
        packed.read_head(tmp_path / "other")
