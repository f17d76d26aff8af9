"""EfficientNets of transformers: equal logits here, and in transformers after they were written back."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch_peers import shaken, there_and_back  # noqa: E402

FEW = {
    "kernel_sizes": [3, 5, 3, 5, 3],
    "in_channels": [32, 16, 16, 24, 40],
    "out_channels": [16, 16, 24, 40, 56],
    "strides": [1, 1, 2, 2, 2],
    "num_block_repeats": [1, 1, 2, 1, 1],
    "expand_ratios": [1, 6, 6, 6, 4],
}
CONFIGS = {
    "b0, few blocks": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, **FEW},
    "symmetric padding": {
        **{"width_coefficient": 1.0, "depth_coefficient": 2.0, "hidden_dim": 1280, **FEW},
        "depthwise_padding": [4, 6],
    },
    "b2": {"width_coefficient": 1.1, "depth_coefficient": 1.2, "hidden_dim": 1408},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_folder_of_transformers_there_and_back(name, tmp_path):
    config = transformers.EfficientNetConfig(num_labels=7, image_size=64, **CONFIGS[name])
    net = shaken(transformers.EfficientNetForImageClassification(config))
    there_and_back(net, name, tmp_path)
