"""Families of encoders: the names of their tensors in `transformers`, config.json as fields of Encoder, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kd_jax.models.language.bert import Encoder
from kd_jax.models.language.encoder_configs import (
    Fields,
    attention_dropout,
    read_deberta,
    read_electra,
    read_modern,
    read_mpnet,
    read_t5,
    told_deberta,
    told_electra,
    told_modern,
    told_t5,
)
from kd_jax.models.language.encoder_names import (
    BERT_LAYER,
    DEBERTA_LAYER,
    DISTILBERT_FIELDS,
    DISTILBERT_LAYER,
    FIELDS,
    MODERN_FIELDS,
    MODERN_JOINED,
    MODERN_LAYER,
    MPNET_LAYER,
    T5_FIELDS,
    T5_LAYER,
    T5_UNGATED,
    UNTYPED,
    classes_of,
    rules_of_embeddings,
    rules_of_layers,
    rules_of_pooler,
    rules_of_tokens,
)
from kd_jax.models.safetensors_io import Rule, dense, norm
from kd_jax.resolve import near


def _nothing(_: Any) -> Fields:
    return {}


class Kind(NamedTuple):
    """A family: its names of tensors, of classes by our `head`, and of the fields of config.json.

    `read` takes what `fields` cannot say from config.json, `told` writes it. `joined` are the layers that files hold
    side by side, {that one: its parts}. `depth_at` is what stands before the number of a layer.
    """

    prefix: str
    rules: tuple[Rule, ...]
    classes: dict[str, str]
    fields: dict[str, str]  # ours -> theirs
    read: Callable[[Mapping[str, Any]], Fields] = _nothing
    told: Callable[[Encoder], Fields] = _nothing
    joined: Mapping[str, tuple[str, ...]] = {}
    depth_at: str = "layer"


def _roberta(name: str) -> Kind:
    rules = (
        rules_of_embeddings("roberta.embeddings")
        + rules_of_layers("roberta.encoder.layer", BERT_LAYER)
        + rules_of_pooler("classifier.dense", "classifier.out_proj")
        + rules_of_tokens("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    )
    return Kind("roberta.", rules, classes_of(name), FIELDS, lambda _: {"counted_positions": True}, attention_dropout)


KINDS = {
    "bert": Kind(
        "bert.",
        rules_of_embeddings("bert.embeddings")
        + rules_of_layers("bert.encoder.layer", BERT_LAYER)
        + rules_of_pooler("bert.pooler.dense", "classifier")
        + rules_of_tokens(
            *(f"cls.predictions.{n}" for n in ("transform.dense", "transform.LayerNorm", "bias")),
        ),
        classes_of("Bert"),
        FIELDS,
        told=attention_dropout,
    ),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "distilbert": Kind(
        "distilbert.",
        rules_of_embeddings("distilbert.embeddings")
        + rules_of_layers("distilbert.transformer.layer", DISTILBERT_LAYER)
        + rules_of_pooler("pre_classifier", "classifier")
        + rules_of_tokens("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        classes_of("DistilBert"),
        DISTILBERT_FIELDS,
        lambda _: {"token_types": 0, "pooler_activation": "relu"},
        lambda module: {"attention_dropout": module.dropout, "sinusoidal_pos_embds": False},
    ),
    "mpnet": Kind(
        "mpnet.",
        rules_of_embeddings("mpnet.embeddings", word="words", position="positions")
        + rules_of_layers("mpnet.encoder.layer", MPNET_LAYER)
        + (Rule("mpnet.encoder.relative_attention_bias.weight", "relative_bias/embedding"),)
        + rules_of_pooler("classifier.dense", "classifier.out_proj")
        + rules_of_tokens("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
        classes_of("MPNet"),
        UNTYPED,
        read_mpnet,
        lambda module: attention_dropout(module) | {"relative_attention_num_buckets": 32},
    ),
    "electra": Kind(
        "electra.",
        rules_of_embeddings("electra.embeddings")
        + dense("electra.embeddings_project", "project")
        + rules_of_layers("electra.encoder.layer", BERT_LAYER)
        + rules_of_pooler("classifier.dense", "classifier.out_proj")
        + rules_of_tokens("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
        classes_of("Electra"),
        FIELDS,
        read_electra,
        told_electra,
    ),
    "deberta-v2": Kind(
        "deberta.",
        rules_of_embeddings("deberta.embeddings")
        + rules_of_layers("deberta.encoder.layer", DEBERTA_LAYER)
        + (Rule("deberta.encoder.rel_embeddings.weight", "relative/embedding"),)
        + norm("deberta.encoder.LayerNorm", "relative_norm")
        + (Rule("deberta.encoder.conv.conv.weight", "convolution/kernel"),)
        + (Rule("deberta.encoder.conv.conv.bias", "convolution/bias"),)
        + norm("deberta.encoder.conv.LayerNorm", "convolution/norm")
        + rules_of_pooler("pooler.dense", "classifier")
        + rules_of_tokens(
            *(f"cls.predictions.{n}" for n in ("transform.dense", "transform.LayerNorm", "bias")),
        ),
        classes_of("DebertaV2"),
        FIELDS,
        read_deberta,
        told_deberta,
    ),
    "t5": Kind(
        "",
        (Rule("shared.weight", "words/embedding"),)
        + (Rule(T5_UNGATED, "layer{}/mlp1/kernel", True),)
        + rules_of_layers("encoder.block", T5_LAYER)
        + (Rule("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative_bias/embedding"),)
        + norm("encoder.final_layer_norm", "final_norm")
        + rules_of_pooler("classification_head.dense", "classification_head.out_proj"),
        {"hidden": "T5EncoderModel"},
        T5_FIELDS,
        read_t5,
        told_t5,
        depth_at="block",
    ),
    "modernbert": Kind(
        "model.",
        (Rule("model.embeddings.tok_embeddings.weight", "words/embedding"),)
        + norm("model.embeddings.norm", "norm")
        + rules_of_layers("model.layers", MODERN_LAYER)
        + norm("model.final_norm", "final_norm")
        + rules_of_pooler("head.dense", "classifier")
        + norm("head.norm", "pooler_norm")
        + rules_of_tokens("head.dense", "head.norm", "decoder.bias"),
        classes_of("ModernBert"),
        MODERN_FIELDS,
        read_modern,
        told_modern,
        MODERN_JOINED,
        "layers",
    ),
}
BY_FORM = ("roberta", "bert", "distilbert")  # the families that the other fields of a network tell apart
# Tensors of heads that a model here may not have; a head that it has must be there, or be `fresh`. Of T5 the decoder.
HEADS = (
    *(r"^cls\.", r"pooler\.", r"^classifier\.", r"^lm_head\.", r"^vocab_", r"^pre_classifier\.", r"^qa_outputs\."),
    *(r"^generator_", r"^discriminator_predictions\.", r"^head\.", r"^decoder\.", r"^mask_predictions\."),
    *(r"^(lm_predictions|classification_head)\.", r"^encoder\.embed_tokens\.weight$"),
)


def kind_of(module: Encoder) -> str:
    """Returns the family that has such a module: what it was read as, or by its positions and token types."""
    if module.family:
        return module.family
    roberta, bert, distilbert = BY_FORM
    if module.counted_positions:
        return roberta
    return bert if module.token_types else distilbert


def fields_of(name: str, config: Mapping[str, Any]) -> Fields:
    """Returns the fields of an Encoder by config.json of the family `name`; ValueError for what is not supported."""
    fields = {ours: config[theirs] for ours, theirs in KINDS[name].fields.items() if config.get(theirs) is not None}
    return {**fields, "family": "" if name in BY_FORM else name, **KINDS[name].read(config)}


def rules_of(name: str, module: Encoder) -> tuple[Rule, ...]:
    """Returns the names of the tensors of a network: an ungated T5 calls its first layer otherwise than a gated one."""
    rules = KINDS[name].rules
    gated = module.pre_norm is not None and module.pre_norm.gated
    return tuple(rule for rule in rules if rule.theirs != T5_UNGATED or not gated)


def require_kind(folder: str, name: str | None, head: str) -> str:
    """Returns the family; ValueError, with what comes near, for one that is not read here or has no such head."""
    if name not in KINDS:
        raise ValueError(f"{folder}: the model type is {name!r}. {near(str(name), KINDS)}")
    if head == "tokens" and head not in KINDS[name].classes:
        raise ValueError(f"{folder}: {name} has no head 'tokens'; expected one of hidden, classes, sentence.")
    return name
