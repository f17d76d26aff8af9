"""Published vision networks are read from files that no PyTorch wrote: names, wrappers, narrow numbers, preparation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_free import write_pth

from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import pretrained
from kd_jax.models.vision.convnext import ConvNext
from kd_jax.models.vision.pretrained import cifar, convnext, torch_files
from kd_jax.models.vision.resnet import ResNet
from kd_jax.models.vision.wide_resnet import wrn_16_1

KEY = jax.random.key(0)


def drawn(module, size=16):
    """(params, stats) of a module, no two numbers alike."""
    params, stats = LinenModel(module).init(KEY, jnp.zeros((1, size, size, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), (params, stats))


def wide(classes=5):
    """The state dict of a WRN-16-1 under RepDistiller's names, and what it is here."""
    module = wrn_16_1(classes)
    params, stats = drawn(module)
    return cifar.to_torch(params, stats, module), params, stats


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def read(path):
    module = pretrained.of(str(path))
    return module, *pretrained.load(LinenModel(module), KEY, str(path))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda arrays: arrays,
        lambda arrays: {"state_dict": arrays, "epoch": 3},
        lambda arrays: {"model": {f"module.{k}": v for k, v in arrays.items()}, "optimizer": {"state": {}}},
        lambda arrays: {"net": {f"_orig_mod.module.{k}": v for k, v in arrays.items()}},
    ],
    ids=["plain", "state_dict", "model, module.", "net, _orig_mod."],
)
def test_pth_with_what_trainers_put_around_it(wrap, tmp_path, monkeypatch):
    arrays, params, stats = wide()
    path = write_pth(tmp_path / "wrn.pth", wrap(arrays), monkeypatch)
    module, *variables = read(path)
    assert module == wrn_16_1(5) and equal(variables, [params, stats])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_numbers_are_said_and_widened(kind, tmp_path, monkeypatch, capsys):
    arrays, params, _ = wide()
    narrow = {k: v.astype(kind) if v.dtype == np.float32 else v for k, v in arrays.items()}
    write_pth(tmp_path / "wrn.pth", narrow, monkeypatch)
    values = read(tmp_path / "wrn.pth")[1]
    assert f"numbers are {kind}; they are read as float32" in capsys.readouterr().out
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(values))
    assert np.array_equal(values["stem"]["kernel"], params["stem"]["kernel"].astype(kind).astype(np.float32))


def test_safetensors_alone_and_in_a_folder(tmp_path):
    arrays, params, stats = wide()
    save_file(arrays, tmp_path / "wrn.safetensors")
    for path in (tmp_path / "wrn.safetensors", tmp_path):
        assert equal(read(path)[1:], (params, stats))


@pytest.mark.parametrize(
    "module",
    [
        ResNet(6, (1, 1), (4, 8), 4, large_stem=True),
        ResNet(6, (1, 2), (4, 8), 8, bottleneck=True, large_stem=True),
        ConvNext(6, (1, 1), (4, 8)),
        ConvNext(0, (1, 1), (4, 8), layer_scale=0.0, response_norm=True),
    ],
    ids=["ResNet", "bottlenecks", "ConvNeXt", "ConvNeXt V2 without classes"],
)
def test_what_is_written_is_read(module, tmp_path):
    params, stats = drawn(module, 64)
    names = [f"kind {i}" for i in range(module.num_classes)]
    prepared = {"size": 48, "crop": 0.75, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    pretrained.save(LinenModel(module), params, stats, tmp_path, prepared, names)
    again, *variables = read(tmp_path)
    assert again == module and equal(variables, [params, stats])
    assert pretrained.preparation(tmp_path) == {**prepared, "class_names": tuple(names)}


def test_another_number_of_classes_is_a_new_head_and_said(tmp_path, capsys):
    arrays, params, _ = wide()
    save_file(arrays, tmp_path / "wrn.safetensors")
    path = str(tmp_path / "wrn.safetensors")
    module = pretrained.of(path, num_classes=3)
    assert "it has 5 classes, 3 are asked: its head is new and random" in capsys.readouterr().out
    values, stats = pretrained.load(module, KEY, path)
    assert values["head"]["kernel"].shape == (64, 3) and np.array_equal(
        values["stem"]["kernel"], params["stem"]["kernel"]
    )
    logits, _ = LinenModel(module).apply(values, stats, jnp.ones((2, 32, 32, 3)), train=False, key=KEY)
    assert logits.logits.shape == (2, 3)
    other = pretrained.load(module, jax.random.key(1), path)[0]
    assert not np.array_equal(values["head"]["kernel"], other["head"]["kernel"])


def test_authors_names_of_convnext(tmp_path):
    """Those of facebookresearch/ConvNeXt, which no package here has."""
    module = ConvNext(6, (1, 1), (4, 8))
    params, _ = drawn(module, 64)
    scheme = convnext.SCHEMES["authors"]
    theirs = convnext.to_torch(params, {}, module)
    renamed = {}
    there = convnext.SCHEMES["transformers"]
    for name, value in theirs.items():
        new = name.removeprefix("convnext.")
        for s in range(2):
            new = new.replace(f"encoder.stages.{s}.downsampling_layer.", f"downsample_layers.{s}.")
            new = new.replace(f"encoder.stages.{s}.layers.", f"stages.{s}.")
        for part in ("norm", "layer_scale"):
            new = new.replace(f"0.{there.parts[part]}", f"0.{scheme.parts[part]}") if new.startswith("stages.") else new
        for part in ("stem", "stem_norm", "norm", "head"):
            start = there.outside[part]
            new = scheme.outside[part] + new[len(start) :] if new.startswith(f"{start}.") else new
        renamed[new] = value
    save_file(renamed, tmp_path / "convnext.safetensors")
    assert equal(read(tmp_path / "convnext.safetensors")[1:], (params, {}))


def test_preparation_of_every_source(tmp_path):
    arrays, *_ = wide(100)
    save_file(arrays, tmp_path / "wrn.safetensors")
    made = pretrained.preparation(tmp_path / "wrn.safetensors")
    assert made["size"] == 32 and made["mean"] == (0.5071, 0.4867, 0.4408) and made["class_names"] == ()
    config = {"architecture": "wrn", "label_names": ["a", "b"]}
    config["pretrained_cfg"] = {"input_size": [3, 288, 288], "crop_pct": 0.95, "mean": [0.5] * 3, "std": [0.4] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = pretrained.preparation(tmp_path)
    assert made == {"size": 288, "crop": 0.95, "mean": (0.5,) * 3, "std": (0.4,) * 3, "class_names": ("a", "b")}
    fields = {"size": 256, "do_center_crop": True, "crop_size": {"height": 192, "width": 192}, "image_mean": [0.0] * 3}
    fields |= {"rescale_factor": 1 / 127.5, "rescale_offset": True, "image_std": [1.0] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    made = pretrained.preparation(tmp_path)  # x / 127.5 - 1 is (x / 255 - .5) / .5
    assert (made["size"], made["crop"]) == (192, 0.75)
    assert np.allclose(made["mean"], 0.5) and np.allclose(made["std"], 0.5)


def test_a_view_beyond_its_storage_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 4\) beyond its storage of 6 numbers"):
        torch_files.tensor(np.zeros(6, np.float32), 0, (3, 4), (4, 1))
