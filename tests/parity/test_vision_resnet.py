"""ResNets of transformers: equal logits here, and in transformers after they were written back."""

import pytest

torch = pytest.importorskip("torch")
from torch_peers import TOLERANCE, image, ours, shaken, there_and_back  # noqa: E402

SMALL = {"embedding_size": 8, "num_labels": 7}
HUGGING_FACE = {
    "basic": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"},
    "bottleneck": {"hidden_sizes": [32, 64, 96, 128], "depths": [2, 1, 1, 1]},
    "stride first": {"hidden_sizes": [32, 64], "depths": [1, 2], "downsample_in_bottleneck": True},
    "stride at once": {"hidden_sizes": [32, 64], "depths": [1, 2], "downsample_in_first_stage": True},
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_folder_of_transformers_there_and_back(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(**SMALL, **HUGGING_FACE[name])
    net = shaken(transformers.ResNetForImageClassification(config))
    there_and_back(net, name, tmp_path)


def test_folder_without_a_classifier(tmp_path):
    transformers = pytest.importorskip("transformers")
    net = shaken(transformers.ResNetModel(transformers.ResNetConfig(**SMALL, **HUGGING_FACE["basic"])))
    net.save_pretrained(tmp_path)
    x = image(64)
    with torch.no_grad():
        pooled = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).pooler_output.flatten(1).numpy()
    assert abs(ours(tmp_path, x)[3] - pooled).max() < TOLERANCE
