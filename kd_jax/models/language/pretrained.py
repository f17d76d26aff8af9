"""Published encoders as models of kd_jax, and encoders of kd_jax as folders that `transformers` loads.

`encoder_of(folder)` is a model of the sizes in config.json, `load` its weights (for config.<role>.initial), `save` the
way back. BERT (and MiniLM, which is one), RoBERTa, XLM-RoBERTa, DistilBERT, MPNet, ELECTRA, DeBERTa v2 and v3, T5's
encoder and ModernBERT: encoder_families.py has what they are called.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.models import streamed
from kd_jax.models.adapters import LinenModel
from kd_jax.models.hub import find_model
from kd_jax.models.language.bert import ACTIVATIONS, Encoder, encoder
from kd_jax.models.language.encoder_families import HEADS, KINDS, fields_of, kind_of, require_kind, rules_of
from kd_jax.models.language.joined import Joined, by_layer, put_together, taken_apart
from kd_jax.models.safetensors_io import Tensors, matched, read_config, read_params, write_folder
from kd_jax.models.streamed import Reading
from kd_jax.resolve import near
from kd_jax.types import Array, Model, PyTree

__all__ = ["encoder_of", "kind_of", "load", "save"]

OLD = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}
BUFFERS = (r"position_ids$", r"token_type_ids$")


def encoder_of(folder: str, head: str = "classes", num_classes: int = 0, dtype: Any = "float32", **changes: Any):
    """Returns the Encoder that config.json of a folder describes; `changes` are fields of it (depth=3).

    ValueError for a family, a head or a form that is not supported.
    """
    config = read_config(find_model(folder))
    name = require_kind(folder, config.get("model_type"), head)
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise ValueError(f"{folder}: only encoders with absolute positions are read, config.json says otherwise.")
    if not config.get("tie_word_embeddings", True) and head == "tokens":
        raise ValueError(f"{folder}: head='tokens' shares its matrix with the embeddings, this model does not.")
    try:
        fields = fields_of(name, config)
    except ValueError as e:
        raise ValueError(f"{folder}: {e}.") from e
    for field in ("activation", "pooler_activation", "transform_activation"):
        if fields.get(field, "gelu") not in ACTIVATIONS:
            raise ValueError(f"{folder}: activation {fields[field]!r}. {near(fields[field], ACTIVATIONS)}")
    return encoder(**{**fields, **changes, "head": head, "num_classes": num_classes, "dtype": dtype})


def load(
    model: Model, key: Array, folder: str, fresh: Sequence[str] = (), reading: Reading | None = None
) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of an encoder from a folder; missing paths that match `fresh` are drawn from `key`.

    A first part of the layers may be read into a shallower encoder: those that it lacks are left.
    With a `reading` the parameters come tensor by tensor to where they shall lie, as jax.Arrays; else as NumPy arrays.
    ValueError lists what is missing, unexpected or of another shape.
    """
    module = _module(model)
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes, stats = jax.eval_shape(model.init, key, tokens)
    name, where = kind_of(module), find_model(folder)
    kind = KINDS[name]
    deeper = (rf"(^|\.){kind.depth_at}\.({'|'.join(map(str, range(module.depth, 100)))})\.",)
    rules, theirs = rules_of(name, module), jax.eval_shape(lambda p: by_layer(p, put_together, kind.joined), shapes)
    ignore = (*BUFFERS, *HEADS, *deeper)
    options: dict[str, Any] = {"prefix": kind.prefix, "ignore": ignore, "fresh": fresh, "old": OLD}
    if reading is None:
        params = read_params(where, rules, theirs, **options)
        flat = traverse_util.flatten_dict(by_layer(params, taken_apart, kind.joined), sep="/")
    else:
        tensors = Tensors(where)
        taken, files = matched(tensors, where, rules, theirs, **options), tensors.files
        if reading.shapes_only:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), stats
        flat = streamed.read(files, taken, functools.partial(_pieces_of, kind.joined, shapes), shapes, reading)
        flat = traverse_util.flatten_dict(flat, sep="/")
    missing = traverse_util.flatten_dict(shapes, sep="/").keys() - flat.keys()
    if missing:
        drawn = jax.jit(lambda k: _only(model.init(k, jnp.zeros(tokens.shape, tokens.dtype))[0], missing))(key)
        flat |= drawn if reading is None else streamed.placed(drawn, shapes, reading)
    return traverse_util.unflatten_dict(flat, sep="/"), stats


