"""config.json of Hugging Face's decoders as Options of ours, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.models.language.decoder_expert_configs import SPARSE, experts_in_config, experts_of
from kd_jax.models.language.decoder_parts import Options
from kd_jax.models.language.decoder_positions import positions_in_config, positions_of, unplaced_of
from kd_jax.resolve import near

# Class of transformers, whether the head is tied where config.json does not say, and what all of the family are.
FAMILIES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", False, {}),
    "mistral": ("MistralForCausalLM", False, {}),
    "qwen2": ("Qwen2ForCausalLM", False, {"qkv_bias": True}),
    "qwen3": ("Qwen3ForCausalLM", False, {"qk_norm": True}),
    "gemma": ("GemmaForCausalLM", True, {"norm_offset": 1.0, "scale_embedding": True}),
    "gemma2": ("Gemma2ForCausalLM", True, {"norm_offset": 1.0, "scale_embedding": True, "post_norms": True}),
    "gemma3_text": (
        *("Gemma3ForCausalLM", True),
        {"norm_offset": 1.0, "scale_embedding": True, "post_norms": True, "qk_norm": True},
    ),
    "granite": ("GraniteForCausalLM", False, {}),
    "olmo2": (
        *("Olmo2ForCausalLM", False),
        {"pre_norms": False, "post_norms": True, "qk_norm": True, "qk_norm_whole": True},
    ),
    "phi3": ("Phi3ForCausalLM", False, {}),
    "smollm3": ("SmolLM3ForCausalLM", True, {}),
    "mixtral": ("MixtralForCausalLM", False, {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", False, {"qk_norm": True}),
    "gpt_oss": ("GptOssForCausalLM", False, {"sinks": True}),
    "gpt2": (
        "GPT2LMHeadModel",
        True,
        {
            "norm": "layer",
            "gated": False,
            "positions": "learned",
            "qkv_bias": True,
            "out_bias": True,
            "mlp_bias": True,
        },
    ),
}
ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}
SIZES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "max_length": "max_position_embeddings",
    "epsilon": "rms_norm_eps",
    "kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
}
GPT2_SIZES = {
    "vocabulary": "vocab_size",
    "width": "n_embd",
    "depth": "n_layer",
    "heads": "n_head",
    "hidden": "n_inner",
    "max_length": "n_positions",
    "epsilon": "layer_norm_epsilon",
}
MULTIPLIERS = {  # of Granite
    "attention_scale": "attention_multiplier",
    "embedding_multiplier": "embedding_multiplier",
    "residual_multiplier": "residual_multiplier",
    "logits_scaling": "logits_scaling",
}
GEMMAS = ("gemma2", "gemma3_text")  # with windows, and what sets the scale of attention
PACKED = "quantization_config"  # in config.json, of weights that are no plain numbers
UNTOLD = ("dropout", "scan", "remat", "dtype")  # options that a file does not tell: how the network is run


def sizes_of(family: str) -> dict[str, str]:
    """Returns {field of Options: its name in config.json} of the sizes."""
    return GPT2_SIZES if family == "gpt2" else SIZES


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields of Options from a config.json of transformers 4 or 5; ValueError for what is not supported."""
    family = config["model_type"]
    if (packing := _packing(config)) not in (None, "mxfp4"):
        raise ValueError(f"weights quantised by {packing!r} are not read: plain ones are, and MXFP4's")
    _, tied, family_options = FAMILIES[family]
    sizes = sizes_of(family)
    fields = {
        **{ours: config[theirs] for ours, theirs in sizes.items() if config.get(theirs) is not None},
        **family_options,
        "activation": _activation(config, family),
        "tied": config.get("tie_word_embeddings", tied),
    }
    if family == "gpt2":
        if config.get("scale_attn_by_inverse_layer_idx") or not config.get("scale_attn_weights", True):
            raise ValueError("a GPT-2 whose attention is scaled by layer, or not at all, is not supported")
        return {"hidden": 4 * fields["width"], **fields}
    fields |= positions_of(config)
    if family != "qwen2" and config.get("attention_bias", family == "gpt_oss"):
        fields |= {"qkv_bias": True, "out_bias": True}
    if config.get("mlp_bias"):
        fields["mlp_bias"] = True
    if config.get("use_bidirectional_attention"):
        raise ValueError("an attention that sees what comes later (use_bidirectional_attention) is not supported")
    if family == "smollm3":
        fields["unplaced"] = unplaced_of(config)
    if family in SPARSE:
        fields |= experts_of(config)
    return fields | _scales(config, family) | {"windows": _windows(config, family)}


