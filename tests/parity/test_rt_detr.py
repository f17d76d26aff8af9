"""RT-DETR of transformers with random weights: equal class logits and boxes here, and a teacher of its sure boxes."""

import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from published_detectors import teaches  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from torch_peers import TOLERANCE, image  # noqa: E402

from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.detection import pretrained  # noqa: E402
from kd_jax.models.detection.deformable import sampled  # noqa: E402

NAMES = {0: "cat", 1: "dog", 2: "tree"}
BACKBONES = {
    "basic": dict(embedding_size=8, hidden_sizes=[8, 12, 12, 16], depths=[1, 2, 1, 1], layer_type="basic"),
    "bottleneck": dict(embedding_size=8, hidden_sizes=[16, 16, 32, 32], depths=[2, 1, 1, 1], layer_type="bottleneck"),
}


def folder_of(path, backbone="basic", **changes):
    """A folder of transformers, and its network in evaluation, with drawn averages and offsets."""
    torch.manual_seed(0)
    widths = BACKBONES[backbone]["hidden_sizes"][1:]
    sizes = dict(d_model=16, encoder_hidden_dim=16, encoder_ffn_dim=24, decoder_ffn_dim=20, decoder_layers=2)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=4, decoder_n_points=3, num_queries=7)
    config = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(out_indices=[2, 3, 4], **BACKBONES[backbone]),
        **dict(encoder_in_channels=widths, decoder_in_channels=[16] * 3, **sizes, **heads, id2label=NAMES) | changes,
    )
    net = transformers.RTDetrForObjectDetection(config)
    generator = torch.Generator().manual_seed(1)
    for name, x in net.state_dict().items():  # of the size at which attention, places and averages matter
        if not torch.is_floating_point(x):
            continue
        if "running_var" in name or ("norm" in name and name.endswith("weight")):
            x.copy_(torch.rand(x.shape, generator=generator) + 0.5)
        elif x.ndim > 1:
            x.copy_(torch.randn(x.shape, generator=generator) / x[0].numel() ** 0.5)
        else:
            x.copy_(torch.randn(x.shape, generator=generator) * 0.2)
    net.eval().save_pretrained(path)
    return net


def asked(path, x, **options):
    model = LinenModel(pretrained.of(str(path), **options))
    params, stats = pretrained.load(model, jax.random.key(0), str(path))
    return model.apply(params, stats, x, train=False, key=jax.random.key(0), taps=("class_logits", "level0"))[0]


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [("basic", {}), ("bottleneck", {}), ("basic", dict(hidden_expansion=0.5, encoder_layers=2, d_model=24))],
)
def test_logits_and_boxes_are_those_of_transformers(backbone, changes, tmp_path):
    net, x = folder_of(tmp_path, backbone, **changes), image(96)[:, :, :64]
    with torch.no_grad():
        theirs = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    mine = asked(tmp_path, x)
    logits = theirs.logits.numpy()
    assert np.abs(logits - logits[::-1]).max() > 0.01  # the picture matters
    np.testing.assert_allclose(
        mine.features["level0"], theirs.encoder_last_hidden_state[0].permute(0, 2, 3, 1), atol=TOLERANCE
    )
    np.testing.assert_allclose(mine.features["class_logits"], logits, atol=TOLERANCE)
    np.testing.assert_array_equal(mine.logits["classes"], mine.features["class_logits"])
    cx, cy, width, height = np.moveaxis(theirs.pred_boxes.numpy() * [64, 96, 64, 96], -1, 0)
    corners = np.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], -1)
    np.testing.assert_allclose(mine.logits["boxes"], corners, atol=64 * TOLERANCE)


def test_places_between_cells_and_beyond_the_map_are_those_of_grid_sample():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 5, 2, 4)).astype(np.float32)
    places = rng.uniform(-0.3, 1.3, (2, 6, 2, 3, 2)).astype(np.float32)
    maps = torch.from_numpy(values.transpose(0, 3, 4, 1, 2).reshape(4, 4, 3, 5))
    grid = torch.from_numpy(2 * places.transpose(0, 2, 1, 3, 4).reshape(4, 6, 3, 2) - 1)
    theirs = (
        torch.nn.functional.grid_sample(maps, grid, align_corners=False).reshape(2, 2, 4, 6, 3).permute(0, 3, 1, 4, 2)
    )
    np.testing.assert_allclose(sampled(values, places), theirs, atol=1e-5)


def test_names_of_every_version_are_read(tmp_path):
    """transformers saves under its first names; in memory it has others, and the heads of boxes and classes had two."""
    net = folder_of(tmp_path)
    before = asked(tmp_path, image(64)).logits
    now = {k: x.numpy() for k, x in net.state_dict().items()}
    assert {*now} != {*load_file(tmp_path / "model.safetensors")}
    outside = {
        k.replace("model.decoder.class_", "class_").replace("model.decoder.bbox_", "bbox_"): x for k, x in now.items()
    }
    assert {*outside} != {*now}
    for arrays in (now, outside):
        save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
        np.testing.assert_array_equal(asked(tmp_path, image(64)).logits["boxes"], before["boxes"])


def test_some_classes_a_picture_of_another_size_and_more_queries_than_cells(tmp_path):
    folder_of(tmp_path, num_queries=40)
    x = image(64)[:, :32]
    whole = asked(tmp_path, x).logits
    assert whole["boxes"].shape[1] == 40  # of 32 + 8 + 2 cells
    some = asked(tmp_path, x, chosen=(2, 0), num_classes=2, picture=(16, 16)).logits
    np.testing.assert_array_equal(some["classes"], whole["classes"][..., [2, 0]])
    np.testing.assert_allclose(some["boxes"], np.asarray(whole["boxes"]) * np.array([0.25, 0.5] * 2), rtol=1e-6)
    assert asked(tmp_path, x[:, :, :32]).logits["boxes"].shape[1] == 16 + 4 + 1
    assert pretrained.of(tmp_path).preparation == {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learn_initial_query": True}, "an RT-DETR with learn_initial_query=True is not read"),
        ({"activation_function": "relu"}, "an RT-DETR with activation_function='relu' is not read"),
        ({"num_feature_levels": 4}, "an RT-DETR with 3 levels of the encoder and 4 of the decoder is not read"),
        (
            {"backbone_config": {"model_type": "resnet"}},
            "an RT-DETR with backbone_config of 'resnet', relu is not read",
        ),
    ],
)
def test_what_is_not_computed_is_refused(changes, says, tmp_path):
    folder_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=says):
        pretrained.of(tmp_path)


def test_pictures_that_its_strides_do_not_divide_and_classes_that_do_not_fit(tmp_path):
    folder_of(tmp_path)
    with pytest.raises(ValueError, match="RT-DETR reads pictures of multiples of 32, not 64 x 40 pixels"):
        asked(tmp_path, image(64)[:, :, :40])
    with pytest.raises(ValueError, match=r"has 3 classes \(cat, dog, tree, ...\), and the data 10: `chosen` names"):
        pretrained.of(tmp_path, num_classes=10)


def test_it_teaches_by_its_sure_boxes(tmp_path):
    folder_of(tmp_path / "rt_detr", id2label={i: f"thing {i}" for i in range(12)})
    teaches(tmp_path / "rt_detr", tmp_path / "run", {"teacher.cache.directory": "auto"})
