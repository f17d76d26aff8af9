"""DINOv2, with registers or without, as folders of Hugging Face and as state dicts of its authors and of timm.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, arXiv 2304.07193; Darcet, Oquab,
Mairal, Bojanowski, "Vision Transformers Need Registers", 2023, arXiv 2309.16588. Without a classifier the output is the
class token [batch, width], and the patches are the tap tokens/patches.
"""

from __future__ import annotations

import re
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

MODEL_TYPES = ("dinov2", "dinov2_with_registers")
LAYER = "encoder.layer.{}"
TABLE: names.Table = {
    "class_token": "embeddings.cls_token",
    "register_tokens": "embeddings.register_tokens",
    "positions": "embeddings.position_embeddings",
    "patches": "embeddings.patch_embeddings.projection",
    "block{}/norm1": f"{LAYER}.norm1",
    "block{}/norm2": f"{LAYER}.norm2",
    "block{}/attention/queries": f"{LAYER}.attention.attention.query",
    "block{}/attention/keys": f"{LAYER}.attention.attention.key",
    "block{}/attention/values": f"{LAYER}.attention.attention.value",
    "block{}/attention/out": f"{LAYER}.attention.output.dense",
    "block{}/layer_scale1": f"{LAYER}.layer_scale1.lambda1",
    "block{}/layer_scale2": f"{LAYER}.layer_scale2.lambda1",
    "block{}/mlp1": f"{LAYER}.mlp.fc1",
    "block{}/mlp2": f"{LAYER}.mlp.fc2",
    "norm": "layernorm",
    "head": "classifier",
}
GATED = {
    "block{}/gate": f"{LAYER}.mlp.gate",
    "block{}/mlp1": f"{LAYER}.mlp.values",
    "block{}/mlp2": f"{LAYER}.mlp.weights_out",
}
HALVES = ("mlp.gate", "mlp.values")
FIELDS = {
    "patch": "patch_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_ratio": "mlp_ratio",
    "activation": "hidden_act",
    "image_size": "image_size",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "drop_path": "drop_path_rate",
    "layer_scale": "layerscale_value",
}
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_swiglu_ffn": False,
}
OTHER_DEFAULTS = {"dinov2_with_registers": {"patch_size": 16, "num_register_tokens": 4}}


def build(config: Mapping[str, Any]) -> ViT:
    """Returns the ViT of a config.json. A classifier reads the class token beside the mean of the patches.

    `drop_path` grows linearly from block to block here; transformers has it the same for all.
    """
    config = {**DEFAULTS, **OTHER_DEFAULTS.get(config.get("model_type", ""), {}), **config}
    registers, classes = config.get("model_type") == "dinov2_with_registers", classes_of(config)
    if gated := config["use_swiglu_ffn"]:
        config["hidden_act"] = "silu"  # whatever the file says
    return ViT(
        num_classes=classes,
        registers=config["num_register_tokens"] if registers else 0,
        resample="bicubic_antialias" if registers else "bicubic",
        biases=LETTERS if config["qkv_bias"] else "",
        gated=gated,
        hidden=_gated_width(int(config["hidden_size"] * config["mlp_ratio"])) if gated else 0,
        pool="class_and_mean" if classes else "class",
        **names.options_of(config, FIELDS, DEFAULTS),
    )


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation where no file has it: ImageNet's, in the size of its positions."""
    return {**IMAGENET, "size": build(config).image_size}


def to_flax(arrays: names.Arrays, module: ViT) -> tuple[PyTree, PyTree]:
    """Returns (params, {}) of a DINOv2; ValueError lists what is missing, unexpected or of another shape."""
    if timm_names.is_timm(arrays):
        return names.read(timm_names.arranged(arrays), timm_names.TABLE, module, (r"^mask_token$",)), {}
    arrays = {re.sub(r"^dinov2(_with_registers)?\.", "", name): value for name, value in arrays.items()}
    if module.gated:
        arrays = names.split(arrays, "mlp.weights_in", HALVES)
    return names.read(arrays, table_of(module), module, (r"mask_token$",)), {}


def to_torch(params: PyTree, stats: PyTree, module: ViT) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers, and a mask token of 0, which its class has; no `stats`."""
    del stats
    arrays = names.write(params, table_of(module))
    arrays = names.merge(arrays, HALVES, "mlp.weights_in.") if module.gated else arrays
    arrays["embeddings.mask_token"] = np.zeros((1, module.width), np.float32)
    root = f"{_model_type(module)}."
    return {k if k.startswith("classifier.") or not module.num_classes else root + k: v for k, v in arrays.items()}


def owns(module: nn.Module) -> bool:
    """Returns whether transformers has a DINOv2 that computes what the module computes."""
    return isinstance(module, ViT) and names.same(module, build({**_config(module), "num_labels": module.num_classes}))


def config_of(module: ViT, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    return _config(module) | names.sizes_of(module, params)


def _config(module: ViT) -> dict[str, Any]:
    kind = "Dinov2WithRegisters" if module.registers else "Dinov2"
    kind += "ForImageClassification" if module.num_classes else "Model"
    config = names.config_of(module, FIELDS, _model_type(module), kind)
    hidden = module.hidden or int(module.width * module.mlp_ratio)
    config["mlp_ratio"] = round(hidden * (1.5 if module.gated else 1) / module.width)  # an integer there
    config |= {"qkv_bias": bool(module.biases), "use_swiglu_ffn": module.gated}
    return config | ({"num_register_tokens": module.registers} if module.registers else {})


def table_of(module: ViT) -> dict[str, str]:
    """Returns the names of a DINOv2: a SwiGLU has others."""
    return {**TABLE, **(GATED if module.gated else {})}


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns a config.json of a DINOv2 of its authors or of timm from names and shapes, None for other arrays."""
    if not timm_names.is_timm(arrays) or "cls_token" not in arrays or "blocks.0.ls1.gamma" not in arrays:
        return None
    if "head.weight" in arrays or "norm_pre.weight" in arrays:
        return None
    config = timm_names.sizes_of(arrays)
    registers = next((arrays[name].shape[1] for name in ("reg_token", "register_tokens") if name in arrays), 0)
    arrays = timm_names.renamed(arrays)
    config["use_swiglu_ffn"], hidden = timm_names.is_gated(arrays), arrays["blocks.0.mlp.fc2.weight"].shape[1]
    config["mlp_ratio"] = hidden * (1.5 if config["use_swiglu_ffn"] else 1) / config["hidden_size"]
    config |= {"num_register_tokens": registers} if registers else {}
    return {**config, "model_type": "dinov2_with_registers" if registers else "dinov2"}


def _model_type(module: ViT) -> str:
    return "dinov2_with_registers" if module.registers else "dinov2"


def _gated_width(hidden: int) -> int:
    return (int(hidden * 2 / 3) + 7) // 8 * 8