def _packing(config: Mapping[str, Any]) -> str | None:
    """The name of the form in which the weights of a folder are packed, None of plain ones."""
    packing = config.get(PACKED)
    return packing and packing.get("quant_method", "unknown")


def _scales(config: Mapping[str, Any], family: str) -> dict[str, float]:
    """The fields by which Granite multiplies, and Gemma scales and bounds, what other families leave as it is."""
    if family == "granite":
        return {ours: float(config.get(theirs) or 1.0) for ours, theirs in MULTIPLIERS.items()}
    if family not in GEMMAS:
        return {}
    return {
        "attention_scale": config.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": config.get("attn_logit_softcapping") or 0.0,
        "logit_softcap": config.get("final_logit_softcapping") or 0.0,
    }


def _activation(config: Mapping[str, Any], family: str) -> str:
    names = ("hidden_activation", "hidden_act", "activation_function")
    activation = next((config[n] for n in names if config.get(n)), "silu")
    if family == "gemma":
        activation = config.get("hidden_activation") or "gelu_pytorch_tanh"  # old files say "gelu" and mean this
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}. {near(str(activation), ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def _windows(config: Mapping[str, Any], family: str) -> tuple[int, ...]:
    """Returns the window of every layer (0: none), one number for all, or () where no layer has one."""
    window, depth = config.get("sliding_window") or 0, config["num_hidden_layers"]
    if family in ("qwen2", "qwen3", "qwen3_moe", "smollm3"):
        sliding = bool(config.get("use_sliding_window"))
    else:
        sliding = family in ("mistral", "mixtral", "phi3", "gpt_oss", *GEMMAS)
    if not window or not sliding:
        return ()
    if family in ("mistral", "mixtral", "phi3", "qwen3_moe"):
        return (window,)
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in _layer_types(config, family, depth))
    return windows if any(windows) else ()


def _layer_types(config: Mapping[str, Any], family: str, depth: int) -> Sequence[str]:
    """Returns the kind of attention of every layer, by the rule of the family where the file does not list it."""
    if config.get("layer_types") is not None:
        return config["layer_types"]
    if family in ("gemma2", "gpt_oss"):
        return ["full_attention" if i % 2 else "sliding_attention" for i in range(depth)]
    if family == "gemma3_text":
        every = config.get("sliding_window_pattern", 6)
        return ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(depth)]
    if family == "smollm3":
        without = unplaced_of(config)
        return ["sliding_attention" if i in without else "full_attention" for i in range(depth)]
    first = config.get("max_window_layers", depth)
    return ["sliding_attention" if i >= first else "full_attention" for i in range(depth)]


def family_of(o: Options) -> str:
    """Returns the family whose config.json can say these options; ValueError tells what the nearest one cannot say."""
    family = _nearest_family(o)
    again = Options(**options_of(config_of(o, family)))
    wrong = differences(o, again)
    if wrong:
        text = ", ".join(f"{n}={getattr(o, n)!r} (would be read as {getattr(again, n)!r})" for n in wrong)
        raise ValueError(f"No family of transformers has these options; {family!r} comes near, but for {text}.")
    return family


