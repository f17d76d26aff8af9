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
    net = shaken(make(name, num_classes=9))
    torch.save(net.state_dict(), tmp_path / f"{name}.pth")
    found, size = difference(tmp_path / f"{name}.pth", net, 64)
    print(f"{library} {name}: {found:.1e} of {size:.1f}")
    assert found < TOLERANCE * max(1, size)
