"""Every family once, tiny: logits against the published layout, taps, training against evaluation, bfloat16."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models import cifar_resnet, cnn, mlp, mobilenet, resnet, shufflenet, vgg, vit, wide_resnet
from kd_jax.models.adapters import LinenModel, tap_shapes
from kd_jax.models.layers import DepthwiseConv

KEY = jax.random.key(0)
STAGES = ("stage1", "stage2", "stage3")
PRE = tuple(f"{stage}/pre_activation" for stage in STAGES)

# name: (module, image size, channels, first logits of the second image, taps). The logits come from forwards in float64
# PyTorch, written from the published layouts (RepDistiller's models, torchvision, DeiT), with the values of `fill`.
FAMILIES = {
    "resnet8": (
        cifar_resnet.resnet8(10, widths=(4, 8, 8), stem_width=4), 16, 3, (-0.3086, -0.2392, 0.5003),
        ("stem", *STAGES, *PRE, "stage1/block0"),
    ),
    "resnet50": (
        resnet.resnet50(10, blocks=(1, 1, 1, 1), widths=(4, 4, 8, 8), stem_width=4), 32, 3, (0.1937, 0.3982, 0.2147),
        ("stem", *STAGES, "stage4", *PRE, "stage4/pre_activation"),
    ),
    "wide": (wide_resnet.WideResNet(10, 10, 1), 16, 3, (-3.0885, -0.6451, 3.1421), ("stem", *STAGES, *PRE)),
    "vgg": (
        vgg.vgg13(10, widths=(4, 4, 8, 8, 8)), 16, 3, (-0.1739, 0.3058, 0.5508), ("stem", *STAGES, "stage4", *PRE),
    ),
    "mobilenet": (
        mobilenet.mobilenet_v2(10, width=0.25, last=16), 32, 3, (-1.3709, 1.0483, -0.5936), ("stem", *STAGES, "stage4"),
    ),
    "shuffle_v1": (
        shufflenet.shufflenet_v1(10, widths=(72, 144, 288), units=(2, 2, 2)), 16, 3, (48.2778, -55.0499, -66.7181),
        ("stem", *STAGES, *PRE),
    ),
    "shuffle_v2": (
        shufflenet.shufflenet_v2(10, widths=(8, 16, 16), last=16, units=(2, 3, 2)), 16, 3, (0.1014, -0.091, 0.1406),
        ("stem", *STAGES, *PRE),
    ),
    "vit": (
        vit.vit(10, patch=4, width=16, depth=2, heads=2, distillation_token=True), 8, 3, (1.2117, -1.0024, 1.2504),
        ("stem", "block0", "block1/attention", "head_distillation",
         *(f"block1/attention/{n}" for n in ("queries", "keys", "values", "scores", "probabilities"))),
    ),
    "cnn": (cnn.cnn(10, widths=(4, 8), hidden=6, dropout=0.1), 8, 1, None, ("stage1", "stage2", *PRE[:2], "hidden")),
    "mlp": (mlp.mlp(10, widths=(8, 6), dropout=0.5), 8, 1, None, ("stage1", "stage2", *PRE[:2])),
}  # fmt: skip


def fill(shapes):
    """Values without a random generator, so that another framework can make the same."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    values = []
    for i, (path, leaf) in enumerate(leaves):
        wave = np.cos(0.7 * np.arange(leaf.size) * (1 + i % 5) + i).reshape(leaf.shape)
        if leaf.ndim > 1:
            wave = wave * 1.5 * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            wave = 0.3 * wave + (1 if path[-1].key in ("scale", "var") else 0)
        values.append(jnp.asarray(wave, jnp.float32))
    return treedef.unflatten(values)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    module, size, channels, golden, taps = FAMILIES[name]
    model = LinenModel(module)
    shape = (2, size, size, channels)
    x = np.cos(0.3 * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
    params, stats = (fill(tree) for tree in jax.eval_shape(model.init, KEY, x))

    @jax.jit
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


@pytest.mark.parametrize(("size", "stride", "height", "width"), [(3, 1, 5, 6), (3, 2, 5, 6), (3, 2, 8, 8), (5, 2, 7, 4)])
def test_depthwise_equals_grouped_convolution(size, stride, height, width):
    x = jax.random.normal(KEY, (2, height, width, 4))
    module = DepthwiseConv(size, stride)
    variables = module.init(KEY, x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (size, size, 1, 4)

    def reference(x, kernel):
        pads = ((size // 2,) * 2,) * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=numbers, feature_group_count=4
        )

    ours = lambda x, kernel: module.apply({"params": {"kernel": kernel}}, x)  # noqa: E731
    np.testing.assert_allclose(ours(x, kernel), reference(x, kernel), rtol=1e-5, atol=1e-5)
    grads = [jax.grad(lambda x, k, f=f: (f(x, k) ** 2).sum(), (0, 1))(x, kernel) for f in (ours, reference)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)
    low = DepthwiseConv(size, stride, jnp.bfloat16).apply(variables, x)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), reference(x, kernel), rtol=0.05, atol=0.05)


def test_initial_values_are_those_of_the_published_code():
    params, _ = LinenModel(cifar_resnet.resnet8(10, blocks=(1, 0, 0)[:1], widths=(64,), stem_width=64)).init(
        KEY, jnp.zeros((1, 8, 8, 3))
    )
    kernel = params["stage1"]["block0"]["conv1"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    head = params["head"]
    assert 0.9 / 8 < np.abs(head["kernel"]).max() <= 1 / 8 and 0 < np.abs(head["bias"]).max() <= 1 / 8


def test_vit_logits_are_the_class_head_in_training():
    model = LinenModel(FAMILIES["vit"][0])
    x = jnp.ones((2, 8, 8, 3))
    params, stats = model.init(KEY, x)
    for train in (True, False):
        outputs, _ = model.apply(params, stats, x, train=train, key=KEY, taps=("head", "head_distillation"))
        head, distilled = outputs.features["head"], outputs.features["head_distillation"]
        np.testing.assert_allclose(outputs.logits, head if train else (head + distilled) / 2, rtol=1e-6)
    scores = tap_shapes(model, x)["block0/attention/scores"]
    assert scores.shape == (2, 2, 6, 6)
    with pytest.raises(ValueError, match="multiple of patch=4"):
        LinenModel(FAMILIES["vit"][0]).init(KEY, jnp.ones((1, 9, 8, 3)))
