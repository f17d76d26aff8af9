"""Published decoders as models of kd_jax, and decoders of kd_jax as folders that `transformers` loads.

Llama (2, 3), Mistral, Qwen2, Qwen3, Gemma, Gemma 2, Gemma 3 (its text model), Granite, OLMo 2, Phi-3 and
Phi-4-mini, SmolLM3, Mixtral, Qwen3-MoE, gpt-oss, GPT-2.
`decoder_of(folder)` is a module of the sizes in config.json, `load` its weights (as config.<role>.initial takes them),
`save` the way back. A folder is a path, "package:NAME/PATH" or the id of a model in the hub's local cache
(kd_jax/models/hub.py).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.models import streamed
from kd_jax.models.adapters import LinenModel
from kd_jax.models.hub import find_model
from kd_jax.models.language.decoder import Decoder
from kd_jax.models.language.decoder_configs import FAMILIES, config_of, family_of, options_of
from kd_jax.models.language.decoder_parts import Options
from kd_jax.models.language.joined import (
    IN_TURN,
    of_every_second,
    one_by_one,
    put_together,
    stacked,
    taken_apart,
    taken_in_turn,
)
from kd_jax.models.language.text_models import NAMES, OTHER_PARTS, read_text_config
from kd_jax.models.safetensors_io import (
    SHARD,
    Later,
    Rule,
    Tensors,
    dense,
    matched,
    norm,
    read_params,
    write_folder,
)
from kd_jax.models.streamed import Reading
from kd_jax.resolve import near
from kd_jax.types import Array, Model, PyTree

LAYER, OURS = "model.layers.{}", "layer{}"


def _scale(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", f"{ours}/scale"),)


def _llama(norms: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules of Llama and its descendants, which differ in the names of norms."""
    rules = (
        Rule("model.embed_tokens.weight", "embed/embedding"),
        Rule("lm_head.weight", "head/embedding"),
        *_scale("model.norm", "norm"),
        *_scale(f"{LAYER}.self_attn.q_norm", f"{OURS}/attention/query_norm"),
        *_scale(f"{LAYER}.self_attn.k_norm", f"{OURS}/attention/key_norm"),
    )
    for ours, theirs in {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}.items():
        rules += dense(f"{LAYER}.self_attn.{theirs}", f"{OURS}/attention/{ours}")
    for ours, theirs in {"attention/qkv": "self_attn.qkv_proj", "mlp/gate_up": "mlp.gate_up_proj"}.items():
        rules += dense(f"{LAYER}.{theirs}", f"{OURS}/{ours}")  # of Phi-3
    for name in ("gate", "up", "down"):
        rules += dense(f"{LAYER}.mlp.{name}_proj", f"{OURS}/mlp/{name}")
    for ours, theirs in norms.items():
        rules += _scale(f"{LAYER}.{theirs}layernorm", f"{OURS}/{ours}")
    return rules


