"""RegNetY beside Hugging Face's, on its weights."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.models.vision.regnet import RegNet

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PARTS = {
    "excitation/squeeze": "layer.2.attention.0",
    "excitation/excite": "layer.2.attention.2",
    "shortcut": "shortcut",
    "conv1": "layer.0",
    "conv2": "layer.1",
    "conv3": "layer.3",
}
LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var", "kernel": "weight"}


def theirs(path):
    """The name in the state dict of a parameter's path."""
    *where, leaf = path
    if where[0] == "head":
        return f"classifier.1.{LEAVES[leaf]}"
    kind = {"conv": ".convolution", "norm": ".normalization"}.get(where[-1], "")
    where = where[:-1] if kind else where
    if where[0] == "stem":
        return f"regnet.embedder.embedder{kind}.{LEAVES[leaf]}"
    stage, block, *inside = where
    part = PARTS["/".join(inside)]
    return f"regnet.encoder.stages.{int(stage[-1]) - 1}.layers.{block[-1]}.{part}{kind}.{LEAVES[leaf]}"


def test_logits_agree():
    config = transformers.RegNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32], depths=[1, 2, 1], groups_width=8, layer_type="y", num_labels=5
    )
    torch.manual_seed(0)
    network = transformers.RegNetForImageClassification(config).eval()
    for name, x in network.named_buffers():
        if "running" in name:
            x.data = torch.rand_like(x) + 0.5
    state = {k: v.detach().numpy() for k, v in network.state_dict().items()}
    module = RegNet(5, (16, 24, 32), (1, 2, 1), 8, stem_width=8)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), jnp.asarray(x), train=False)
    flat = flax.traverse_util.flatten_dict(variables)
    loaded = {}
    for path, value in flat.items():
        array = state[theirs(path[1:])]
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if array.ndim == 2 else array
        assert array.shape == value.shape, path
        loaded[path] = array
    assert len(loaded) == len([k for k in state if "num_batches" not in k])
    logits = module.apply(flax.traverse_util.unflatten_dict(loaded), jnp.asarray(x), train=False)
    with torch.no_grad():
        expected = network(torch.tensor(x.transpose(0, 3, 1, 2))).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
