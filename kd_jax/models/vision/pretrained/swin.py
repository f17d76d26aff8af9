"""Swin transformers, versions 1 and 2, as folders of Hugging Face; version 1 as state dicts of its authors and of timm.

Liu et al., "Swin Transformer", 2021, arXiv 2103.14030; "Swin Transformer V2", 2021, arXiv 2111.09883. Without a
classifier the output is the mean of the last map [batch, channels]. Dropout of attention is left out; drop-path is on
both branches, as the authors have it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.models.vision.pretrained import vit_names as names
from kd_jax.models.vision.pretrained.conv_names import classes_of
from kd_jax.models.vision.pretrained.preparing import IMAGENET
from kd_jax.models.vision.swin import Swin
from kd_jax.models.vision.vit_parts import LETTERS
from kd_jax.types import PyTree

MODEL_TYPES = ("swin", "swinv2")
BLOCK = "encoder.layers.{}.blocks.{}"
TABLE: names.Table = {
    "patches": "embeddings.patch_embeddings.projection",
    "first_norm": "embeddings.norm",
    "merge{}/norm": "encoder.layers.{}.downsample.norm",
    "merge{}/reduction": "encoder.layers.{}.downsample.reduction",
    "stage{}_block{}/norm1": f"{BLOCK}.layernorm_before",
    "stage{}_block{}/norm2": f"{BLOCK}.layernorm_after",
    "stage{}_block{}/attention/queries": f"{BLOCK}.attention.self.query",
    "stage{}_block{}/attention/keys": f"{BLOCK}.attention.self.key",
    "stage{}_block{}/attention/values": f"{BLOCK}.attention.self.value",
    "stage{}_block{}/attention/log_scale": f"{BLOCK}.attention.self.logit_scale",
    "stage{}_block{}/attention/out": f"{BLOCK}.attention.output.dense",
    "stage{}_block{}/bias_table": f"{BLOCK}.attention.self.relative_position_bias_table",
    "stage{}_block{}/bias1": f"{BLOCK}.attention.self.continuous_position_bias_mlp.0",
    "stage{}_block{}/bias2": f"{BLOCK}.attention.self.continuous_position_bias_mlp.2",
    "stage{}_block{}/mlp1": f"{BLOCK}.intermediate.dense",
    "stage{}_block{}/mlp2": f"{BLOCK}.output.dense",
    "norm": "layernorm",
    "head": "classifier",
}
TIMM_BLOCK = "layers.{}.blocks.{}"
TIMM: names.Table = {
    "patches": "patch_embed.proj",
    "first_norm": "patch_embed.norm",
    "merge{}/norm": "layers.{}.downsample.norm",
    "merge{}/reduction": "layers.{}.downsample.reduction",
    "stage{}_block{}/norm1": f"{TIMM_BLOCK}.norm1",
    "stage{}_block{}/norm2": f"{TIMM_BLOCK}.norm2",
    "stage{}_block{}/attention/queries": f"{TIMM_BLOCK}.attn.q",
    "stage{}_block{}/attention/keys": f"{TIMM_BLOCK}.attn.k",
    "stage{}_block{}/attention/values": f"{TIMM_BLOCK}.attn.v",
    "stage{}_block{}/attention/out": f"{TIMM_BLOCK}.attn.proj",
    "stage{}_block{}/bias_table": f"{TIMM_BLOCK}.attn.relative_position_bias_table",
    "stage{}_block{}/mlp1": f"{TIMM_BLOCK}.mlp.fc1",
    "stage{}_block{}/mlp2": f"{TIMM_BLOCK}.mlp.fc2",
    "norm": "norm",
    "head": "head.fc",
}
FIELDS = {
    "patch": "patch_size",
    "width": "embed_dim",
    "depths": "depths",
    "heads": "num_heads",
    "window": "window_size",
    "mlp_ratio": "mlp_ratio",
    "activation": "hidden_act",
    "image_size": "image_size",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "drop_path": "drop_path_rate",
}
DEFAULTS = {
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
    "mlp_ratio": 4.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "drop_path_rate": 0.1,
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 4,
    "qkv_bias": True,
    "use_absolute_embeddings": False,
}
BUFFERS = (r"relative_position_index$", r"relative_coords_table$", r"attn_mask$", r"mask_token$")


def build(config: Mapping[str, Any]) -> Swin:
    """Returns the Swin of a config.json; ValueError for one with absolute positions."""
    config = {**DEFAULTS, **config}
    if config["use_absolute_embeddings"]:
        raise ValueError(
            "config.json: use_absolute_embeddings must be false: a Swin with absolute positions is not read."
        )
    version = 2 if config.get("model_type") == "swinv2" else 1
    options = names.options_of(config, FIELDS, DEFAULTS)
    options |= {name: tuple(options[name]) for name in ("depths", "heads")}
    learned = tuple(config.get("pretrained_window_sizes", ())) if version == 2 else ()
    biases = (LETTERS if version == 1 else "qv") if config["qkv_bias"] else ""
    return Swin(
        classes_of(config),
        version=version,
        biases=biases,
        learned_windows=learned if any(learned) else (),
        **options,
    )


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation where no file has it: ImageNet's, in the size of its windows."""
    return {**IMAGENET, "size": build(config).image_size}


