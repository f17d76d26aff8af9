"""The vision tower of CLIP as folders of Hugging Face: of both towers (the text tower is left), or of this one.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv 2103.00020. The
output is the projected embedding of an image [batch, projection] where the folder has a projection, not normalised,
else the class token after the last norm [batch, width]; this is the tap embedding in both. A classifier reads the mean
of the patches before the last norm, as CLIPForImageClassification does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from kd_jax.models.vision.pretrained import timm_names
from kd_jax.models.vision.pretrained import vit_names as names
from kd_jax.models.vision.pretrained.conv_names import classes_of
from kd_jax.models.vision.vit import ViT
from kd_jax.types import PyTree

MODEL_TYPES = ("clip", "clip_vision_model")
LAYER = "encoder.layers.{}"
TABLE: names.Table = {
    "class_token": "embeddings.class_embedding",
    "positions": "embeddings.position_embedding.weight",
    "patches": "embeddings.patch_embedding",
    "first_norm": "pre_layrnorm",  # their spelling
    "block{}/norm1": f"{LAYER}.layer_norm1",
    "block{}/norm2": f"{LAYER}.layer_norm2",
    "block{}/attention/queries": f"{LAYER}.self_attn.q_proj",
    "block{}/attention/keys": f"{LAYER}.self_attn.k_proj",
    "block{}/attention/values": f"{LAYER}.self_attn.v_proj",
    "block{}/attention/out": f"{LAYER}.self_attn.out_proj",
    "block{}/mlp1": f"{LAYER}.mlp.fc1",
    "block{}/mlp2": f"{LAYER}.mlp.fc2",
    "norm": "post_layernorm",
    "head": "classifier",
    "projection": "visual_projection",
}
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 32,
    "projection_dim": 512,
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IGNORED = (r"^text_projection\.", r"^logit_scale$", r"position_ids$")
OUTSIDE = ("classifier.", "visual_projection.")


def build(config: Mapping[str, Any]) -> ViT:
    """Returns the ViT of a config.json, of both towers or of the vision tower alone."""
    tower, classes = {**DEFAULTS, **config.get("vision_config", config)}, classes_of(config)
    timm = config.get("global_pool") == "token"
    if timm:
        tower["hidden_act"] = _activation(str(config.get("architecture", "")))
    architecture = (config.get("architectures") or ["CLIPModel" if config.get("model_type") == "clip" else ""])[0]
    projected = architecture in ("CLIPModel", "CLIPVisionModelWithProjection") and not classes
    return ViT(
        num_classes=classes,
        norm_first=True,
        patch_bias=False,
        pool="mean_before_norm" if classes and not timm else "class",
        projection={**tower, **config}["projection_dim"] if projected else 0,
        **names.options_of(tower, names.FIELDS, DEFAULTS),
    )


def prepared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation where no file has it: its authors', in the size of its positions."""
    return {**names.WHOLE, "mean": MEAN, "std": STD, "size": build(config).image_size}


def to_flax(arrays: names.Arrays, module: ViT) -> tuple[PyTree, PyTree]:
    """Returns (params, {}) of a vision tower; ValueError lists what is missing, unexpected or of another shape."""
    if timm_names.is_timm(arrays):
        return names.read(timm_names.arranged(arrays), timm_names.TABLE, module), {}
    towers = (name for name in arrays if not name.startswith("text_model."))  # which is not read from its file
    arrays = {name.removeprefix("vision_model."): arrays[name] for name in towers}
    ignored = IGNORED if module.projection else (*IGNORED, r"^visual_projection\.")
    return names.read(arrays, TABLE, module, ignored), {}


def to_torch(params: PyTree, stats: PyTree, module: ViT) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers; `stats` are empty."""
    del stats, module
    arrays = names.write(params, TABLE)
    for name in (TABLE["class_token"], TABLE["positions"]):
        arrays[name] = (
            arrays[name].reshape(-1, arrays[name].shape[-1]).squeeze(0 if name == TABLE["class_token"] else ())
        )
    return {k if k.startswith(OUTSIDE) else f"vision_model.{k}": v for k, v in arrays.items()}


def owns(module: nn.Module) -> bool:
    """Returns whether transformers has a CLIP that computes what the module computes."""
    return isinstance(module, ViT) and names.same(
        module, build({**_config(module, {}), "num_labels": module.num_classes})
    )


def config_of(module: ViT, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    return _config(module, names.sizes_of(module, params))


def _config(module: ViT, sizes: Mapping[str, int]) -> dict[str, Any]:
    kind = "CLIPVisionModelWithProjection" if module.projection else "CLIPVisionModel"
    config = {**names.config_of(module, names.FIELDS, "clip_vision_model", kind), **sizes}
    if not module.num_classes:
        return config | ({"projection_dim": module.projection} if module.projection else {})
    return {"model_type": "clip", "architectures": ["CLIPForImageClassification"], "vision_config": config}


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns a config.json of a CLIP of timm from names and shapes, None for other arrays.

    Its classifier reads the class token: that of a tower without more is the projection.
    """
    if not timm_names.is_timm(arrays) or not {"norm_pre.weight", "cls_token"} <= {*arrays}:
        return None
    return {**timm_names.sizes_of(arrays), "model_type": "clip_vision_model", "global_pool": "token"}


def _activation(architecture: str) -> str:
    """The activation of a network of timm by what it is called; ValueError where this does not tell."""
    if "clip" not in architecture:
        raise ValueError(
            f"a CLIP of timm called {architecture!r}: whether it computes quick_gelu or gelu is in its name alone. "
            "Call the file as timm calls the network (vit_base_patch32_clip_quickgelu_224.openai)."
        )
    return "quick_gelu" if "quickgelu" in architecture else "gelu"