def _nearest_family(o: Options) -> str:
    if o.positions == "learned":
        return "gpt2"
    if o.norm_offset:
        with_norms = "gemma3_text" if o.qk_norm else "gemma2"
        return with_norms if o.post_norms else "gemma"
    if not o.pre_norms:
        return "olmo2"
    if o.rotary_share != 1:
        return "phi3"
    if (o.embedding_multiplier, o.residual_multiplier, o.logits_scaling) != (1, 1, 1):
        return "granite"
    if o.unplaced:
        return "smollm3"
    if o.experts:
        return _nearest_sparse_family(o)
    if o.qk_norm:
        return "qwen3"
    if o.qkv_bias and not o.out_bias:
        return "qwen2"
    return "mistral" if any(o.windows) else "llama"


def _nearest_sparse_family(o: Options) -> str:
    if o.sinks or o.expert_bias:
        return "gpt_oss"
    return "qwen3_moe" if o.qk_norm else "mixtral"


def differences(o: Options, again: Options) -> list[str]:
    """Returns the options, among those that a file tells, in which the two networks differ."""
    fields = [f.name for f in dataclasses.fields(Options) if f.name not in (*UNTOLD, "windows", "attention_scale")]
    wrong = [n for n in fields if getattr(o, n) != getattr(again, n)]
    wrong += [] if layer_windows(o) == layer_windows(again) else ["windows"]
    scales = [x.attention_scale or x.head_width**-0.5 for x in (o, again)]
    return wrong + ([] if abs(scales[0] / scales[1] - 1) < 1e-6 else ["attention_scale"])


def layer_windows(o: Options) -> list[int]:
    """Returns the window of every layer, 0 for none."""
    return [o.windows[i % len(o.windows)] if o.windows else 0 for i in range(o.depth)]


def config_of(o: Options, family: str) -> dict[str, Any]:
    """Returns config.json for transformers 4 and 5. Call it through `family_of`, which checks that nothing is lost."""
    sizes = sizes_of(family)
    config: dict[str, Any] = {theirs: getattr(o, ours) for ours, theirs in sizes.items()}
    if not o.max_length:
        del config[sizes["max_length"]]  # transformers has its own default
    config |= {"model_type": family, "architectures": [FAMILIES[family][0]], "tie_word_embeddings": o.tied}
    activation = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[o.activation]
    if family == "gpt2":
        drops = dict.fromkeys(("embd_pdrop", "resid_pdrop"), o.dropout)
        return config | {"activation_function": activation, "attn_pdrop": 0.0, **drops}
    config |= {"hidden_act": activation, "hidden_activation": activation, "attention_dropout": 0.0}
    config |= positions_in_config(o, family)
    if family != "qwen2":
        config |= {"attention_bias": o.qkv_bias, "mlp_bias": o.mlp_bias}
    return config | _scales_in_config(o, family) | layers_in_config(o, family)


def _scales_in_config(o: Options, family: str) -> dict[str, Any]:
    """What config.json says of the fields of `_scales`."""
    scale = o.attention_scale or o.head_width**-0.5
    if family == "granite":
        multipliers = {theirs: getattr(o, ours) for ours, theirs in MULTIPLIERS.items()}
        return multipliers | {"attention_multiplier": scale}
    if family not in GEMMAS:
        return {}
    return {
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": o.attention_softcap or None,
        "final_logit_softcapping": o.logit_softcap or None,
    }


def layers_in_config(o: Options, family: str) -> dict[str, Any]:
    """Returns what config.json says of the layers one by one: windows, experts, and which have positions."""
    windows = layer_windows(o)
    config: dict[str, Any] = {"sliding_window": None}
    if any(windows):
        config = {"sliding_window": max(windows), "use_sliding_window": True, "max_window_layers": 0}
    if family in SPARSE:
        config |= experts_in_config(o, family)
    if family == "smollm3":
        config["no_rope_layers"] = [int(i not in o.unplaced) for i in range(o.depth)]
    if family in ("qwen2", "qwen3", "smollm3", "gpt_oss", *GEMMAS):
        config["layer_types"] = ["sliding_attention" if w else "full_attention" for w in windows]
    return config
