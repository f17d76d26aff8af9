"""Vision transformers of timm, and of the papers' authors, who share its names: as the arrays of models.vision.vit.

What a file does not say is what the papers have: heads 64 wide, LayerNorms with 1e-6.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from kd_jax.models.vision.pretrained.vit_names import Arrays, Table, split

TABLE: Table = {
    "class_token": "cls_token",
    "distillation_token": "dist_token",
    "register_tokens": "reg_token",
    "positions": "pos_embed",
    "patches": "patch_embed.proj",
    "first_norm": "norm_pre",
    "block{}/norm1": "blocks.{}.norm1",
    "block{}/norm2": "blocks.{}.norm2",
    "block{}/attention/queries": "blocks.{}.attn.q",
    "block{}/attention/keys": "blocks.{}.attn.k",
    "block{}/attention/values": "blocks.{}.attn.v",
    "block{}/attention/out": "blocks.{}.attn.proj",
    "block{}/layer_scale1": "blocks.{}.ls1.gamma",
    "block{}/layer_scale2": "blocks.{}.ls2.gamma",
    "block{}/gate": "blocks.{}.mlp.gate",
    "block{}/mlp1": "blocks.{}.mlp.fc1",
    "block{}/mlp2": "blocks.{}.mlp.fc2",
    "norm": "norm",
    "head": "head",
    "head_distillation": "head_dist",
    "pool/probe": "attn_pool.latent",
    "pool/queries": "attn_pool.q",
    "pool/keys": "attn_pool.k",
    "pool/values": "attn_pool.v",
    "pool/out": "attn_pool.proj",
    "pool/norm": "attn_pool.norm",
    "pool/mlp1": "attn_pool.mlp.fc1",
    "pool/mlp2": "attn_pool.mlp.fc2",
}
# timm's sizes whose heads are not 64 wide: so400m; H, g and G of several papers.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}


def arranged(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names in TABLE; a class token whose position is a part of it gets one of 0."""
    arrays = renamed(arrays)
    gated = is_gated(arrays)
    arrays = split(arrays, "attn.qkv", ("attn.q", "attn.k", "attn.v"))
    arrays = split(arrays, "attn_pool.kv", ("attn_pool.k", "attn_pool.v"))
    if gated:
        arrays = split(arrays, "mlp.fc1", ("mlp.gate", "mlp.fc1"))
    positions, first = arrays["pos_embed"], _first(arrays)
    if first and _square(positions.shape[1]) and not _square(positions.shape[1] - first):
        arrays["pos_embed"] = np.pad(positions, ((0, 0), (first, 0), (0, 0)))
    return arrays


def renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under timm's names where they have those of DINOv2's authors."""
    others = {r"mlp\.w12\b": "mlp.fc1", r"mlp\.w3\b": "mlp.fc2", r"^register_tokens$": "reg_token"}
    result = {}
    for name, value in arrays.items():
        for pattern, text in others.items():
            name = re.sub(pattern, text, name)
        result[name] = value
    return result


def is_gated(arrays: Arrays) -> bool:
    """Returns whether the MLP of timm's arrays holds gate and values in one: then its second layer is half as wide."""
    return len(arrays["blocks.0.mlp.fc1.weight"]) == 2 * arrays["blocks.0.mlp.fc2.weight"].shape[1]


def is_timm(arrays: Arrays) -> bool:
    """Returns whether these are names of a vision transformer of timm, or of the papers' authors, who share them."""
    return {"patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"} <= {*arrays}


def sizes_of(arrays: Arrays) -> dict[str, Any]:
    """Returns what shapes tell of a network of timm, as fields of a config.json. ValueError where heads are unknown.

    A head is 64 wide, as in the papers, but for the sizes in HEADS.
    """
    arrays = arranged(arrays)
    width, _, patch, _ = arrays["patch_embed.proj.weight"].shape
    if width % 64 and width not in HEADS:
        raise ValueError(f"a vision transformer {width} wide: how many heads it has is not known; a head is 64 wide.")
    return {
        "hidden_size": width,
        "patch_size": patch,
        "num_attention_heads": HEADS.get(width, width // 64),
        "num_hidden_layers": 1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", k) for k in arrays) if m),
        "intermediate_size": len(arrays["blocks.0.mlp.fc1.weight"]),
        "image_size": math.isqrt(arrays["pos_embed"].shape[1] - _first(arrays)) * patch,
        "qkv_bias": "blocks.0.attn.q.bias" in arrays,
        "layer_norm_eps": 1e-6,
        "num_channels": arrays["patch_embed.proj.weight"].shape[1],
        "num_labels": len(arrays["head.weight"]) if "head.weight" in arrays else 0,
    }


def _first(arrays: Arrays) -> int:
    """How many tokens of timm's arrays have a position and are no patches."""
    return ("cls_token" in arrays) + ("dist_token" in arrays)


def _square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n
