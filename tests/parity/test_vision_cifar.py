"""Networks of CIFAR distillation: a .pth with random weights has the logits here that it has in PyTorch."""

import pytest

torch = pytest.importorskip("torch")
import torch_cifar as cifar  # noqa: E402
from torch_peers import TOLERANCE, difference, shaken  # noqa: E402

NETWORKS = {
    "resnet8": lambda: cifar.ResNet((1, 1, 1), (16, 32, 64), 16, 100),
    "resnet20": lambda: cifar.ResNet((3, 3, 3), (16, 32, 64), 16, 10),
    "resnet110": lambda: cifar.ResNet((18, 18, 18), (16, 32, 64), 16, 100),
    "resnet8x4": lambda: cifar.ResNet((1, 1, 1), (64, 128, 256), 32, 100),
    "ResNet50": lambda: cifar.ResNet((3, 4, 6, 3), (64, 128, 256, 512), 64, 100, bottleneck=True, head="linear"),
    "wrn_16_1": lambda: cifar.WideResNet(16, 1, 100),
    "wrn_40_2": lambda: cifar.WideResNet(40, 2, 100),
    "wide_resnet16_2 of torchdistill": lambda: cifar.WideResNet(16, 2, 10, raw=True),
    "vgg8": lambda: cifar.VGG((1, 1, 1, 1, 1), 100),
    "vgg13": lambda: cifar.VGG((2, 2, 2, 2, 2), 100),
    "vgg19": lambda: cifar.VGG((2, 2, 4, 4, 4), 100),
    "MobileNetV2": lambda: cifar.MobileNetV2(100),
    "ShuffleV1": lambda: cifar.ShuffleV1(100),
    "ShuffleV2": lambda: cifar.ShuffleV2(100),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name, tmp_path):
    net = shaken(NETWORKS[name](), 32)
    torch.save({"epoch": 1, "model": net.state_dict(), "best_acc": torch.tensor(0.5)}, tmp_path / "net.pth")
    worst = difference(tmp_path / "net.pth", net, 32)
    print(f"{name}: {worst:.1e}")
    assert worst < TOLERANCE
