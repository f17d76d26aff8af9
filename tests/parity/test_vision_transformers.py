"""Vision transformers against PyTorch `transformers`: the same weights give the same outputs, read and written."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from vision_checkpoints import NETWORKS, SIDE, answers, folder_of, images, network  # noqa: E402

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.vision.pretrained import FAMILIES, load, of, save  # noqa: E402
from kd_jax.models.vision.pretrained import vit as vit_family  # noqa: E402
from kd_jax.models.vision.swin import Swin  # noqa: E402
from kd_jax.models.vision.vit import vit  # noqa: E402

KEY = jax.random.key(0)


def ours(module, params, x):
    apply = functools.partial(LinenModel(module).apply, train=False, key=KEY, taps=("*",))
    return jax.device_get(jax.jit(lambda p, x: apply(p, {}, x)[0])(params, x))


def hidden_states(module, features):
    """The taps that are transformers' hidden states, in their order."""
    if isinstance(module, Swin):
        names = ["stem", *(f"merge{i}" for i in range(1, len(module.depths))), f"stage{len(module.depths) - 1}"]
        return [features[name].reshape(len(features[name]), -1, features[name].shape[-1]) for name in names]
    return [features[name] for name in ("first_norm" if module.norm_first else "stem", "block0", "block1")]


def check(theirs, module, params, x, atol=1e-4):
    (main, hidden), outputs = answers(theirs, x), ours(module, params, x)
    np.testing.assert_allclose(outputs.logits, main, atol=atol)
    states = hidden_states(module, outputs.features)
    assert len(states) == len(hidden)
    for value, wanted in zip(states, hidden, strict=True):
        np.testing.assert_allclose(value, wanted, atol=atol)
    return outputs


@pytest.mark.parametrize("name", list(NETWORKS))
def test_networks_agree_and_return(name, tmp_path):
    theirs = network(name)
    path = folder_of(theirs, tmp_path / "theirs")
    module = of(path)
    params, stats = load(LinenModel(module), KEY, path)
    side = module.image_size
    assert stats == {} and module.num_classes == (3 if "ForImageClassification" in NETWORKS[name][0] else 0)
    check(theirs, module, params, images(side, side))
    # Positions of another size are those of transformers' interpolate_pos_encoding. Swin has none, and pads its maps;
    # a network of transformers keeps the windows of its first images, so this is a new one.
    other = (36, 54) if isinstance(module, Swin) else (side // 2, side // 4 * 6)
    check(network(name), module, params, images(*other))

    save(module, params, stats, tmp_path / "ours", class_names=["a", "b", "c"][: module.num_classes])
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    architecture = getattr(transformers, written["architectures"][0])
    again, report = architecture.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["mismatched_keys"] and not report["unexpected_keys"]
    assert all("pooler" in missing for missing in report["missing_keys"])
    x = images(side, side)
    np.testing.assert_allclose(answers(again.eval(), x)[0], answers(theirs, x)[0], atol=1e-5)
    if module.num_classes:
        assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert of(str(tmp_path / "ours")) == module


def test_every_token_is_a_tap(tmp_path):
    theirs = network("dinov2 registers")
    path = folder_of(theirs, tmp_path)
    module = of(path)
    params, _ = load(module, KEY, path)
    x = images(SIDE, 2 * SIDE)
    features = ours(module, params, x).features
    with torch.no_grad():
        tokens = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    np.testing.assert_allclose(features["tokens"], tokens, atol=1e-4)
    np.testing.assert_allclose(features["tokens/class"], tokens[:, 0], atol=1e-4)
    np.testing.assert_allclose(features["tokens/registers"], tokens[:, 1:3], atol=1e-4)
    np.testing.assert_allclose(features["tokens/patches"], tokens[:, 3:], atol=1e-4)
    probabilities = features["block1/attention/probabilities"]
    assert probabilities.shape == (2, 2, 3 + 32, 3 + 32)


def test_deit_without_its_mean_is_each_head(tmp_path):
    theirs = network("deit with two heads")
    path = folder_of(theirs, tmp_path)
    params, _ = load(of(path), KEY, path)
    x = images(SIDE, SIDE)
    with torch.no_grad():
        outputs = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy()))
    features = ours(of(path), params, x).features
    np.testing.assert_allclose(features["head"], outputs.cls_logits, atol=1e-4)
    np.testing.assert_allclose(features["head_distillation"], outputs.distillation_logits, atol=1e-4)


@pytest.mark.parametrize("token", [False, True])
def test_a_student_of_ones_own_sizes_loads_in_transformers(token, tmp_path):
    module = vit(5, patch=2, width=8, depth=2, heads=2, distillation_token=token)
    x = images(8, 8, 1)
    params, stats = LinenModel(module).init(KEY, x)
    params = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(KEY, p.shape), params)
    save(LinenModel(module), params, stats, tmp_path)
    kind = "DeiTForImageClassificationWithTeacher" if token else "ViTForImageClassification"
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind]
    theirs = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(answers(theirs, x)[0], ours(module, params, x).logits, atol=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_defaults_are_those_of_transformers(name):
    family = importlib.import_module(f"kd_jax.models.vision.pretrained.{name}")
    if not hasattr(family, "DEFAULTS"):
        pytest.skip("read from config.json alone")
    for model_type in family.MODEL_TYPES:
        config = transformers.AutoConfig.for_model(model_type)
        config = getattr(config, "vision_config", config)
        for field, value in {**family.DEFAULTS, **getattr(family, "OTHER_DEFAULTS", {}).get(model_type, {})}.items():
            if hasattr(config, field):
                there = getattr(config, field)
                assert (tuple(there) if isinstance(value, tuple) else there) == value, (model_type, field)


def test_every_field_of_a_config_has_its_default(tmp_path):
    """transformers leaves the defaults out of nested configs."""
    assert FAMILIES["siglip"].build({"vision_config": {}, "model_type": "siglip"}).width == 768
    assert FAMILIES["clip"].build({"vision_config": {}, "model_type": "clip"}).projection == 512


# Published numbers of parameters; DINOv2's mask token, one vector, is not among ours.
PUBLISHED = {
    "vit": ({"model_type": "vit", "num_labels": 1000}, 86_567_656),
    "deit": (
        {
            "model_type": "deit",
            "num_labels": 1000,
            "architectures": ["DeiTForImageClassificationWithTeacher"],
            "hidden_size": 192,
            "num_attention_heads": 3,
            "intermediate_size": 768,
        },
        5_910_800,
    ),
    "dinov2": (
        {"model_type": "dinov2", "image_size": 518, "hidden_size": 384, "num_attention_heads": 6},
        22_056_576 - 384,
    ),
    "clip": ({"model_type": "clip", "vision_config": {}}, 87_849_216),
    "siglip": ({"model_type": "siglip", "vision_config": {}}, 92_884_224),
    "swin": ({"model_type": "swin", "num_labels": 1000}, 28_288_354),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_sizes_are_the_published_ones(name):
    config, count = PUBLISHED[name]
    family = vit_family if name == "deit" else FAMILIES[name]
    module = family.build(config)
    x = jax.ShapeDtypeStruct((1, module.image_size, module.image_size, 3), np.float32)
    params, _ = jax.eval_shape(LinenModel(module).init, KEY, x)
    assert sum(p.size for p in jax.tree.leaves(params)) == count