def _only(params: PyTree, paths: Collection[str]) -> dict[str, Array]:
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    return {path: flat[path] for path in paths}


def _pieces_of(joined: Joined, shapes: PyTree, path: str) -> list[streamed.Piece]:
    """Where the parameter at `path` of a file's layout goes: into the parts of layers that it holds side by side."""
    layer, _, inside = path.partition("/")
    module, _, kind = inside.rpartition("/")
    if not re.fullmatch(r"layer\d+", layer) or module not in joined:
        return [streamed.Piece(path)]
    flat: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    paths = [f"{layer}/{part}/{kind}" for part in joined[module]]
    ends = list(itertools.accumulate(flat[part].shape[-1] for part in paths))
    return [streamed.Piece(p, (), first, last) for p, first, last in zip(paths, [0, *ends[:-1]], ends, strict=True)]


def save(folder: str | Path, model: Model | Encoder, params: PyTree, class_names: Sequence[str] = ()) -> None:
    """Writes an encoder so that the class of `transformers` for its head loads it; "sentence" also as a model of
    `sentence_transformers`, without the matrix of its classes. A tokenizer is copied by hand.

    ValueError where `transformers` has no such network.
    """
    module, folder = _module(model), Path(folder)
    name = kind_of(module)
    kind, bare = KINDS[name], module.head in ("hidden", "sentence")
    if module.head_width and module.head_width * module.heads != module.width and "head_width" not in kind.fields:
        raise ValueError(
            f"transformers has encoders whose heads together are as wide as the network ({module.width}) alone; here "
            f"{module.heads} heads are {module.head_width * module.heads} wide: prune heads and width alike."
        )
    if not bare and module.head not in kind.classes:
        raise ValueError(
            f"transformers has no {name} with the head {module.head!r} on its encoder alone: it has hidden"
        )
    config = _config_of(module, name, class_names)
    if bare:
        params = {k: v for k, v in params.items() if k != "head"}
    params = by_layer(params, functools.partial(put_together, np=np), kind.joined)
    write_folder(folder, params, rules_of(name, module), config, strip=kind.prefix if bare else "")
    if module.head == "sentence":
        _write_pooling(folder, module.width)


def _config_of(module: Encoder, name: str, class_names: Sequence[str]) -> dict[str, Any]:
    """What config.json says of an encoder."""
    kind, head = KINDS[name], "hidden" if module.head == "sentence" else module.head
    config: dict[str, Any] = {theirs: getattr(module, ours) for ours, theirs in kind.fields.items()}
    config |= {"model_type": name, "architectures": [kind.classes[head]]}
    config |= kind.told(module)
    if module.head == "classes":
        names = list(class_names) or [f"LABEL_{i}" for i in range(module.num_classes)]
        config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    return config


def _check_written(module: Encoder, name: str) -> None:
    """Raises ValueError where `transformers` has no such network."""
    heads = module.head_width * module.heads
    if heads and heads != module.width and "head_width" not in KINDS[name].fields:
        raise ValueError(
            f"transformers has encoders whose heads together are as wide as the network ({module.width}) alone; here "
            f"{module.heads} heads are {heads} wide: prune heads and width alike."
        )
    if module.head != "sentence" and module.head not in KINDS[name].classes:
        raise ValueError(f"transformers has no {name} whose encoder alone has the head {module.head!r}: take hidden.")


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
