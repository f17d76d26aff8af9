"""What config.json of sparse decoders says of their experts, as fields of Options, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.models.language.decoder_parts import Options

SPARSE = ("mixtral", "qwen3_moe")


def experts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of experts. Mixtral and Qwen3-MoE have other words for their number and their width."""
    count = config.get("num_local_experts") or config.get("num_experts")
    fields = {"experts": count or 8, "experts_used": config.get("num_experts_per_tok") or 2}
    if config["model_type"] == "mixtral":
        return fields
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
    return config | {
        "num_experts": o.experts,
        "moe_intermediate_size": o.expert_hidden,
        "norm_topk_prob": o.shares_normed,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(o.dense_layers),
    }
