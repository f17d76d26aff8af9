"""Checkpoints of vision networks that are none, or not those that the user means."""

import json
import os
import pickle
import zipfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from mistakes import Mistake, check, each
from safetensors.numpy import save_file
from torch_free import write_pth

from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import pretrained
from kd_jax.models.vision.pretrained import cifar
from kd_jax.models.vision.vgg import vgg8
from kd_jax.models.vision.wide_resnet import wrn_16_1

KEY = jax.random.key(0)


def arrays(classes=5):
    module = wrn_16_1(classes)
    variables = LinenModel(module).init(KEY, jnp.zeros((1, 8, 8, 3)))
    return cifar.to_torch(*jax.tree.map(np.asarray, variables), module)


def saved(folder, made, name="wrn.safetensors"):
    save_file(made, folder / name)
    return str(folder / name)


def load(path, module=None):
    return pretrained.load(module or pretrained.of(path), KEY, path)


def without(*names):
    return lambda folder: load(saved(folder, {k: v for k, v in arrays().items() if k not in names}))


def misshapen(folder):
    made = arrays()
    made["block2.layer.1.conv1.weight"] = made["block2.layer.1.conv1.weight"][:, :9]
    load(saved(folder, made))


def folder_of(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    saved(folder, arrays(), "model.safetensors")
    pretrained.of(str(folder))


class Running:
    """A pickle that runs a command when it is read by pickle."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder / 'ran'}",)


def running(folder, archive):
    """A .pth that would run a command, in either format."""
    text, path = pickle.dumps({"state_dict": Running(folder)}, protocol=2), folder / "net.pth"
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("net/data.pkl", text)
    else:
        path.write_bytes(text)
    try:
        pretrained.of(str(path))
    finally:
        assert not (folder / "ran").exists()


def cut(folder):
    path = folder / "wrn.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/data.pkl", pickle.dumps({})[:-1])
    pretrained.of(str(path))


def text_file(folder):
    (folder / "wrn.pth").write_text("<html>404</html>")
    pretrained.of(str(folder / "wrn.pth"))


def program(folder):
    with zipfile.ZipFile(folder / "net.pt", "w") as file:
        for name in ("data.pkl", "constants.pkl"):
            file.writestr(f"net/{name}", pickle.dumps({}))
    pretrained.of(str(folder / "net.pt"))


def several(folder):
    for name in ("a.safetensors", "b.safetensors"):
        saved(folder, arrays(), name)
    pretrained.of(str(folder))


def nothing(folder):
    (folder / "notes.txt").write_text("")
    pretrained.of(str(folder))


def no_parameters(folder, monkeypatch):
    path = write_pth(folder / "net.pth", {"epoch": 3, "loss": 0.1}, monkeypatch)
    pretrained.of(str(path))


def timm_without_its_name(folder):
    made = {"conv_stem.weight": (8, 3, 3, 3), "bn2.weight": (8,), "classifier.weight": (5, 8), "conv_head.weight": (8,)}
    inputs = 8
    for g, width in enumerate((8, 16, 24, 32, 40, 48, 56)):
        made |= {
            f"blocks.{g}.0.conv_dw.weight": (inputs, 1, 3, 3),
            f"blocks.{g}.0.conv_pw.weight": (width, inputs, 1, 1),
        }
        inputs = width
    pretrained.of(saved(folder, {k: np.zeros(shape, np.float32) for k, shape in made.items()}, "net.safetensors"))


ROWS = [
    Mistake("a checkpoint without one of its tensors", "missing: 'bn1.weight'", without("bn1.weight"), "reading"),
    Mistake(
        "a checkpoint without an average",
        "missing: 'block1.layer.0.bn1.running_mean' (here 'batch_stats/stage1/block0/norm1/mean')",
        without("block1.layer.0.bn1.running_mean"),
        "reading",
    ),
    Mistake(
        "a checkpoint with a tensor of another shape",
        "wrong shape: 'block2.layer.1.conv1.weight' has (32, 9, 3, 3)",
        misshapen,
        "reading",
    ),
    Mistake(
        "a checkpoint of another network than the model",
        "is a WideResNet, the model a VGG: make it with of(",
        lambda folder: load(saved(folder, arrays()), vgg8(5)),
        "reading",
    ),
    Mistake(
        "a checkpoint of other classes than the data",
        "it has 5 classes, 10 are asked: its head is new and random. Train it, or distill from its taps alone.",
        lambda folder: pretrained.of(saved(folder, arrays()), num_classes=10),
        "reading",
        goes_on=True,
    ),
    Mistake(
        "float16 weights",
        "its numbers are float16; they are read as float32",
        lambda folder: load(saved(folder, {k: v.astype(np.float16) for k, v in arrays().items() if v.ndim})),
        "reading",
        goes_on=True,
    ),
    Mistake(
        "an architecture that is not there",
        "the model type is 'resnext'. Did you mean 'resnet'",
        lambda folder: folder_of(folder, {"model_type": "resnext"}),
        "reading",
    ),
    Mistake(
        "a state dict of an unknown network",
        "no family has these 1 names (layers.0.weight, ...)",
        lambda folder: pretrained.of(saved(folder, {"layers.0.weight": np.zeros(3, np.float32)})),
        "reading",
    ),
    Mistake(
        "a pickle that runs a command",
        "is refused: it asks for os.system, which arrays do not need; nothing of it was run",
        lambda folder: running(folder, archive=True),
        "reading",
    ),
    Mistake(
        "a pickle of the old format that runs a command",
        "is refused: it asks for os.system, which arrays do not need; nothing of it was run",
        lambda folder: running(folder, archive=False),
        "reading",
    ),
    Mistake("a .pth that is cut off", "is not readable: it is cut off, or torch.save did not write it", cut, "reading"),
    Mistake("a .pth that is a web page", "is not readable: it is cut off, or torch.save did", text_file, "reading"),
    Mistake("a TorchScript program", "is refused: it is a program of TorchScript. Save its arrays", program, "reading"),
    Mistake(
        "a folder with several checkpoints", "expected one file of weights; name one of several", several, "reading"
    ),
    Mistake(
        "a folder without weights", "expected a file of weights (.safetensors, .pth, …notes.txt", nothing, "reading"
    ),
    Mistake(
        "an EfficientNet of timm that is not called so",
        "is an EfficientNet or MobileNetV3 of timm, called 'net'…Name the file after it",
        timm_without_its_name,
        "reading",
    ),
    Mistake(
        "a network that transformers has no class for",
        "transformers has no class for this VGG. There is: resnet",
        lambda folder: pretrained.save(vgg8(5), {}, {}, folder),
        "reading",
    ),
    Mistake(
        "a network that is none of these",
        "expected a network of models.vision, got Dense",
        lambda folder: pretrained.save(nn.Dense(3), {}, {}, folder),
        "reading",
    ),
]


@each(ROWS)
def test_vision_weights(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


def test_a_pth_without_parameters(tmp_path, monkeypatch, capsys):
    says = "holds no parameters, alone or under state_dict, model, net…it is {epoch, loss}"
    mistake = Mistake("a .pth without parameters", says, lambda folder: no_parameters(folder, monkeypatch), "reading")
    check(mistake, tmp_path, capsys)
