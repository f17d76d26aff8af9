"""What encoders of `transformers` call their tensors, and the sizes in their config.json."""

from __future__ import annotations

from collections.abc import Mapping

from kd_jax.models.safetensors_io import Rule, dense, norm


def rules_of_embeddings(root: str, **tables: str) -> tuple[Rule, ...]:
    tables = tables or {"word": "words", "position": "positions", "token_type": "types"}
    rules = tuple(Rule(f"{root}.{k}_embeddings.weight", f"{v}/embedding") for k, v in tables.items())
    return rules + norm(f"{root}.LayerNorm", "norm")


def rules_of_layers(root: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Returns the rules of layers; `names` maps the sub-modules of our layer to theirs."""
    rules: tuple[Rule, ...] = ()
    for ours, theirs in names.items():
        rules += (norm if ours.startswith("norm") else dense)(f"{root}.{{}}.{theirs}", f"layer{{}}/{ours}")
    return rules


def rules_of_pooler(first: str, second: str) -> tuple[Rule, ...]:
    return dense(first, "pooler") + dense(second, "head")


def rules_of_tokens(linear: str, normed: str, bias: str) -> tuple[Rule, ...]:
    return dense(linear, "transform") + norm(normed, "transform_norm") + (Rule(bias, "token_bias"),)


def classes_of(name: str, hidden: str = "Model") -> dict[str, str]:
    return {
        "hidden": f"{name}{hidden}",
        "tokens": f"{name}ForMaskedLM",
        "classes": f"{name}ForSequenceClassification",
    }


MLP = {"mlp1": "intermediate.dense", "mlp2": "output.dense", "norm2": "output.LayerNorm"}
BERT_LAYER = {
    "attention/queries_dense": "attention.self.query",
    "attention/keys_dense": "attention.self.key",
    "attention/values_dense": "attention.self.value",
    "attention/out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    **MLP,
}
DISTILBERT_LAYER = {
    "attention/queries_dense": "attention.q_lin",
    "attention/keys_dense": "attention.k_lin",
    "attention/values_dense": "attention.v_lin",
    "attention/out": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "mlp1": "ffn.lin1",
    "mlp2": "ffn.lin2",
    "norm2": "output_layer_norm",
}
MPNET_LAYER = {
    "attention/queries_dense": "attention.attn.q",
    "attention/keys_dense": "attention.attn.k",
    "attention/values_dense": "attention.attn.v",
    "attention/out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
    **MLP,
}
DEBERTA_LAYER = {
    **BERT_LAYER,
    "attention/queries_dense": "attention.self.query_proj",
    "attention/keys_dense": "attention.self.key_proj",
    "attention/values_dense": "attention.self.value_proj",
    "attention/distance_queries": "attention.self.pos_query_proj",
    "attention/distance_keys": "attention.self.pos_key_proj",
}
T5_UNGATED = "encoder.block.{}.layer.1.DenseReluDense.wi.weight"
T5_LAYER = {
    "attention/queries_dense": "layer.0.SelfAttention.q",
    "attention/keys_dense": "layer.0.SelfAttention.k",
    "attention/values_dense": "layer.0.SelfAttention.v",
    "attention/out": "layer.0.SelfAttention.o",
    "norm1": "layer.0.layer_norm",
    "gate": "layer.1.DenseReluDense.wi_0",
    "mlp1": "layer.1.DenseReluDense.wi_1",
    "mlp2": "layer.1.DenseReluDense.wo",
    "norm2": "layer.1.layer_norm",
}
MODERN_LAYER = {
    "attention/qkv": "attn.Wqkv",
    "attention/out": "attn.Wo",
    "norm1": "attn_norm",
    "gate_mlp1": "mlp.Wi",
    "mlp2": "mlp.Wo",
    "norm2": "mlp_norm",
}
MODERN_JOINED = {
    "attention/qkv": ("attention/queries_dense", "attention/keys_dense", "attention/values_dense"),
    "gate_mlp1": ("gate", "mlp1"),
}

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "pad": "pad_token_id",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
}
UNTYPED = {ours: theirs for ours, theirs in FIELDS.items() if ours != "token_types"}
DISTILBERT_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "dim",
    "depth": "n_layers",
    "heads": "n_heads",
    "hidden": "hidden_dim",
    "positions": "max_position_embeddings",
    "pad": "pad_token_id",
    "activation": "activation",
    "dropout": "dropout",
}
T5_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "d_model",
    "depth": "num_layers",
    "heads": "num_heads",
    "hidden": "d_ff",
    "pad": "pad_token_id",
    "epsilon": "layer_norm_epsilon",
    "dropout": "dropout_rate",
    "head_width": "d_kv",
}
MODERN_FIELDS = {
    **{n: FIELDS[n] for n in ("vocabulary", "width", "depth", "heads", "hidden", "positions", "pad")},
    "activation": "hidden_activation",
    "epsilon": "norm_eps",
    "dropout": "mlp_dropout",
    "pooler_bias": "classifier_bias",
    "pooler_activation": "classifier_activation",
}
