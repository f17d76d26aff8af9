"""The text model of a folder that holds more: Gemma 3 from 4B on looks at pictures too, and has one inside.

Read is the text model alone, as `transformers` has it by itself; what becomes of it is written so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_jax.models.safetensors_io import read_config

# {model_type of the folder: what config.json of the text model is where the folder's says nothing (transformers 5)}
INSIDE: dict[str, dict[str, Any]] = {
    "gemma3": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    }
}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Names of its tensors in files, as they are of the text model by itself, and those of the other parts.
NAMES = {r"^language_model\.(?=lm_head\.)": "", r"^(model\.)?language_model\.(model\.)?": "model."}
OTHER_PARTS = (r"^(model\.)?(vision_tower|multi_modal_projector)\.",)


def read_text_config(folder: Path) -> dict[str, Any]:
    """Returns config.json of a folder, or that of the text model inside; errors as safetensors_io.read_config."""
    config = read_config(folder)
    family = config.get("model_type")
    if family not in INSIDE or not isinstance(config.get("text_config"), Mapping):
        return config
    ids = {name: config[name] for name in IDS if config.get(name) is not None}
    text = {k: v for k, v in config["text_config"].items() if v is not None}
    return {**INSIDE[family], **ids, **text, **{k: INSIDE[family][k] for k in ("model_type", "architectures")}}


def holds_more(folder: Path) -> bool:
    """Returns whether a folder holds a text model beside other parts."""
    return read_config(folder).get("model_type") in INSIDE
