"""Students as kd_jax.load gives them, without a training: tiny networks of every kind with drawn values."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from kd_jax.core.prepare import Preparation
from kd_jax.export.examples import Examples
from kd_jax.models.adapters import NNXModel, as_model
from kd_jax.models.described import NotDescribable, describe
from kd_jax.models.language import decoder_families
from kd_jax.models.language.bert import encoder
from kd_jax.models.mlp import mlp
from kd_jax.models.vision import cnn, mobilenet, resnet, shufflenet, vgg, vit, wide_resnet
from kd_jax.train.student import Student

CLASSES, VOCABULARY, LENGTH = 4, 11, 6


class Theirs(nn.Module):
    """A Linen network of a user's."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1)))


class TheirsNNX(nnx.Module):
    """An NNX network of a user's, with state."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


SMALL = {"width": 8, "depth": 1, "heads": 2, "hidden": 8}
IMAGES = {
    "mlp": lambda: mlp(CLASSES, (8,)),
    "cnn": lambda: cnn.cnn(CLASSES, (4, 8)),
    "resnet": lambda: resnet.resnet18(CLASSES, blocks=(1, 1), widths=(4, 8), stem_width=4),
    "wide_resnet": lambda: wide_resnet.WideResNet(CLASSES, 10, 1),
    "vgg": lambda: vgg.VGG(CLASSES, (1, 1), (4, 8)),
    "mobilenet_v1": lambda: mobilenet.mobilenet_v1(CLASSES, width=0.125, stages=(((32, 1), (64, 2)),)),
    "shufflenet_v1": lambda: shufflenet.shufflenet_v1(CLASSES, units=(2,), widths=(48,)),
    "shufflenet_v2": lambda: shufflenet.shufflenet_v2(CLASSES, units=(2,), widths=(8,), last=8),
    "vit": lambda: vit.vit(CLASSES, 4, 8, 1, 2),
    "linen": Theirs,
    "nnx": lambda: NNXModel(TheirsNNX),
}
ENCODERS = {
    head: lambda head=head: encoder(VOCABULARY, 8, 1, 2, 8, 12, head, CLASSES) for head in ("classes", "sentence")
}
DECODERS = {
    "llama": lambda: decoder_families.llama(VOCABULARY, **SMALL),
    "gpt2": lambda: decoder_families.gpt2(VOCABULARY, **SMALL, max_length=LENGTH),
}
NETWORKS = {**IMAGES, **ENCODERS, **DECODERS}


def student_of(name, shape=(8, 8, 1), seed=0):
    """The network of a name with drawn values; images are uint8, prepared by mean .5 and deviation .25."""
    model, tokens = as_model(NETWORKS[name]()), name not in IMAGES
    shape, dtype, entry = ((LENGTH,), "int32", "tokens") if tokens else (shape, "uint8", "image")
    example = jax.ShapeDtypeStruct((1, *shape), "int32" if tokens else "float32")
    params, stats = jax.eval_shape(model.init, jax.random.key(0), example)
    rng = np.random.default_rng(seed)
    params, stats = jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype(x.dtype), (params, stats))
    params = jax.tree.map(lambda x: x - 0.3 if x.ndim > 1 else x, params)
    try:
        architecture = describe(model)
    except NotDescribable as e:
        architecture = {"name": None, "class": name, "why": str(e)}
    mean, std = [0.5] * shape[-1], [0.25] * shape[-1]
    prepare = describe(Preparation({"image": ()}, tuple(mean), tuple(std), CLASSES))
    info = {
        "schema": 1,
        "role": "student",
        "architecture": architecture,
        "entry": "student",
        "entries": ["student"],
        "inputs": [f"batch.{entry}"],
        "input": {"shape": list(shape), "dtype": dtype},
        "fields": {},
        "label": {"shape": [], "dtype": "int32"},
        "preparation": {
            **{"entry": entry, "scale": 1 if tokens else 255, "size": None, "crop": "", "text": None},
            **dict.fromkeys(("mean", "std", "prepare")),
            **({} if tokens else {"mean": mean, "std": std, "prepare": prepare}),
        },
        "task": {"name": "classify", "predicts": "the class", "predict": None, "headline": {}},
        "classes": [] if name in DECODERS else [f"class {i}" for i in range(CLASSES)],
        "data": {"name": "drawn", "noun": "image", "num_classes": CLASSES},
    }
    return Student(info, model, jax.device_put(params), jax.device_put(stats), {}, "student")


def examples_of(student, count=6):
    """Drawn examples of what the student reads, with labels."""
    rng, spec = np.random.default_rng(1), student.info["input"]
    high = 255 if spec["dtype"] == "uint8" else VOCABULARY
    raw = rng.integers(1, high, (count, *spec["shape"])).astype(spec["dtype"])
    return Examples({student.info["preparation"]["entry"]: raw}, (np.arange(count) % CLASSES).astype(np.int32))
