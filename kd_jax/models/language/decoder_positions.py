"""What config.json of Hugging Face's decoders says of positions, as fields of Options, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.models.language import rotary
from kd_jax.models.language.decoder_parts import Options

THETAS = {"gemma3_text": 1e6, "mixtral": 1e6, "smollm3": 2e6, "gpt_oss": 150000.0}  # where config.json does not say
SCALED = {  # where config.json says nothing
    "gpt_oss": {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
}
PARTLY_TURNED = ("phi3",)  # families whose heads are turned in part
OLD_LONGROPE = ("su", "yarn")  # what Phi-3's files called LongRoPE


def unplaced_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the layers of a SmolLM3 without positions: listed, or every so manyth."""
    depth, every = config["num_hidden_layers"], config.get("no_rope_layer_interval", 4)
    placed = config.get("no_rope_layers") or [(i + 1) % every for i in range(depth)]
    return tuple(i for i in range(depth) if not placed[i])


def positions_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of rotary positions; transformers 4 writes them in other places than 5.

    ValueError for a form that is not supported.
    """
    family, written = config["model_type"], config.get("rope_parameters") or {}
    local = written.get("sliding_attention") or {}
    rope = {**(config.get("rope_scaling") or {}), **(written.get("full_attention") or written)}
    rope = rope or dict(SCALED.get(family, {}))
    theta = rope.pop("rope_theta", None) or config.get("rope_theta") or THETAS.get(family, 10000.0)
    fields = {"theta": theta, "rotary_share": _share(rope.pop("partial_rotary_factor", None), config)}
    fields["rope_scaling"] = tuple(sorted(_scaling(rope, config).items()))
    if family == "gemma3_text":
        if local.get("rope_type", "default") != "default":
            raise ValueError("positions of layers with a window that are scaled are not supported")
        fields["local_theta"] = local.get("rope_theta") or config.get("rope_local_base_freq", 10000.0)
    return fields


def _share(written: float | None, config: Mapping[str, Any]) -> float:
    """The share of a head that is turned; ValueError for a family that turns whole heads alone."""
    share = config.get("partial_rotary_factor") if written is None else written
    if share not in (None, 1) and config["model_type"] not in PARTLY_TURNED:
        raise ValueError(
            f"positions of a part of each head (partial_rotary_factor={share}) are those of "
            f"{', '.join(PARTLY_TURNED)}, not of {config['model_type']}"
        )
    return 1.0 if share is None else float(share)


def _scaling(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The form of the positions with all that it needs, {} for the plain one.

    The length of the training stands beside the other numbers or in config.json itself, or is that of the positions;
    the factor may be the quotient of the two.
    """
    scaling = {k: tuple(v) if isinstance(v, list) else v for k, v in rope.items() if v is not None}
    old = scaling.pop("type", "default")
    kind = str(scaling.get("rope_type", old))
    if config["model_type"] == "phi3" and kind in OLD_LONGROPE:
        kind = "longrope"
    if kind == "default":
        return {}
    scaling["rope_type"], reach = kind, config.get(rotary.REACH)
    needed = rotary.NEEDED.get(kind, ())
    if rotary.REACH in needed:
        scaling[rotary.REACH] = reach
    if rotary.TRAINED in needed:
        scaling[rotary.TRAINED] = config.get(rotary.TRAINED) or scaling.get(rotary.TRAINED) or reach
        if kind != "llama3" and reach and scaling[rotary.TRAINED]:
            scaling.setdefault("factor", reach / scaling[rotary.TRAINED])
    return scaling


def positions_in_config(o: Options, family: str) -> dict[str, Any]:
    """Returns what config.json says of rotary positions, for transformers 4 and 5."""
    scaling = {k: v for k, v in o.rope_scaling if k != rotary.REACH}
    turned = {"partial_rotary_factor": o.rotary_share} if family in PARTLY_TURNED else {}
    rope: dict[str, Any] = {"rope_type": "default", **scaling, "rope_theta": o.theta, **turned}
    config: dict[str, Any] = {"rope_theta": o.theta, **turned}
    if family in PARTLY_TURNED and rotary.TRAINED in scaling:
        config[rotary.TRAINED] = scaling[rotary.TRAINED]
    if family == "gemma3_text":
        local = o.local_theta or o.theta
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
        config["rope_local_base_freq"] = local
    return config | {"rope_parameters": rope} | ({"rope_scaling": scaling} if scaling else {})
