"""The vision tower of SigLIP, and of SigLIP 2 of one size of images, as folders of Hugging Face and as those of timm.

Zhai, Mustafa, Kolesnikov, Beyer, "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv 2303.15343; Tschannen et
al., "SigLIP 2", 2025, arXiv 2502.14786, whose networks of one size are of the model type siglip; those of any size
("NaFlex", siglip2) are read as well. Without a classifier the output is what attention pools [batch, width]. A
classifier reads the mean of the patches, as SiglipForImageClassification does; the weights of the pool are then left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.models.vision.pretrained import clip, timm_names
from kd_jax.models.vision.pretrained import vit_names as names
from kd_jax.models.vision.pretrained.conv_names import classes_of
from kd_jax.models.vision.vit import ViT
from kd_jax.types import PyTree

MODEL_TYPES = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")
TABLE: names.Table = {
    **{ours: theirs for ours, theirs in clip.TABLE.items() if ours not in ("class_token", "first_norm", "projection")},
    "pool/probe": "head.probe",
    "pool/queries": "head.attention.queries",
    "pool/keys": "head.attention.keys",
    "pool/values": "head.attention.values",
    "pool/out": "head.attention.out_proj",
    "pool/norm": "head.layernorm",
    "pool/mlp1": "head.mlp.fc1",
    "pool/mlp2": "head.mlp.fc2",
}
PARTS = ("head.attention.queries", "head.attention.keys", "head.attention.values")
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
    "num_patches": 256,
}


def build(config: Mapping[str, Any]) -> ViT:
    """Returns the ViT of a config.json, of both towers or of the vision tower alone."""
    tower, classes = {**DEFAULTS, **config.get("vision_config", config)}, classes_of(config)
    any_size = str(config.get("model_type", "")).startswith("siglip2")
    if any_size:
        tower["image_size"] = math.isqrt(tower["num_patches"]) * tower["patch_size"]
    pooled = tower["vision_use_head"] and (not classes or config.get("global_pool") == "map")  # timm's word
    return ViT(
        num_classes=classes,
        class_token=False,
        pool="attention" if pooled else "mean",
        resample="bilinear_antialias" if any_size else "bicubic",
        **names.options_of(tower, names.FIELDS, DEFAULTS),
    )


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation where no file has it: (x / 255 - 0.5) / 0.5, in the size of its positions."""
    return {**names.HALF, "size": build(config).image_size}


def to_flax(arrays: names.Arrays, module: ViT) -> tuple[PyTree, PyTree]:
    """Returns (params, {}) of a vision tower; ValueError lists what is missing, unexpected or of another shape."""
    ignored = () if module.pool == "attention" else (r"^head\.(probe|attention|layernorm|mlp)", r"^attn_pool\.")
    if timm_names.is_timm(arrays):
        return names.read(timm_names.arranged(arrays), timm_names.TABLE, module, ignored), {}
    towers = (name for name in arrays if not name.startswith("text_model."))  # which is not read from its file
    arrays = {name.removeprefix("vision_model."): arrays[name] for name in towers}
    arrays = names.split(arrays, "head.attention.in_proj", PARTS)
    kernel = arrays.get("embeddings.patch_embedding.weight")
    if kernel is not None and kernel.ndim == 2:  # [width, patch * patch * channels]
        kernel = np.asarray(kernel).reshape(len(kernel), module.patch, module.patch, -1)
        arrays["embeddings.patch_embedding.weight"] = kernel.transpose(0, 3, 1, 2)
    return names.read(arrays, TABLE, module, (*clip.IGNORED, r"^logit_bias$", *ignored)), {}


def to_torch(params: PyTree, stats: PyTree, module: ViT) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers; `stats` are empty."""
    del stats
    arrays = names.merge(names.write(params, TABLE), PARTS, "head.attention.in_proj_")
    arrays[TABLE["positions"]] = arrays[TABLE["positions"]][0]
    if module.resample == "bilinear_antialias":
        kernel = arrays["embeddings.patch_embedding.weight"].transpose(0, 2, 3, 1)
        arrays["embeddings.patch_embedding.weight"] = np.ascontiguousarray(kernel.reshape(len(kernel), -1))
    return {k if k.startswith("classifier.") else f"vision_model.{k}": v for k, v in arrays.items()}


def owns(module: nn.Module) -> bool:
    """Returns whether transformers has a SigLIP that computes what the module computes."""
    return isinstance(module, ViT) and names.same(
        module, build({**_config(module, {}), "num_labels": module.num_classes})
    )


def config_of(module: ViT, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    return _config(module, names.sizes_of(module, params))


def _config(module: ViT, sizes: Mapping[str, int]) -> dict[str, Any]:
    any_size = module.resample == "bilinear_antialias"
    name, kind = ("siglip2", "Siglip2") if any_size else ("siglip", "Siglip")
    config: dict[str, Any] = {
        **names.config_of(module, names.FIELDS, f"{name}_vision_model", f"{kind}VisionModel"),
        **sizes,
    }
    config["vision_use_head"] = module.pool == "attention"
    if any_size:
        config["num_patches"] = (config.pop("image_size") // module.patch) ** 2
    if not module.num_classes:
        return config
    return {"model_type": name, "architectures": [f"{kind}ForImageClassification"], "vision_config": config}


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns a config.json of a SigLIP of timm from names and shapes, None for other arrays."""
    if not timm_names.is_timm(arrays) or "attn_pool.latent" not in arrays or "cls_token" in arrays:
        return None
    sizes = timm_names.sizes_of(arrays)
    return {**sizes, "model_type": "siglip_vision_model", "hidden_act": "gelu", "global_pool": "map"}
