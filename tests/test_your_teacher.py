"""The ten recipes of docs/your_teacher.md run as they stand, with fewer steps, and each is at most ten lines."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel

PAGE = (Path(__file__).parent.parent / "docs" / "your_teacher.md").read_text()
RECIPES = dict(re.findall(r"^## (.*?)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE, flags=re.M | re.S))
(FIRST,) = re.findall(r"^# .*?^```python\n(.*?)^```$", PAGE.partition("\n## ")[0], flags=re.M | re.S)
QUICK = "config.train.steps, config.report, config.train.batch_size = 2, False, 16\nconfig.eval_batch_size = 64\n"


def hugging_face_vit(folder, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from vision_checkpoints import folder_of, network

    folder_of(network("vit", num_labels=10), folder / "folder")


def torchvision_resnet(folder, monkeypatch):
    """Its names and shapes, with random weights: torchvision itself is not needed."""
    from torch_free import write_pth

    from kd_jax.models.vision import pretrained
    from kd_jax.models.vision.resnet import resnet18

    net = resnet18(1000)
    variables = jax.tree.map(np.asarray, LinenModel(net).init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))
    arrays = torchvision_names(pretrained.FAMILIES["resnet"].to_torch(*variables, net))
    write_pth(folder / "resnet18.pth", arrays, monkeypatch)


def repdistiller(folder, monkeypatch):
    from torch_free import write_pth

    from kd_jax.models.vision.pretrained import cifar
    from kd_jax.models.vision.wide_resnet import wrn_16_1

    net = wrn_16_1(10)
    variables = jax.tree.map(np.asarray, LinenModel(net).init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32)))
    write_pth(folder / "wrn_16_1.pth", {"model": cifar.to_torch(*variables, net)}, monkeypatch)


def torchvision_names(arrays):
    """transformers' names of a ResNet with basic blocks as torchvision has them."""
    made = {}
    for name, value in arrays.items():
        name = re.sub(r"^resnet\.embedder\.embedder\.convolution\.", "conv1.", name)
        name = re.sub(r"^resnet\.embedder\.embedder\.normalization\.", "bn1.", name)
        name = re.sub(r"^classifier\.1\.", "fc.", name)
        block = re.match(r"resnet\.encoder\.stages\.(\d)\.layers\.(\d)\.(.*)", name)
        if block:
            rest = re.sub(r"^shortcut\.convolution", "downsample.0", block[3])
            rest = re.sub(r"^shortcut\.normalization", "downsample.1", rest)
            rest = re.sub(r"^layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", rest)
            rest = re.sub(r"^layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", rest)
            name = f"layer{int(block[1]) + 1}.{block[2]}.{rest}"
        made[name] = value
    return made


FILES = {
    "A Hugging Face ViT": hugging_face_vit,
    "torchvision's ResNet": torchvision_resnet,
    "RepDistiller's .pth": repdistiller,
}
NEEDS = {"A PyTorch module": "torch", "A forest of scikit-learn": "sklearn"}


def test_there_are_ten():
    assert len(RECIPES) == 10


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, tmp_path, monkeypatch):
    pytest.importorskip(NEEDS.get(name, "numpy"))
    code = RECIPES[name]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    FILES.get(name, lambda folder, monkeypatch: None)(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)  # after the files: what writes a .pth undoes its patches
    names: dict = {}
    exec(FIRST + QUICK, names)
    exec(code.replace("kd_jax.run(", "results = kd_jax.run("), names)
    last = names["results"]["models"]["student"]["last"]["test"]
    assert 0 <= last["accuracy"] <= 1
    if name not in ("torchvision's ResNet",):  # whose thousand classes are compared with nobody's ten
        assert 0 <= last["agreement"] <= 1
