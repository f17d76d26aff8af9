"""ConvNeXt and ConvNeXt V2 as folders of Hugging Face and as state dicts of timm, torchvision and their authors.

Liu et al., 2022, arXiv 2201.03545; Woo et al., 2023, arXiv 2301.00808.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kd_jax.models.vision.convnext import EPSILON, ConvNext
from kd_jax.models.vision.pretrained import conv_names as names
from kd_jax.types import PyTree

MODEL_TYPES = ("convnext", "convnextv2")
DEFAULTS = {
    "depths": (3, 3, 9, 3),
    "hidden_sizes": (96, 192, 384, 768),
    "patch_size": 4,
    "layer_scale_init_value": 1e-6,
    "layer_norm_eps": 1e-12,
}


class Scheme(NamedTuple):
    """Names of a library: of modules outside of stages, of what shrinks stage s, of its block b and of its parts."""

    outside: Mapping[str, str]
    shrink: str
    block: str
    parts: Mapping[str, str]


OUTSIDE, SHRINK = ("stem", "stem_norm", "norm", "head"), ("shrink_norm", "shrink")
PARTS = ("depthwise", "norm", "mlp1", "mlp2", "layer_scale", "response_norm/scale", "response_norm/bias")


def _scheme(outside: tuple[str, ...], shrink: str, block: str, parts: tuple[str, ...]) -> Scheme:
    return Scheme(dict(zip(OUTSIDE, outside, strict=True)), shrink, block, dict(zip(PARTS, parts, strict=True)))


AUTHORS = ("dwconv", "norm", "pwconv1", "pwconv2", "gamma", "grn.gamma", "grn.beta")
SCHEMES = {
    "transformers": _scheme(
        ("embeddings.patch_embeddings", "embeddings.layernorm", "layernorm", "classifier"),
        "encoder.stages.{s}.downsampling_layer.{i}",
        "encoder.stages.{s}.layers.{b}.",
        ("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter", "grn.weight", "grn.bias"),
    ),
    "timm": _scheme(
        ("stem.0", "stem.1", "head.norm", "head.fc"),
        "stages.{s}.downsample.{i}",
        "stages.{s}.blocks.{b}.",
        ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma", "mlp.grn.weight", "mlp.grn.bias"),
    ),
    "torchvision": _scheme(
        ("features.0.0", "features.0.1", "classifier.0", "classifier.2"),
        "features.{two}.{i}",
        "features.{odd}.{b}.",
        ("block.0", "block.2", "block.3", "block.5", "layer_scale", "", ""),
    ),
    "authors": _scheme(
        *(("downsample_layers.0.0", "downsample_layers.0.1", "norm", "head"), "downsample_layers.{s}.{i}"),
        *("stages.{s}.{b}.", AUTHORS),
    ),
}


def build(config: Mapping[str, Any]) -> ConvNext:
    """Returns the ConvNeXt of a config.json, or of what `guess` says; ValueError for another activation than GELU."""
    config = {**DEFAULTS, **config}
    if (activation := config.get("hidden_act", "gelu")) != "gelu":
        raise ValueError(f"config.json: hidden_act is {activation!r}; ConvNeXts have 'gelu' here.")
    second = config.get("model_type") == "convnextv2" or config.get("response_norm", False)
    return ConvNext(
        num_classes=names.classes_of(config),
        blocks=tuple(config["depths"]),
        widths=tuple(config["hidden_sizes"]),
        patch=config["patch_size"],
        layer_scale=0.0 if second else config["layer_scale_init_value"],
        response_norm=second,
        epsilon=config["layer_norm_eps"],
    )


def to_flax(arrays: names.Arrays, module: ConvNext) -> tuple[PyTree, PyTree]:
    """Returns (params, {}); ValueError lists what is missing, unexpected or of another shape."""
    arrays = {name.removeprefix("convnext.").removeprefix("convnextv2."): arrays[name] for name in arrays}
    scheme = _scheme_of(arrays) or "transformers"
    plain = {name: _plain(name, value) for name, value in arrays.items()}
    ignore = () if module.num_classes else (rf"^{SCHEMES[scheme].outside['head']}\.",)
    return names.read(plain, _table(module, scheme), module, SCHEMES[scheme].outside["stem"], ignore)


def to_torch(params: PyTree, stats: PyTree, module: ConvNext) -> dict[str, np.ndarray]:
    """Returns the arrays under the names of transformers."""
    arrays = names.write(params, stats, _table(module, "transformers"))
    arrays = {k: v.reshape(1, 1, 1, -1) if ".grn." in k else v for k, v in arrays.items()}
    root = ("convnextv2." if module.response_norm else "convnext.") if module.num_classes else ""
    return {k if k.startswith("classifier.") else f"{root}{k}": v for k, v in arrays.items()}


def owns(module: Any) -> bool:
    """Returns whether transformers has a class for the module."""
    return isinstance(module, ConvNext)


def config_of(module: ConvNext, params: PyTree) -> dict[str, Any]:
    """Returns the config.json with which transformers computes what the module computes."""
    kind = "ConvNextV2" if module.response_norm else "ConvNext"
    return {
        "model_type": kind.lower(),
        "architectures": [f"{kind}{'ForImageClassification' if module.num_classes else 'Model'}"],
        "num_channels": int(params["stem"]["kernel"].shape[2]),
        "patch_size": module.patch,
        "num_stages": len(module.blocks),
        "depths": list(module.blocks),
        "hidden_sizes": list(module.widths),
        "hidden_act": "gelu",
        "layer_norm_eps": module.epsilon,
        "layer_scale_init_value": module.layer_scale,
    }


def guess(arrays: names.Arrays) -> dict[str, Any] | None:
    """Returns the config of a state dict of a known scheme, None for other arrays."""
    name = _scheme_of(arrays)
    if name in (None, "transformers"):
        return None
    scheme = SCHEMES[name]
    depths, widths = [], []
    while (
        depth := names.count(arrays, _at(scheme.block, len(depths), "{}") + scheme.parts["depthwise"] + ".weight")
    ) > 0:
        widths.append(
            names.shape_of(arrays, f"{_at(scheme.block, len(depths), 0)}{scheme.parts['depthwise']}.weight")[0]
        )
        depths.append(depth)
    first, head = _at(scheme.block, 0, 0), f"{scheme.outside['head']}.weight"
    stem = names.shape_of(arrays, f"{scheme.outside['stem']}.weight")
    return {
        "num_labels": names.shape_of(arrays, head)[0] if head in arrays else 0,
        "num_channels": stem[1],
        "depths": depths,
        "hidden_sizes": widths,
        "patch_size": stem[-1],
        "layer_scale_init_value": DEFAULTS["layer_scale_init_value"] * (first + scheme.parts["layer_scale"] in arrays),
        "response_norm": first + scheme.parts["response_norm/scale"] in arrays,
        "layer_norm_eps": EPSILON,
    }


def _scheme_of(arrays: names.Arrays) -> str | None:
    """The library whose names the arrays have: its stem, and the first block's dense layer."""
    for name, scheme in SCHEMES.items():
        first = _at(scheme.block, 0, 0) + scheme.parts["mlp1"]
        if f"{scheme.outside['stem']}.weight" in arrays and f"{first}.weight" in arrays:
            return name
    return None


def _at(pattern: str, s: int, b: int | str) -> str:
    """A name of stage s, block b; torchvision counts what shrinks and what follows alike."""
    return pattern.format(s=s, b=b, two=2 * s, odd=2 * s + 1, i="{i}")


def _plain(name: str, value: np.ndarray) -> np.ndarray:
    """Scales as vectors, and dense layers that timm writes as 1 x 1 convolutions as matrices."""
    if name.endswith(("gamma", "beta", "layer_scale")) or ".grn." in name:
        return value.reshape(-1)
    return value.reshape(value.shape[:2]) if ".mlp.fc" in name and value.ndim == 4 else value


def _table(module: ConvNext, name: str) -> dict[str, str]:
    scheme = SCHEMES[name]
    table = dict(scheme.outside)
    for s, blocks in enumerate(module.blocks):
        if s:
            table |= {f"stage{s + 1}/{ours}": _at(scheme.shrink, s, 0).format(i=i) for i, ours in enumerate(SHRINK)}
        for b in range(blocks):
            start = _at(scheme.block, s, b)
            table |= {f"stage{s + 1}/block{b}/{ours}": f"{start}{theirs}" for ours, theirs in scheme.parts.items()}
    return table
