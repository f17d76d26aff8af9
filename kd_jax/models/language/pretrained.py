"""Published encoders as models of kd_jax, and encoders of kd_jax as folders that `transformers` loads.

`encoder_of(folder)` is a model of the sizes in config.json, `load` its weights (for config.<role>.initial), `save` the
way back. BERT (and MiniLM, which is one), RoBERTa and DistilBERT.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from kd_jax.models.adapters import LinenModel
from kd_jax.models.hub import find_model
from kd_jax.models.language.bert import ACTIVATIONS, Encoder, encoder
from kd_jax.models.safetensors_io import Rule, dense, norm, read_config, read_params, write_folder
from kd_jax.resolve import near
from kd_jax.types import Array, Model, PyTree

OLD = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}
BUFFERS = (r"position_ids$", r"token_type_ids$")


def _embeddings(root: str) -> tuple[Rule, ...]:
    tables = {"word": "words", "position": "positions", "token_type": "types"}
    rules = tuple(Rule(f"{root}.{k}_embeddings.weight", f"{v}/embedding") for k, v in tables.items())
    return rules + norm(f"{root}.LayerNorm", "norm")


def _layers(root: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """`names` maps the sub-modules of our layer to theirs."""
    rules: tuple[Rule, ...] = ()
    for ours, theirs in names.items():
        rules += (norm if ours.startswith("norm") else dense)(f"{root}.{{}}.{theirs}", f"layer{{}}/{ours}")
    return rules


BERT_LAYER = {
    "attention/queries_dense": "attention.self.query",
    "attention/keys_dense": "attention.self.key",
    "attention/values_dense": "attention.self.value",
    "attention/out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp1": "intermediate.dense",
    "mlp2": "output.dense",
    "norm2": "output.LayerNorm",
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


class Kind(NamedTuple):
    """A family: its names of tensors, of classes by our `head`, and of the fields of config.json."""

    prefix: str
    rules: tuple[Rule, ...]
    classes: dict[str, str]
    fields: dict[str, str]  # ours -> theirs


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
KINDS = {
    "bert": Kind(
        "bert.",
        _embeddings("bert.embeddings")
        + _layers("bert.encoder.layer", BERT_LAYER)
        + dense("bert.pooler.dense", "pooler")
        + dense("classifier", "head")
        + dense("cls.predictions.transform.dense", "transform")
        + norm("cls.predictions.transform.LayerNorm", "transform_norm")
        + (Rule("cls.predictions.bias", "token_bias"),),
        {"hidden": "BertModel", "tokens": "BertForMaskedLM", "classes": "BertForSequenceClassification"},
        FIELDS,
    ),
    "roberta": Kind(
        "roberta.",
        _embeddings("roberta.embeddings")
        + _layers("roberta.encoder.layer", BERT_LAYER)
        + dense("classifier.dense", "pooler")
        + dense("classifier.out_proj", "head")
        + dense("lm_head.dense", "transform")
        + norm("lm_head.layer_norm", "transform_norm")
        + (Rule("lm_head.bias", "token_bias"),),
        {"hidden": "RobertaModel", "tokens": "RobertaForMaskedLM", "classes": "RobertaForSequenceClassification"},
        FIELDS,
    ),
    "distilbert": Kind(
        "distilbert.",
        _embeddings("distilbert.embeddings")
        + _layers("distilbert.transformer.layer", DISTILBERT_LAYER)
        + dense("pre_classifier", "pooler")
        + dense("classifier", "head")
        + dense("vocab_transform", "transform")
        + norm("vocab_layer_norm", "transform_norm")
        + (Rule("vocab_projector.bias", "token_bias"),),
        {
            "hidden": "DistilBertModel",
            "tokens": "DistilBertForMaskedLM",
            "classes": "DistilBertForSequenceClassification",
        },
        {
            "vocabulary": "vocab_size",
            "width": "dim",
            "depth": "n_layers",
            "heads": "n_heads",
            "hidden": "hidden_dim",
            "positions": "max_position_embeddings",
            "pad": "pad_token_id",
            "activation": "activation",
            "dropout": "dropout",
        },
    ),
}
# Tensors of heads that a model here may not have; a head that it has must be there, or be `fresh`.
HEADS = (r"^cls\.", r"pooler\.", r"^classifier\.", r"^lm_head\.", r"^vocab_", r"^pre_classifier\.", r"^qa_outputs\.")


def kind_of(module: Encoder) -> str:
    """Returns the family that has such a module: its position and token type embeddings decide."""
    if module.counted_positions:
        return "roberta"
    return "bert" if module.token_types else "distilbert"


def encoder_of(folder: str, head: str = "classes", num_classes: int = 0, dtype: Any = "float32", **changes: Any):
    """Returns the Encoder that config.json of a folder describes; `changes` are fields of it (depth=3)."""
    config = read_config(find_model(folder))
    name = config.get("model_type")
    name = "roberta" if name == "xlm-roberta" else name
    if name not in KINDS:
        raise ValueError(f"{folder}: the model type is {name!r}. {near(str(name), KINDS)}")
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise ValueError(f"{folder}: only encoders with absolute positions are read, config.json says otherwise.")
    if not config.get("tie_word_embeddings", True) and head == "tokens":
        raise ValueError(f"{folder}: head='tokens' shares its matrix with the embeddings, this model does not.")
    fields = {ours: config[theirs] for ours, theirs in KINDS[name].fields.items() if theirs in config}
    fields |= {"distilbert": {"token_types": 0, "pooler_activation": "relu"}}.get(name, {})
    fields["counted_positions"] = name == "roberta"
    if fields.get("activation", "gelu") not in ACTIVATIONS:
        raise ValueError(f"{folder}: activation {fields['activation']!r}. {near(fields['activation'], ACTIVATIONS)}")
    return encoder(**{**fields, **changes, "head": head, "num_classes": num_classes, "dtype": dtype})


def load(model: Model, key: Array, folder: str, fresh: Sequence[str] = ()) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of an encoder from a folder; missing paths that match `fresh` are drawn from `key`.

    A first part of the layers may be read into a shallower encoder: those that it lacks are left.
    ValueError lists what is missing, unexpected or of another shape.
    """
    module = _module(model)
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes, stats = jax.eval_shape(model.init, key, tokens)
    kind, where = KINDS[kind_of(module)], find_model(folder)
    deeper = (rf"\.layer\.({'|'.join(map(str, range(module.depth, 100)))})\.",)
    params = read_params(
        where, kind.rules, shapes, prefix=kind.prefix, ignore=(*BUFFERS, *HEADS, *deeper), fresh=fresh, old=OLD
    )
    flat = traverse_util.flatten_dict(params, sep="/")
    missing = traverse_util.flatten_dict(shapes, sep="/").keys() - flat.keys()
    if missing:
        drawn = jax.jit(lambda k: model.init(k, jnp.zeros(tokens.shape, tokens.dtype))[0])(key)
        flat |= {k: v for k, v in traverse_util.flatten_dict(drawn, sep="/").items() if k in missing}
    return traverse_util.unflatten_dict(flat, sep="/"), stats


