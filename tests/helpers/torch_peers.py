"""PyTorch networks that checkpoints are compared with: random weights, BatchNorm averages that are not 0 and 1."""

from __future__ import annotations

import importlib
import sys

import jax
import numpy as np
import pytest

from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision import pretrained

torch = pytest.importorskip("torch")
TOLERANCE = 1e-4


def shaken(net, size=64, seed=0, kernels=True):
    """The network in evaluation with drawn weights and averages; its head is scaled so that logits are of size 1.

    `kernels`: they are drawn so that what an image is gets through: with small ones logits are the biases of the last
    layers. In 39 blocks of drawn ones rounding grows to 1e-4 of the logits.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape, low, high):
        return torch.rand(shape, generator=generator) * (high - low) + low

    for module in net.modules():
        if kernels and isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.data, module.running_var.data = drawn(shape, -0.3, 0.3), drawn(shape, 0.5, 1.5)
            module.weight.data, module.bias.data = drawn(shape, 0.6, 1.4), drawn(shape, -0.3, 0.3)
    net.eval()
    heads = [module for module in net.modules() if isinstance(module, torch.nn.Linear)]
    if heads:
        scale = logits_of(net, image(size)).std()
        heads[-1].weight.data /= scale
        if heads[-1].bias is not None:
            heads[-1].bias.data /= scale
    return net


def image(size, batch=2, channels=3, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, size, size, channels)).astype(np.float32)


def logits_of(net, x):
    """Logits of a PyTorch network of images [batch, height, width, channels]."""
    with torch.no_grad():
        out = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return getattr(out, "logits", out).numpy()


def ours(path, x):
    """(module, params, stats, logits of `x`) of a checkpoint."""
    module = pretrained.of(str(path))
    model = LinenModel(module)
    params, stats = pretrained.load(model, jax.random.key(0), str(path))
    apply = jax.jit(lambda p, s, x: model.apply(p, s, x, train=False, key=jax.random.key(0))[0].logits)
    return module, params, stats, np.asarray(apply(params, stats, x))


def difference(path, net, size):
    """The largest difference of logits, of which those of two images must differ."""
    x = image(size)
    theirs, (*_, mine) = logits_of(net, x), ours(path, x)
    assert mine.shape == theirs.shape and np.abs(theirs[0] - theirs[1]).max() > 20 * TOLERANCE
    return float(np.abs(mine - theirs).max())


def there_and_back(net, label, folder, size=64):
    """A network of transformers is read from its folder, and written into another, which transformers reads."""
    import transformers

    net.save_pretrained(folder / "theirs")
    worst = difference(folder / "theirs", net, size)
    print(f"{label}: {worst:.1e}")
    assert worst < TOLERANCE
    x = image(size)
    module, params, stats, logits = ours(folder / "theirs", x)
    pretrained.save(module, params, stats, folder / "ours")
    back = transformers.AutoModelForImageClassification.from_pretrained(folder / "ours").eval()
    assert abs(logits_of(back, x) - logits).max() < TOLERANCE


def _declare_operators():
    """A torchvision built for another PyTorch (CUDA beside a CPU build) misses operators that no classifier needs."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


try:
    importlib.import_module("torchvision")
except ImportError:
    pass
except RuntimeError:
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[loaded]
    OPERATORS = _declare_operators()