def _conv1d(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A Conv1D of GPT-2: a linear layer whose weight is [in, out], as here."""
    return Rule(f"{theirs}.weight", f"{ours}/kernel"), Rule(f"{theirs}.bias", f"{ours}/bias")


BLOCK = "transformer.h.{}"
GPT2 = (
    Rule("transformer.wte.weight", "embed/embedding"),
    Rule("transformer.wpe.weight", "positions/embedding"),
    Rule("lm_head.weight", "head/embedding"),
    *norm("transformer.ln_f", "norm"),
    *norm(f"{BLOCK}.ln_1", f"{OURS}/norm1"),
    *norm(f"{BLOCK}.ln_2", f"{OURS}/norm2"),
    *_conv1d(f"{BLOCK}.attn.c_attn", f"{OURS}/attention/qkv"),
    *_conv1d(f"{BLOCK}.attn.c_proj", f"{OURS}/attention/out"),
    *_conv1d(f"{BLOCK}.mlp.c_fc", f"{OURS}/mlp/up"),
    *_conv1d(f"{BLOCK}.mlp.c_proj", f"{OURS}/mlp/down"),
)
TWO_NORMS = {"norm1": "input_", "norm2": "post_attention_"}
LAST_NORMS = {"post_norm1": "post_attention_", "post_norm2": "post_feedforward_"}
FOUR_NORMS = {
    "norm1": "input_",
    "post_norm1": "post_attention_",
    "norm2": "pre_feedforward_",
    "post_norm2": "post_feedforward_",
}
TABLES = (r"^(embed|head)/embedding$",)
# Families that hold several layers as one, side by side: {that one: its parts}.
ATTENTION = tuple(f"attention/{name}" for name in ("query", "key", "value"))
MLP = ("mlp/gate", "mlp/up")
JOINED = {
    "gpt2": {"attention/qkv": ATTENTION},
    "phi3": {"attention/qkv": ATTENTION, "mlp/gate_up": MLP},
}
BUFFERS = (r"rotary_emb\.inv_freq$", r"\.attn\.(masked_)?bias$")


EXPERTS = {  # the router, and the parts of an expert
    "mixtral": ("block_sparse_moe.gate", "block_sparse_moe.experts.{}.", {"gate": "w1", "up": "w3", "down": "w2"}),
    "qwen3_moe": ("mlp.gate", "mlp.experts.{}.", {n: f"{n}_proj" for n in ("gate", "up", "down")}),
}


GPT_OSS = (  # beside Llama's
    Rule(f"{LAYER}.self_attn.sinks", f"{OURS}/attention/sinks"),
    *dense(f"{LAYER}.mlp.router", f"{OURS}/mlp/router"),
    *(
        Rule(f"{LAYER}.mlp.experts.{n}_proj{kind}", f"{OURS}/mlp/experts/{n}{kind}")
        for n in ("gate_up", "down")
        for kind in ("", "_bias")
    ),
)


def rules_of(family: str) -> tuple[Rule, ...]:
    if family == "gpt2":
        return GPT2
    if family in EXPERTS:
        router, expert, names = EXPERTS[family]
        rules = _llama(TWO_NORMS) + dense(f"{LAYER}.{router}", f"{OURS}/mlp/router", bias=False)
        for ours, theirs in names.items():
            rules += dense(f"{LAYER}.{expert}{theirs}", f"{OURS}/mlp/experts/{{}}/{ours}", bias=False)
        return rules
    if family == "gpt_oss":
        return _llama(TWO_NORMS) + GPT_OSS
    return _llama({"gemma2": FOUR_NORMS, "gemma3_text": FOUR_NORMS, "olmo2": LAST_NORMS}.get(family, TWO_NORMS))


def decoder_of(folder: str, dtype: Any = "float32", **changes: Any) -> Decoder:
    """Returns the Decoder of a folder's config.json; `changes` are fields of its Options (depth, scan, remat).

    ValueError for a family, an activation or a scaling of positions that is not supported.
    """
    config = read_text_config(find_model(folder))
    read_family(folder)
    return Decoder(Options(**{**options_of(config), "dtype": dtype, **changes}))


def read_family(folder: str) -> str:
    """Returns the model_type of a folder; ValueError, with what comes near, for one that is not read here."""
    family = read_text_config(find_model(folder)).get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"{folder}: the model type is {family!r}. {near(str(family), FAMILIES)}")
    return family


def load(
    model: Model, key: Array, folder: str, fresh: Sequence[str] = (), reading: Reading | None = None
) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of a decoder from a folder; missing paths that match `fresh` are drawn from `key`.

    The first layers may be read into a shallower decoder, and of embeddings and head the first `vocabulary` rows.
    With a `reading` the parameters come tensor by tensor to where they shall lie, as jax.Arrays; else as NumPy arrays.
    ValueError lists what is missing, unexpected or misshapen.
    """
    module, where = _module(model), find_model(folder)
    o = module.options
    family = read_text_config(where)["model_type"]
    shapes = jax.eval_shape(module.init, key, jnp.zeros((1, 2), jnp.int32))["params"]
    theirs = jax.eval_shape(lambda p: outside(p, o, family), shapes)
    body = r"(model\.|language_model\.)*layers|transformer\.h|h"
    deeper = rf"^(({body})\.({'|'.join(map(str, range(o.depth, 1000)))}))\."
    head = (r"^(language_model\.)?lm_head\.weight$",) if o.tied else ()
    options = {
        "prefix": "transformer." if o.positions == "learned" else "model.",
        "ignore": (*BUFFERS, deeper, *head, *OTHER_PARTS),
        "fresh": fresh,
        "old": NAMES,
        "longer": TABLES,
    }
    if reading is not None and not fresh:
        return _streamed(where, o, family, shapes, theirs, reading, options), {}
    params = read_params(where, rules_of(family), theirs, **options)
    flat, wanted = (traverse_util.flatten_dict(t, sep="/") for t in (params, theirs))
    if missing := wanted.keys() - flat.keys():
        drawn = outside(jax.jit(lambda k: module.init(k, jnp.zeros((1, 2), jnp.int32))["params"])(key), o, family)
        flat |= {k: np.asarray(v) for k, v in traverse_util.flatten_dict(drawn, sep="/").items() if k in missing}
    return _inside(traverse_util.unflatten_dict(flat, sep="/"), o, family), {}


def _streamed(
    where: Path, o: Options, family: str, shapes: PyTree, theirs: PyTree, reading: Reading, options: dict[str, Any]
) -> PyTree:
    """The parameters, each tensor at its place as soon as it is read."""
    tensors = Tensors(where)
    taken = matched(tensors, where, rules_of(family), theirs, **options)
    if reading.shapes_only:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    files = tensors.files
    del tensors
    return streamed.read(files, taken, functools.partial(pieces_of, o, family), shapes, reading)


def pieces_of(o: Options, family: str, path: str) -> list[streamed.Piece]:
    """Returns where the parameter at `path` of a file's layout goes: into parts, a stack of layers, one of experts."""
    layer = re.fullmatch(r"layer(\d+)/(.*)", path)
    if layer is None:
        return [streamed.Piece(path)]
    number, inside = int(layer[1]), layer[2]
    root, index = ("layers/", (number,)) if o.scan else (f"layer{number}/", ())
    expert = re.fullmatch(r"mlp/experts/(\d+)/(\w+)/kernel", inside)
    if expert:
        return [streamed.Piece(f"{root}mlp/experts/{expert[2]}", (*index, int(expert[1])))]
    if family == "gpt_oss" and inside in IN_TURN:
        parts = IN_TURN[inside]
        return [streamed.Piece(root + part, index, i, step=len(parts)) for i, part in enumerate(parts)]
    module, _, kind = inside.rpartition("/")
    if module not in JOINED.get(family, {}):
        return [streamed.Piece(root + inside, index)]
    parts, sizes = JOINED[family][module], sizes_of_parts(o)
    ends = list(itertools.accumulate(sizes[part] for part in parts))
    starts = [0, *ends[:-1]]
    return [
        streamed.Piece(f"{root}{part}/{kind}", index, first, last)
        for part, first, last in zip(parts, starts, ends, strict=True)
    ]


def save(
    folder: str | Path, model: Model | Decoder, params: PyTree, *, max_shard_size: int = SHARD, **fields: Any
) -> None:
    """Writes a decoder so that AutoModelForCausalLM of `transformers` loads it; a tokenizer is copied by hand.

    `fields` are added to config.json (eos_token_id, pad_token_id). Weights of more than `max_shard_size` bytes are
    several files. ValueError where no family has such options.
    """
    o = _module(model).options
    family = family_of(o)
    config = {**config_of(o, family), "torch_dtype": str(jax.tree.leaves(params)[0].dtype), **fields}
    write_folder(Path(folder), written(params, o, family), rules_of(family), config, max_shard_size=max_shard_size)


def written(params: PyTree, o: Options, family: str, dtype: Any = None) -> dict[str, Later]:
    """Returns parameters as files of a family have them, each of which is gathered when its file is written.

    `dtype` is what they are rounded to, None: their own.
    """
    shapes = jax.eval_shape(lambda p: outside(p, o, family), params)
    return streamed.later(shapes, params, functools.partial(pieces_of, o, family), dtype)


def outside(params: PyTree, o: Options, family: str, np: Any = jnp) -> dict[str, Any]:
    """Returns parameters as files of a family have them: layers one by one, and those that it holds as one joined."""
    params = dict(params)
    if o.scan:
        stacked = params.pop("layers")
        params |= {f"layer{i}": jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(o.depth)}
    for i in range(o.depth):
        flat = put_together(traverse_util.flatten_dict(params[f"layer{i}"], sep="/"), JOINED.get(family, {}), np)
        flat = taken_in_turn(flat, np) if family == "gpt_oss" else one_by_one(flat, o.experts)
        params[f"layer{i}"] = traverse_util.unflatten_dict(flat, sep="/")
    return params


def sizes_of_parts(o: Options) -> dict[str, int]:
    """Returns the number of outputs of the layers that some families hold side by side."""
    keys, (query, key, value), (gate, up) = o.kv_heads * o.head_width, ATTENTION, MLP
    return {query: o.heads * o.head_width, key: keys, value: keys, gate: o.hidden, up: o.hidden}


def _inside(params: PyTree, o: Options, family: str) -> dict[str, Any]:
    """The inverse of `outside`, on NumPy arrays."""
    params, sizes = dict(params), sizes_of_parts(o)
    for i in range(o.depth):
        flat = traverse_util.flatten_dict(params[f"layer{i}"], sep="/")
        flat = of_every_second(flat) if family == "gpt_oss" else stacked(flat, o.experts)
        params[f"layer{i}"] = traverse_util.unflatten_dict(taken_apart(flat, JOINED.get(family, {}), sizes), sep="/")
    if o.scan:
        layers = [params.pop(f"layer{i}") for i in range(o.depth)]
        params["layers"] = jax.tree.map(lambda *x: np.stack(x), *layers)
    return params


def _module(model: Model | Decoder) -> Decoder:
    module = model.module if isinstance(model, LinenModel) else model
    if not isinstance(module, Decoder):
        raise ValueError(f"expected models.language.decoder.Decoder, got {type(module).__name__}")
    return module
