"""ViT and DeiT as folders of Hugging Face, and as state dicts of timm: DeiT with its distillation token, DeiT III.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv 2010.11929; Touvron et al., "Training data-efficient
image transformers & distillation through attention", 2020, arXiv 2012.12877; the same, "DeiT III", 2022, arXiv
2204.07118. The tanh pooler of ViTModel is left out: without a classifier the output is the class token. Dropout of
attention is left out too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.models.vision.pretrained import timm_names
from kd_jax.models.vision.pretrained import vit_names as names
from kd_jax.models.vision.pretrained.conv_names import classes_of
from kd_jax.models.vision.pretrained.preparing import IMAGENET
from kd_jax.models.vision.vit import ViT
from kd_jax.models.vision.vit_parts import LETTERS
from kd_jax.types import PyTree

MODEL_TYPES = ("vit", "deit")
LAYER = "encoder.layer.{}"
TABLE: names.Table = {
    "class_token": "embeddings.cls_token",
    "distillation_token": "embeddings.distillation_token",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "block{}/norm1": f"{LAYER}.layernorm_before",
    "block{}/norm2": f"{LAYER}.layernorm_after",
    "block{}/attention/queries": f"{LAYER}.attention.attention.query",
    "block{}/attention/keys": f"{LAYER}.attention.attention.key",
    "block{}/attention/values": f"{LAYER}.attention.attention.value",
    "block{}/attention/out": f"{LAYER}.attention.output.dense",
    "block{}/mlp1": f"{LAYER}.intermediate.dense",
    "block{}/mlp2": f"{LAYER}.output.dense",
    "norm": "layernorm",
    "head": "classifier",
    "head_distillation": "distillation_classifier",
}
FIELDS = names.FIELDS | {
    "dropout": "hidden_dropout_prob",
}
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
}
IGNORED = (r"^pooler\.", r"mask_token$")


def build(config: Mapping[str, Any]) -> ViT:
    """Returns the ViT of a config.json; without a classifier its output is the class token [batch, width].

    A DeiT has two heads where its class in transformers is ...WithTeacher, one otherwise.
    """
    architecture = (config.get("architectures") or [""])[0]
    return ViT(
        num_classes=classes_of(config),
        distillation_token=config.get("model_type") == "deit",
        distillation_head=architecture.endswith("WithTeacher"),
        biases=LETTERS if config.get("qkv_bias", True) else "",
        layer_scale=config.get("layerscale_value", 0.0),  # DeiT III has it, the class in transformers has not
        **names.options_of(config, FIELDS, DEFAULTS),
    )


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation where no file has it: DeiT's is ImageNet's, ViT's (x / 255 - 0.5) / 0.5.

    The size is that of its positions.
    """
    return {**(IMAGENET if config.get("model_type") == "deit" else names.HALF), "size": build(config).image_size}


def to_flax(arrays: names.Arrays, module: ViT) -> tuple[PyTree, PyTree]:
    """Returns (params, {}) of a ViT or DeiT; ValueError lists what is missing, unexpected or of another shape."""
    if timm_names.is_timm(arrays):
        return names.read(timm_names.arranged(arrays), timm_names.TABLE, module), {}
    arrays = {name.removeprefix("vit.").removeprefix("deit."): value for name, value in arrays.items()}
    return names.read(arrays, table_of(module), module, IGNORED), {}


def to_torch(params: PyTree, stats: PyTree, module: ViT) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers; `stats` are empty."""
    del stats
    arrays, root = names.write(params, table_of(module)), "deit." if module.distillation_token else "vit."
    heads = ("classifier.", "cls_classifier.", "distillation_classifier.")
    return {k if k.startswith(heads) or not module.num_classes else root + k: v for k, v in arrays.items()}


def owns(module: nn.Module) -> bool:
    """Returns whether transformers has a ViT or DeiT that computes what the module computes."""
    return isinstance(module, ViT) and names.same(module, build({**_config(module), "num_labels": module.num_classes}))


def config_of(module: ViT, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    return _config(module) | names.sizes_of(module, params)


def _config(module: ViT) -> dict[str, Any]:
    kind = ("DeiT" if module.distillation_token else "ViT") + (
        "ForImageClassification" if module.num_classes else "Model"
    )
    kind += "WithTeacher" if module.distillation_token and module.distillation_head and module.num_classes else ""
    model_type = "deit" if module.distillation_token else "vit"
    return names.config_of(module, FIELDS, model_type, kind) | {"qkv_bias": bool(module.biases)}


def table_of(module: ViT) -> dict[str, str]:
    """Returns the names of a ViT or DeiT: of two heads, that of the class token is called cls_classifier."""
    two = module.distillation_token and module.distillation_head
    return {**TABLE, "head": "cls_classifier"} if two else dict(TABLE)


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns a config.json of a ViT, DeiT or DeiT III of timm from names and shapes, None for other arrays."""
    others = ("norm_pre.weight", "fc_norm.weight", "reg_token", "register_tokens", "mask_token")
    if not timm_names.is_timm(arrays) or "cls_token" not in arrays or any(name in arrays for name in others):
        return None
    scaled = "blocks.0.ls1.gamma" in arrays
    if timm_names.is_gated(arrays) or (scaled and "head.weight" not in arrays):  # DINOv2
        return None
    config = timm_names.sizes_of(arrays) | ({"layerscale_value": 1e-6} if scaled else {})
    if "dist_token" not in arrays:
        return {**config, "model_type": "vit"}
    return {**config, "model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}
