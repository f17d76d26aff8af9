"""State dicts of torchvision and timm: equal logits here."""

import pytest

torch = pytest.importorskip("torch")
from torch_peers import TOLERANCE, difference, shaken  # noqa: E402

STATE_DICTS = {
    "torchvision": [
        *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"),
        *("efficientnet_b0", "efficientnet_b5", "mobilenet_v3_small", "mobilenet_v3_large"),
    ],
    "timm": [
        *("resnet34", "resnet50", "resnext50_32x4d"),
        *("efficientnet_b0", "tf_efficientnet_b1", "efficientnet_lite0", "tf_efficientnet_lite0"),
        *("mobilenetv3_small_100", "tf_mobilenetv3_large_100"),
    ],
}


@pytest.mark.parametrize(("library", "name"), [(k, n) for k, names in STATE_DICTS.items() for n in names])
def test_state_dict(library, name, tmp_path):
    peers = pytest.importorskip(library)
    make = getattr(peers, "create_model", None) or peers.models.get_model
    net = shaken(make(name, num_classes=9), kernels=name != "efficientnet_b5")
    torch.save(net.state_dict(), tmp_path / f"{name}.pth")
    worst = difference(tmp_path / f"{name}.pth", net, 64)
    print(f"{library} {name}: {worst:.1e}")
    assert worst < TOLERANCE


# Published ones have 12 blocks and more, which take long to compile here.
FEW = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_atto", "convnextv2_atto"])
def test_convnext_of_timm(name, tmp_path):
    net = pytest.importorskip("timm").create_model(name, num_classes=9, **FEW)
    check_convnext(net, tmp_path / f"{name}.pth")


def test_convnext_of_torchvision(tmp_path):
    convnext = pytest.importorskip("torchvision").models.convnext
    widths = zip(FEW["dims"], (*FEW["dims"][1:], None), FEW["depths"], strict=True)
    net = convnext.ConvNeXt([convnext.CNBlockConfig(*sizes) for sizes in widths], num_classes=9)
    check_convnext(net, tmp_path / "convnext_tiny.pth")


def check_convnext(net, path):
    for name, parameter in net.named_parameters():
        if "layer_scale" in name or "gamma" in name or ".grn." in name:  # 1e-6 and 0 would hide the block
            torch.nn.init.uniform_(parameter, 0.3, 0.9)
    torch.save(shaken(net).state_dict(), path)
    worst = difference(path, net, 64)
    print(f"{path.stem}: {worst:.1e}")
    assert worst < TOLERANCE
