"""DINOv3's vision transformers as folders of Hugging Face.

Siméoni et al., "DINOv3", 2025, arXiv 2508.10104. The output is the class token [batch, width], the patches are the tap
tokens/patches. `num_classes` makes a head on the class token, which transformers has no class for: such a network is
not written. What its positions do in training alone (jitter, rescale) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.models.vision.pretrained import vit_names as names
from kd_jax.models.vision.pretrained.conv_names import classes_of
from kd_jax.models.vision.vit import ViT
from kd_jax.models.vision.vit_parts import LETTERS
from kd_jax.types import PyTree

MODEL_TYPES = ("dinov3_vit",)
TABLE: names.Table = {
    "class_token": "embeddings.cls_token",
    "register_tokens": "embeddings.register_tokens",
    "patches": "embeddings.patch_embeddings",
    "block{}/norm1": "layer.{}.norm1",
    "block{}/norm2": "layer.{}.norm2",
    "block{}/attention/queries": "layer.{}.attention.q_proj",
    "block{}/attention/keys": "layer.{}.attention.k_proj",
    "block{}/attention/values": "layer.{}.attention.v_proj",
    "block{}/attention/out": "layer.{}.attention.o_proj",
    "block{}/layer_scale1": "layer.{}.layer_scale1.lambda1",
    "block{}/layer_scale2": "layer.{}.layer_scale2.lambda1",
    "block{}/gate": "layer.{}.mlp.gate_proj",
    "block{}/mlp1": "layer.{}.mlp.up_proj",
    "block{}/mlp2": "layer.{}.mlp.down_proj",
    "norm": "norm",
    "head": "classifier",
}
FIELDS = names.FIELDS | {
    "drop_path": "drop_path_rate",
    "layer_scale": "layerscale_value",
    "registers": "num_register_tokens",
    "theta": "rope_theta",
    "gated": "use_gated_mlp",
}
DEFAULTS = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 16,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_gated_mlp": False,
    "num_register_tokens": 0,
    "rope_theta": 100.0,
}
BIASES = dict(zip(LETTERS, ("query_bias", "key_bias", "value_bias"), strict=True))


def build(config: Mapping[str, Any]) -> ViT:
    """Returns the ViT of a config.json; ValueError for layers without biases that here have them."""
    config = {**DEFAULTS, **config}
    if not (config["proj_bias"] and config["mlp_bias"]):
        raise ValueError("config.json: proj_bias and mlp_bias must be true: networks without them are not read.")
    biases = "".join(letter for letter, name in BIASES.items() if config[name])
    options = names.options_of(config, FIELDS, DEFAULTS)
    return ViT(num_classes=classes_of(config), positions="rotary", biases=biases, **options)


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation where no file has it: ImageNet's of whole images, in the size of its positions."""
    return {**names.WHOLE, "size": build(config).image_size}


def to_flax(arrays: names.Arrays, module: ViT) -> tuple[PyTree, PyTree]:
    """Returns (params, {}) of a DINOv3; ValueError lists what is missing, unexpected or of another shape."""
    arrays = {name.removeprefix("model."): value for name, value in arrays.items()}
    if not module.registers:  # transformers writes an empty array
        arrays.pop("embeddings.register_tokens", None)
    return names.read(arrays, TABLE, module, (r"mask_token$", r"inv_freq$")), {}


def to_torch(params: PyTree, stats: PyTree, module: ViT) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers, and a mask token of 0, which its class has; no `stats`."""
    del stats
    arrays = names.write(params, TABLE)
    arrays["embeddings.mask_token"] = np.zeros((1, 1, module.width), np.float32)
    arrays.setdefault("embeddings.register_tokens", np.zeros((1, 0, module.width), np.float32))
    return arrays


def owns(module: nn.Module) -> bool:
    """Returns whether transformers has a DINOv3 that computes what the module computes, but for its head."""
    return isinstance(module, ViT) and names.same(module, build({**_config(module), "num_labels": module.num_classes}))


def config_of(module: ViT, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes. ValueError for a head."""
    if module.num_classes:
        raise ValueError("transformers has no DINOv3 with a classifier: only one without (num_classes=0) is written.")
    return _config(module) | {"num_channels": int(params["patches"]["kernel"].shape[2])}


def _config(module: ViT) -> dict[str, Any]:
    config = names.config_of(module, FIELDS, "dinov3_vit", "DINOv3ViTModel")
    return config | {name: letter in module.biases for letter, name in BIASES.items()}


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns None: timm's and the authors' own names of DINOv3 are not read."""
    del arrays
    return None