def to_flax(arrays: names.Arrays, module: Swin) -> tuple[PyTree, PyTree]:
    """Returns (params, {}) of a Swin; ValueError lists what is missing, unexpected or of another shape."""
    arrays = {re.sub(r"^(swin|swinv2)\.", "", name): value for name, value in arrays.items()}
    if not _is_timm(arrays):
        return names.read(_merges_moved(arrays, 1), TABLE, module, BUFFERS), {}
    arrays = names.split(arrays, "attn.qkv", ("attn.q", "attn.k", "attn.v"))
    if "head.weight" in arrays:  # the authors' names
        arrays = {name.replace("head.", "head.fc."): value for name, value in _merges_moved(arrays, 1).items()}
    elif any(name.startswith("layers.0.downsample.") for name in arrays):
        arrays = _merges_moved(arrays, 1)
    return names.read(arrays, TIMM, module, BUFFERS), {}


def to_torch(params: PyTree, stats: PyTree, module: Swin) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers; `stats` are empty."""
    del stats
    arrays, root = _merges_moved(names.write(params, TABLE), -1), f"{_model_type(module)}."
    return {k if k.startswith("classifier.") or not module.num_classes else root + k: v for k, v in arrays.items()}


def owns(module: nn.Module) -> bool:
    """Returns whether transformers has a Swin that computes what the module computes."""
    return isinstance(module, Swin)


def config_of(module: Swin, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    kind = ("Swinv2" if module.version == 2 else "Swin") + ("ForImageClassification" if module.num_classes else "Model")
    config = names.config_of(module, FIELDS, _model_type(module), kind)
    config |= {"qkv_bias": bool(module.biases), "num_channels": int(params["patches"]["kernel"].shape[2])}
    return config | ({"pretrained_window_sizes": list(module.learned_windows)} if module.learned_windows else {})


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns a config.json of a Swin (version 1) of its authors or of timm from names and shapes, else None.

    Images are taken to be 32 windows wide at the patch size (224 of 7, 384 of 12), as the published ones are.
    """
    if not _is_timm(arrays):
        return None
    tables = {name: arrays[name] for name in arrays if name.endswith("relative_position_bias_table")}
    numbers = [tuple(map(int, re.findall(r"\d+", name))) for name in tables]
    stages = range(1 + max(stage for stage, _ in numbers))
    first = [tables[TIMM["stage{}_block{}/bias_table"].format(stage, 0)] for stage in stages]
    window = (math.isqrt(len(first[0])) + 1) // 2
    width, _, patch, _ = arrays["patch_embed.proj.weight"].shape
    head = next((arrays[name] for name in ("head.fc.weight", "head.weight") if name in arrays), ())
    return {
        "model_type": "swin",
        "embed_dim": width,
        "patch_size": patch,
        "depths": [sum(stage == i for stage, _ in numbers) for i in stages],
        "num_heads": [table.shape[1] for table in first],
        "window_size": window,
        "image_size": patch * window * 2 ** (len(stages) - 1),
        "mlp_ratio": len(arrays["layers.0.blocks.0.mlp.fc1.weight"]) / width,
        "num_channels": arrays["patch_embed.proj.weight"].shape[1],
        "num_labels": len(head),
    }


def _is_timm(arrays: names.Arrays) -> bool:
    return {"patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"} <= {*arrays}


def _merges_moved(arrays: names.Arrays, by: int) -> dict[str, np.ndarray]:
    """The arrays with every merge counted to the stage `by` later: transformers has it at the end of a stage."""

    def moved(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2]) + by}.downsample."

    return {re.sub(r"(layers\.)(\d+)\.downsample\.", moved, name): value for name, value in arrays.items()}


def _model_type(module: Swin) -> str:
    return "swinv2" if module.version == 2 else "swin"