def save(folder: str | Path, model: Model | Encoder, params: PyTree, class_names: Sequence[str] = ()) -> None:
    """Writes an encoder so that the class of `transformers` for its head loads it; "sentence" also as a model of
    `sentence_transformers`, without the matrix of its classes. A tokenizer is copied by hand.
    """
    module, folder = _module(model), Path(folder)
    if module.head_width and module.head_width * module.heads != module.width:
        raise ValueError(
            f"transformers has encoders whose heads together are as wide as the network ({module.width}) alone; here "
            f"{module.heads} heads are {module.head_width * module.heads} wide: prune heads and width alike."
        )
    name = kind_of(module)
    kind, bare = KINDS[name], module.head in ("hidden", "sentence")
    config: dict[str, Any] = {theirs: getattr(module, ours) for ours, theirs in kind.fields.items()}
    config |= {"model_type": name, "architectures": [kind.classes["hidden" if bare else module.head]]}
    config |= {"distilbert": {"attention_dropout": module.dropout, "sinusoidal_pos_embds": False}}.get(
        name, {"attention_probs_dropout_prob": module.dropout}
    )
    if module.head == "classes":
        names = list(class_names) or [f"LABEL_{i}" for i in range(module.num_classes)]
        config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    if bare:
        params = {k: v for k, v in params.items() if k != "head"}
    write_folder(folder, params, kind.rules, config, strip=kind.prefix if bare else "")
    if module.head == "sentence":
        _write_pooling(folder, module.width)


def _write_pooling(folder: Path, width: int) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2) + "\n")


def _module(model: Model | Encoder) -> Encoder:
    module = model.module if isinstance(model, LinenModel) else model
    if not isinstance(module, Encoder):
        raise ValueError(f"expected models.language.bert.Encoder, got {type(module).__name__}")
    return module
