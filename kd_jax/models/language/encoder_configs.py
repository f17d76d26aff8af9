"""What config.json of an encoder says beside its sizes, as fields of Encoder (`read_...`), and back (`told_...`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.models.language.bert import Encoder
from kd_jax.models.language.encoder_layers import PreNorm
from kd_jax.models.language.relative_positions import Buckets, Disentangled

Fields = dict[str, Any]
SLIDING, FULL = "sliding_attention", "full_attention"


def attention_dropout(module: Encoder) -> Fields:
    return {"attention_probs_dropout_prob": module.dropout}


def read_mpnet(config: Mapping[str, Any]) -> Fields:
    count = config.get("relative_attention_num_buckets", 32)
    if count != 32:  # its code numbers them so whatever the file says
        raise ValueError(f"relative_attention_num_buckets={count}: transformers reads an MPNet of 32 alone")
    fixed = {"counted_positions": True, "token_types": 0, "transform_activation": "gelu"}
    return {**fixed, "relative": Buckets(count), "pad": _pad_of_one(config)}


def _pad_of_one(config: Mapping[str, Any]) -> int:
    if config.get("pad_token_id", 1) != 1:
        raise ValueError(f"pad_token_id={config['pad_token_id']}: the positions of an MPNet begin behind 1")
    return 1


def read_electra(config: Mapping[str, Any]) -> Fields:
    narrow = config.get("embedding_size", 128)
    fixed = {"pooler_activation": "gelu", "transform_activation": "gelu"}
    return {**fixed, "embedding_width": 0 if narrow == config["hidden_size"] else narrow}


def told_electra(module: Encoder) -> Fields:
    return attention_dropout(module) | {"embedding_size": module.embedding_width or module.width}


def read_deberta(config: Mapping[str, Any]) -> Fields:
    wanted = {"relative_attention": True, "embedding_size": config["hidden_size"], "conv_groups": 1, "legacy": True}
    defaults = {"relative_attention": False}
    for name, value in wanted.items():
        if config.get(name, defaults.get(name, value)) != value:
            raise ValueError(f"a DeBERTa with {name}={config.get(name)} is not read, only {value}")
    reach, buckets = config.get("max_relative_positions", -1), config.get("position_buckets", -1)
    kinds = config.get("pos_att_type") or ()
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    form = Disentangled(
        reach if reach > 0 else config["max_position_embeddings"],
        max(buckets, 0),
        tuple(kind.strip() for kind in kinds),
        config.get("share_att_key", False),
        "layer_norm" in config.get("norm_rel_ebd", "none"),
        config.get("conv_kernel_size", 0),
        config.get("conv_act", "tanh"),
    )
    fields = {"relative": form, "placed": config.get("position_biased_input", True)}
    return {**fields, "pooler_activation": config.get("pooler_hidden_act", "gelu")}


def told_deberta(module: Encoder) -> Fields:
    form = module.relative
    assert isinstance(form, Disentangled)
    convolution = {"conv_kernel_size": form.convolution, "conv_act": form.convolution_activation, "conv_groups": 1}
    return {
        **attention_dropout(module),
        "relative_attention": True,
        "max_relative_positions": form.reach,
        "position_buckets": form.buckets or -1,
        "pos_att_type": list(form.kinds),
        "share_att_key": form.shared,
        "norm_rel_ebd": "layer_norm" if form.normed else "none",
        "position_biased_input": module.placed,
        "pooler_hidden_act": module.pooler_activation,
        "pooler_hidden_size": module.width,
        "legacy": True,
        **(convolution if form.convolution else {}),
    }


def read_t5(config: Mapping[str, Any]) -> Fields:
    kind = config.get("feed_forward_proj", "relu")
    gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
    activation = "gelu_new" if kind == "gated-gelu" else activation
    buckets = config.get("relative_attention_num_buckets", 32), config.get("relative_attention_max_distance", 128)
    form = PreNorm(norm="rms", gated=gated, scaled=False)
    plain = {"positions": 0, "token_types": 0, "placed": False, "embeddings_normed": False}
    return {**plain, "pre_norm": form, "relative": Buckets(*buckets), "activation": activation}


def told_t5(module: Encoder) -> Fields:
    form, buckets = module.pre_norm, module.relative
    assert form is not None and isinstance(buckets, Buckets)
    name = "gelu" if form.gated and module.activation == "gelu_new" else module.activation
    return {
        "d_kv": module.head_width or module.width // module.heads,
        "feed_forward_proj": f"gated-{name}" if form.gated else name,
        "relative_attention_num_buckets": buckets.count,
        "relative_attention_max_distance": buckets.reach,
        "is_encoder_decoder": False,
    }


def read_modern(config: Mapping[str, Any]) -> Fields:
    if not config.get("decoder_bias", True):
        raise ValueError("a ModernBERT without a bias of its tokens (decoder_bias=False) is not read")
    depth, every = config["num_hidden_layers"], config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [SLIDING if i % every else FULL for i in range(depth)]
    theta, local_theta = _thetas_of_modern(config)
    form = PreNorm(
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        norm_bias=config.get("norm_bias", False),
        first_norm=False,
        windows=tuple(config.get("local_attention", 128) // 2 if kind == SLIDING else 0 for kind in kinds),
        theta=theta,
        local_theta=local_theta,
    )
    mean = config.get("classifier_pooling", "cls") == "mean"
    head = {"transform_activation": config.get("classifier_activation", "gelu"), "pooler_normed": True}
    return {**head, "pre_norm": form, "mean_classes": mean, "placed": False, "token_types": 0}


def _thetas_of_modern(config: Mapping[str, Any]) -> tuple[float, float]:
    """The bases of rotary positions, in layers that see everything and in those with a window."""
    rope = config.get("rope_parameters") or {}
    parts = {kind: rope.get(kind) or {} for kind in (FULL, SLIDING)}
    scaled = {part.get("rope_type", "default") for part in parts.values()} - {"default"}
    if scaled or config.get("rope_scaling"):
        raise ValueError(f"a ModernBERT whose positions are scaled ({', '.join(scaled) or 'rope_scaling'}) is not read")
    everywhere = parts[FULL].get("rope_theta") or config.get("global_rope_theta", 160000.0)
    return everywhere, parts[SLIDING].get("rope_theta") or config.get("local_rope_theta", 10000.0)


def told_modern(module: Encoder) -> Fields:
    form = module.pre_norm
    assert form is not None
    windows = [form.windows[i % len(form.windows)] for i in range(module.depth)]
    thetas = {FULL: form.theta, SLIDING: form.local_theta}
    return {
        "attention_bias": form.attention_bias,
        "mlp_bias": form.mlp_bias,
        "norm_bias": form.norm_bias,
        "layer_types": [SLIDING if window else FULL for window in windows],
        "local_attention": 2 * max(form.windows),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "global_rope_theta": form.theta,
        "local_rope_theta": form.local_theta,
        "classifier_pooling": "mean" if module.mean_classes else "cls",
        "decoder_bias": True,
        **dict.fromkeys(("attention_dropout", "embedding_dropout", "classifier_dropout"), module.dropout),
    }
