"""What config.json of sparse decoders says of their experts, as fields of Options, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.models.language.decoder_parts import Options

SPARSE = ("mixtral", "qwen3_moe", "gpt_oss")
SLOPE, LIMIT = "swiglu_alpha", "swiglu_limit"  # of gpt-oss


def experts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of experts. The families have other words for their number and their width."""
    count = config.get("num_local_experts") or config.get("num_experts")
    fields = {"experts": count or 8, "experts_used": config.get("num_experts_per_tok") or 2}
    if config["model_type"] == "mixtral":
        return fields
    if config["model_type"] == "gpt_oss":
        used = config.get("num_experts_per_tok") or 4
        act = {"expert_slope": config.get(SLOPE, 1.702), "expert_limit": config.get(LIMIT, 7.0)}
        return {"experts": count or 128, "experts_used": used, "expert_bias": True, **act}
    depth, every = config["num_hidden_layers"], config.get("decoder_sparse_step", 1)
    listed = config.get("mlp_only_layers") or ()
    return {
        "experts": count or 128,
        "experts_used": config.get("num_experts_per_tok") or 8,
        "expert_hidden": config.get("moe_intermediate_size", 768),
        "shares_normed": config.get("norm_topk_prob", False),
        "dense_layers": tuple(i for i in range(depth) if i in listed or (i + 1) % every),
    }


def experts_in_config(o: Options, family: str) -> dict[str, Any]:
    """Returns what config.json says of experts."""
    config: dict[str, Any] = {"num_local_experts": o.experts, "num_experts_per_tok": o.experts_used}
    if family == "mixtral":
        return config
    if family == "gpt_oss":
        return config | {SLOPE: o.expert_slope, LIMIT: o.expert_limit}
    return config | {
        "num_experts": o.experts,
        "moe_intermediate_size": o.expert_hidden,
        "norm_topk_prob": o.shares_normed,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(o.dense_layers),
    }
