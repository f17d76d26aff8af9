"""Every family once, tiny: logits against the published layout, taps, training against evaluation, bfloat16."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_values import QUICK, filled

from kd_jax.models import mlp
from kd_jax.models.adapters import LinenModel, tap_shapes
from kd_jax.models.layers import DepthwiseConv, kaiming_fan_out, torch_default, uniform_fan_in
from kd_jax.models.vision import cifar_resnet, cnn, mobilenet, resnet, shufflenet, swin, vgg, vit, wide_resnet

KEY = jax.random.key(0)
STAGES = ("stage1", "stage2", "stage3")
PRE = tuple(f"{stage}/pre_activation" for stage in STAGES)

REGISTERS = dict(registers=2, image_size=8, gated=True, hidden=32, activation="silu", layer_scale=1.0, dropout=0.1)
REGISTERS |= dict(pool="class_and_mean")
WINDOWS = dict(width=8, depths=(2, 2), heads=(2, 2), window=2, image_size=16, dropout=0.1)

# name: (module, image size, channels, first logits of the second image, taps). The logits come from forwards in float64
# PyTorch, written from the published layouts (RepDistiller's models, torchvision, DeiT) or transformers' (DINOv2,
# Swin), with the values of `filled`.
FAMILIES = {
    "resnet8": (
        cifar_resnet.resnet8(10, widths=(4, 8, 8), stem_width=4),
        16,
        3,
        (-0.3086, -0.2392, 0.5003),
        ("stem", *STAGES, *PRE, "stage1/block0"),
    ),
    "resnet50": (
        resnet.resnet50(10, blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8), stem_width=4),
        32,
        3,
        (0.1937, 0.3982, 0.2147),
        ("stem", *STAGES, "stage4", *PRE, "stage4/pre_activation"),
    ),
    "wide": (wide_resnet.WideResNet(10, 10, 1), 16, 3, (-3.0885, -0.6451, 3.1421), ("stem", *STAGES, *PRE)),
    "vgg": (
        vgg.vgg13(10, widths=(4, 4, 8, 8, 8)),
        16,
        3,
        (-0.1739, 0.3058, 0.5508),
        ("stem", *STAGES, "stage4", *PRE),
    ),
    "mobilenet": (
        mobilenet.mobilenet_v2(10, width=0.25, last=16),
        32,
        3,
        (-1.3709, 1.0483, -0.5936),
        ("stem", *STAGES, "stage4"),
    ),
    "shuffle_v1": (
        shufflenet.shufflenet_v1(10, widths=(72, 144, 288), units=(2, 2, 2)),
        16,
        3,
        (48.2778, -55.0499, -66.7181),
        ("stem", *STAGES, *PRE),
    ),
    "shuffle_v2": (
        shufflenet.shufflenet_v2(10, widths=(8, 16, 16), last=16, units=(2, 3, 2)),
        16,
        3,
        (0.1014, -0.091, 0.1406),
        ("stem", *STAGES, *PRE),
    ),
    "vit": (
        vit.vit(10, patch=4, width=16, depth=2, heads=2, distillation_token=True),
        8,
        3,
        (1.2117, -1.0024, 1.2504),
        (
            "stem",
            "block0",
            "block1/attention",
            "head_distillation",
            *(f"block1/attention/{n}" for n in ("queries", "keys", "values_joined", "scores", "probabilities")),
        ),
    ),
    "vit_registers": (
        vit.ViT(10, 4, 16, 2, 2, **REGISTERS),
        8,
        3,
        (-0.8844, 1.7323, -2.3589),
        ("stem", "tokens", "tokens/class", "tokens/registers", "tokens/patches", "block1/attention/scores"),
    ),
    "swin": (swin.swin(10, **WINDOWS), 16, 3, (-0.8750, -0.2371, 1.1709), ("stem", "stage0", "merge1", "final")),
    "swin_v2": (
        swin.swin(10, version=2, biases="qv", **WINDOWS),
        16,
        3,
        (1.5578, -2.1573, 2.3567),
        ("stage0_block1", "stage1_block0/attention", "stage1"),
    ),
    "cnn": (cnn.cnn(10, widths=(4, 8), hidden=6, dropout=0.1), 8, 1, None, ("stage1", "stage2", *PRE[:2], "hidden")),
    "mlp": (mlp.mlp(10, widths=(8, 6), dropout=0.5), 8, 1, None, ("stage1", "stage2", *PRE[:2])),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    module, size, channels, golden, taps = FAMILIES[name]
    model = LinenModel(module)
    shape = (2, size, size, channels)
    x = np.cos(0.3 * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
    params, stats = filled(model, x)

    @partial(jax.jit, compiler_options=QUICK)
    def both(params, stats, x):
        outputs, _ = model.apply(params, stats, x, train=False, key=KEY, taps=("*",))
        return outputs, *model.apply(params, stats, x, train=True, key=KEY)

    outputs, trained, new_stats = both(params, stats, x)
    assert outputs.logits.shape == (2, 10) and outputs.logits.dtype == jnp.float32
    assert {"embedding", "head", *taps} <= set(outputs.features)
    assert np.isfinite(trained.logits).all() and not np.allclose(trained.logits, outputs.logits)
    assert jax.tree.structure(new_stats) == jax.tree.structure(stats)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), stats, new_stats)
    assert jax.tree.all(changed), "a BatchNorm that does not learn its averages"
    if golden is not None:
        np.testing.assert_allclose(outputs.logits[1, :3], golden, rtol=1e-4, atol=1e-4)
    for tap in set(taps) & set(PRE):
        if name not in ("shuffle_v2", "wide"):
            stage = tap.removesuffix("/pre_activation")
            np.testing.assert_array_equal(nn.relu(outputs.features[tap]), outputs.features[stage])


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_computes_low_and_keeps_float32_parameters(name):
    module, size, channels, _, taps = FAMILIES[name]
    model = LinenModel(module.clone(dtype="bfloat16"))
    x = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    state = jax.eval_shape(model.init, KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    shapes = tap_shapes(model, x)
    assert shapes["head"].dtype == jnp.float32
    exact = {"block1/attention/scores", "block1/attention/probabilities", "head_distillation"}
    assert {shapes[tap].dtype for tap in set(taps) - exact} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_depthwise_equals_grouped_convolution(size, stride):
    x = jax.random.normal(KEY, (2, 7, 6, 4))
    kernel = jax.random.normal(KEY, (size, size, 1, 4))

    def ours(x, kernel, dtype=jnp.float32):
        return DepthwiseConv(size, stride, dtype).apply({"params": {"kernel": kernel}}, x)

    def reference(x, kernel):
        pads, numbers = ((size // 2, size // 2),) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=4
        )

    @jax.jit
    def everything(x, kernel):
        grads = [jax.grad(lambda x, k, f=f: (f(x, k) ** 2).sum(), (0, 1))(x, kernel) for f in (ours, reference)]
        return ours(x, kernel), reference(x, kernel), ours(x, kernel, jnp.bfloat16), grads

    value, expected, low, grads = everything(x, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, rtol=0.05, atol=0.1)
    shapes = jax.eval_shape(DepthwiseConv(size, stride).init, KEY, x)
    assert shapes["params"]["kernel"].shape == kernel.shape


def test_initial_values_are_those_of_the_published_code():
    kernel = kaiming_fan_out(KEY, (3, 3, 16, 64))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.03)
    weights = uniform_fan_in(64)(KEY, (64, 100))
    assert 0.99 / 8 < weights.max() <= 1 / 8 and -1 / 8 <= weights.min() < -0.99 / 8
    np.testing.assert_allclose(torch_default(KEY, (3, 3, 16, 64)).std(), 1 / np.sqrt(3 * 9 * 16), rtol=0.03)


def test_vit_logits_are_the_class_head_in_training():
    model = LinenModel(FAMILIES["vit"][0])
    x = jnp.ones((2, 8, 8, 3))

    @jax.jit
    def both(state, x):
        taps = ("head", "head_distillation")
        return [model.apply(*state, x, train=train, key=KEY, taps=taps)[0] for train in (True, False)]

    train, evaluate = both(filled(model, x), x)
    np.testing.assert_allclose(train.logits, train.features["head"], rtol=1e-6)
    mean = (evaluate.features["head"] + evaluate.features["head_distillation"]) / 2
    np.testing.assert_allclose(evaluate.logits, mean, rtol=1e-6)
    assert (train.features["head"] != train.features["head_distillation"]).any()
    assert tap_shapes(model, x)["block0/attention/scores"].shape == (2, 2, 6, 6)
    with pytest.raises(ValueError, match="multiple of patch=4"):
        tap_shapes(model, jnp.ones((1, 9, 8, 3)))


def test_drop_path_leaves_out_branches_of_whole_examples_and_none_of_the_first_block():
    block = vit.TransformerBlock(heads=2, hidden=8, dropout=0.0, dtype="float32", drop_path=0.5)
    x = jax.random.normal(KEY, (64, 3, 4))
    params = block.init(KEY, x, False)
    whole = block.apply(params, x, False) - x
    dropped = block.apply(params, x, True, rngs={"dropout": jax.random.key(1)}) - x
    still = np.asarray(jnp.all(dropped == 0, axis=(1, 2)))
    assert 4 < still.sum() < 30  # both branches: a quarter of 64

    assert not np.allclose(dropped[~still], whole[~still])  # and what it has is enlarged
    network = LinenModel(vit.vit(10, patch=4, width=8, depth=1, heads=2, drop_path=0.9))
    state = network.init(KEY, jnp.ones((4, 8, 8, 3)))
    image = jax.random.normal(KEY, (4, 8, 8, 3))
    train, evaluate = (network.apply(*state, image, train=t, key=KEY)[0].logits for t in (True, False))
    np.testing.assert_array_equal(train, evaluate)  # of one block, which is the first
