"""ConvNeXts of transformers: equal logits here, and in transformers after they were written back."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch_peers import shaken, there_and_back  # noqa: E402

SMALL = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_labels": 7}


@pytest.mark.parametrize("kind", ["ConvNext", "ConvNextV2"])
def test_folder_of_transformers_there_and_back(kind, tmp_path):
    config = getattr(transformers, f"{kind}Config")(**SMALL)
    net = shaken(getattr(transformers, f"{kind}ForImageClassification")(config))
    for name, parameter in net.named_parameters():
        if "layer_scale" in name or ".grn." in name:  # 1e-6 and 0 would hide the block
            torch.nn.init.uniform_(parameter, 0.3, 0.9)
    there_and_back(net, kind, tmp_path)
