"""DETR of transformers with random weights: equal class logits and boxes here, and a teacher of its sure boxes."""

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
from kd_jax.models.vision.pretrained import resnet  # noqa: E402

NAMES = {0: "cat", 1: "dog", 2: "tree"}
BACKBONES = {
    "basic": dict(embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=[1, 2, 1, 1], layer_type="basic"),
    "bottleneck": dict(embedding_size=8, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1]),
}


def folder_of(path, backbone="basic", **changes):
    """A folder of transformers, and its network in evaluation."""
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(out_features=["stage4"], **BACKBONES[backbone]),
        **dict(d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=4),
        **dict(encoder_ffn_dim=24, decoder_ffn_dim=20, num_queries=5, id2label=NAMES) | changes,
    )
    net = transformers.DetrForObjectDetection(config)
    generator = torch.Generator().manual_seed(1)
    for name, x in net.state_dict().items():  # of the size at which attention and averages matter
        if "running_var" in name:
            x.copy_(torch.rand(x.shape, generator=generator) + 0.5)
        elif x.ndim > 1 and "backbone" not in name:
            x.copy_(torch.randn(x.shape, generator=generator) / x.shape[-1] ** 0.5)
        elif x.ndim == 1 and "norm" not in name:
            x.copy_(torch.randn(x.shape, generator=generator) * 0.1)
    net.eval().save_pretrained(path)
    return net


def asked(path, x, **options):
    model = LinenModel(pretrained.of(str(path), **options))
    params, stats = pretrained.load(model, jax.random.key(0), str(path))
    outputs, _ = model.apply(params, stats, x, train=False, key=jax.random.key(0), taps=("class_logits",))
    return outputs


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_and_boxes_are_those_of_transformers(backbone, tmp_path):
    net, x = folder_of(tmp_path, backbone), image(96)[:, :, :64]
    with torch.no_grad():
        theirs = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    mine = asked(tmp_path, x)
    logits = theirs.logits.numpy()
    assert np.abs(logits - logits[::-1]).max() > 0.01  # the picture matters
    np.testing.assert_allclose(mine.features["class_logits"], logits, atol=TOLERANCE)
    probabilities = theirs.logits.softmax(-1).numpy()[..., :3]
    np.testing.assert_allclose(jax.nn.sigmoid(mine.logits["classes"]), probabilities, atol=TOLERANCE)
    cx, cy, width, height = np.moveaxis(theirs.pred_boxes.numpy() * [64, 96, 64, 96], -1, 0)
    corners = np.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], -1)
    np.testing.assert_allclose(mine.logits["boxes"], corners, atol=64 * TOLERANCE)


def test_names_of_earlier_versions_are_read(tmp_path):
    folder_of(tmp_path)
    before = asked(tmp_path, image(64)).logits
    arrays = load_file(tmp_path / "model.safetensors")
    old = {
        k.replace(".backbone.model.", ".backbone.conv_encoder.model.")
        .replace(".o_proj.", ".out_proj.")
        .replace(".mlp.fc", ".fc"): v
        for k, v in arrays.items()
    }
    assert {*old} != {*arrays} or any("out_proj" in k for k in arrays)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(asked(tmp_path, image(64)).logits["boxes"], before["boxes"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_of_timm_is_read(backbone, tmp_path):
    """As facebook/detr-resnet-50 is stored: no backbone_config, and timm's names."""
    folder_of(tmp_path, backbone)
    before = asked(tmp_path, image(64)).logits
    body = pretrained.backbone_of(pretrained.open_checkpoint(tmp_path))
    theirs = resnet.torchvision_names(body, "fc")
    names = {there: theirs[here] for here, there in resnet.hugging_face_names(body).items()}
    arrays = {}
    for name, x in load_file(tmp_path / "model.safetensors").items():
        module, _, leaf = name.rpartition(".")
        inside = (
            module.partition("model.backbone.model.")[2] or module.partition("model.backbone.conv_encoder.model.")[2]
        )
        arrays[f"model.backbone.conv_encoder.model.{names[inside]}.{leaf}" if inside else name] = x
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"backbone_config": None, "backbone": "resnet50"}))
    np.testing.assert_array_equal(asked(tmp_path, image(64)).logits["boxes"], before["boxes"])


def test_some_of_its_classes_stand_for_those_of_the_data(tmp_path):
    folder_of(tmp_path)
    x = image(64)
    whole, some = asked(tmp_path, x).logits, asked(tmp_path, x, chosen=(2, 0), num_classes=2).logits
    np.testing.assert_array_equal(some["classes"], whole["classes"][..., [2, 0]])
    small = asked(tmp_path, x, picture=(32, 16)).logits["boxes"]
    np.testing.assert_allclose(small, np.asarray(whole["boxes"]) * np.array([0.25, 0.5, 0.25, 0.5]), rtol=1e-6)


def test_what_does_not_fit_is_said(tmp_path):
    folder_of(tmp_path)
    with pytest.raises(ValueError, match=r"has 3 classes \(cat, dog, tree, ...\), and the data 10: `chosen` names"):
        pretrained.of(tmp_path, num_classes=10)
    with pytest.raises(ValueError, match=r"chosen=\(5,\), and its classes are 0 to 2"):
        pretrained.of(tmp_path, chosen=(5,))
    other = tmp_path / "other"
    transformers.ResNetModel(transformers.ResNetConfig(**BACKBONES["basic"])).save_pretrained(other)
    with pytest.raises(ValueError, match="model type is 'resnet'; detectors are read of 'detr' and 'rt_detr'"):
        pretrained.of(other)


def test_a_published_detector_teaches_by_its_sure_boxes(tmp_path):
    folder_of(tmp_path / "detr", id2label={i: f"thing {i}" for i in range(12)})
    teaches(tmp_path / "detr", tmp_path / "run", {"mesh.axes.data": 1})
