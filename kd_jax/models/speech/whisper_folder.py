"""Whisper in Hugging Face folders: the network of one, its weights, a student of its layers, and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.models.adapters import LinenModel
from kd_jax.models.hub import find_model
from kd_jax.models.safetensors_io import Rule, dense, norm, read_params, write_folder
from kd_jax.models.speech.whisper import FIELDS, Whisper
from kd_jax.types import Array, Model, PyTree, Variables

PREFIX = "model."


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    parts = {"q_proj": "query", "v_proj": "value", "out_proj": "out"}
    rules = tuple(r for t, o in parts.items() for r in dense(f"{theirs}.{t}", f"{ours}/{o}"))
    return rules + dense(f"{theirs}.k_proj", f"{ours}/key", bias=False)


def _side(side: str, cross: bool) -> tuple[Rule, ...]:
    theirs, ours = f"{PREFIX}{side}.layers.{{}}", f"{side}/layer{{}}"
    rules = _attention(f"{theirs}.self_attn", f"{ours}/attention")
    rules += norm(f"{theirs}.self_attn_layer_norm", f"{ours}/attention_norm")
    if cross:
        rules += _attention(f"{theirs}.encoder_attn", f"{ours}/cross")
        rules += norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}/cross_norm")
    rules += dense(f"{theirs}.fc1", f"{ours}/inner") + dense(f"{theirs}.fc2", f"{ours}/outer")
    rules += norm(f"{theirs}.final_layer_norm", f"{ours}/mlp_norm")
    rules += norm(f"{PREFIX}{side}.layer_norm", f"{side}/norm")
    return (*rules, Rule(f"{PREFIX}{side}.embed_positions.weight", f"{side}/positions/embedding"))


RULES = (
    *_side("encoder", False),
    *_side("decoder", True),
    Rule(f"{PREFIX}encoder.conv{{}}.weight", "encoder/conv{}/kernel"),
    Rule(f"{PREFIX}encoder.conv{{}}.bias", "encoder/conv{}/bias"),
    Rule(f"{PREFIX}decoder.embed_tokens.weight", "decoder/embed/embedding"),
)


def load(model: Model, key: Array, folder: str) -> Variables:
    """Returns (params, stats) of a Whisper from a folder: for config.<role>.initial.

    ValueError lists what is missing, unexpected or of another shape.
    """
    module = _module(model)
    length = 2 * module.options.source_positions
    source = jax.ShapeDtypeStruct((1, min(length, 4), module.options.bands), jnp.float32)
    shapes, stats = jax.eval_shape(model.init, key, source, jax.ShapeDtypeStruct((1, 2), jnp.int32))
    return read_params(find_model(folder), RULES, shapes, prefix=PREFIX, ignore=(r"^proj_out\.",)), stats


def save(folder: str | Path, model: Model | Whisper, params: PyTree, further: Mapping[str, Any] | None = None) -> None:
    """Writes config.json and model.safetensors, which WhisperForConditionalGeneration loads.

    `further` are fields of config.json beside the sizes: the numbers of special tokens. A tokenizer is copied by hand.
    """
    module = _module(model)
    config: dict[str, Any] = {theirs: getattr(module.options, ours) for ours, theirs in FIELDS.items()}
    config |= {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}
    config |= {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True}
    write_folder(Path(folder), params, RULES, {**config, **(further or {})})


def layers(model: Model, key: Array, teacher: Variables, shapes: Variables, layers: Sequence[int] = ()) -> Variables:
    """Returns a student with the teacher's encoder and some layers of its decoder: for config.student.initial.

    Its decoder layer i is layer `layers[i]` of the teacher's, by default as far apart as can be, the first and the last
    among them; all else is the teacher's. ValueError for layers that there are not, and where shapes differ.
    Gandhi, von Platen, Rush, "Distil-Whisper", 2023, arXiv 2311.00430.
    """
    del key
    theirs: dict[str, Any] = traverse_util.flatten_dict(teacher[0], sep="/")
    wanted: dict[str, Any] = traverse_util.flatten_dict(shapes[0], sep="/")
    deep, depth = (_depth(flat) for flat in (theirs, wanted))
    chosen = tuple(layers) or spread(deep, depth)
    if len(chosen) != depth or not all(0 <= i < deep for i in chosen):
        raise ValueError(
            f"layers={chosen}: the student needs {depth} of the teacher's {deep}, numbers from 0 to {deep - 1}."
        )
    result = {}
    for path, leaf in wanted.items():
        match = re.match(r"decoder/layer(\d+)/", path)
        origin = f"decoder/layer{chosen[int(match[1])]}/{path[match.end() :]}" if match else path
        if origin not in theirs or theirs[origin].shape != leaf.shape:
            shape = theirs[origin].shape if origin in theirs else "nothing"
            raise ValueError(
                f"the teacher's {origin} is {shape}, the student needs {leaf.shape}: but for its decoder's "
                "depth a student has its teacher's sizes."
            )
        result[path] = jnp.array(theirs[origin], leaf.dtype)  # a copy: buffers are donated with a state
    return traverse_util.unflatten_dict(result, sep="/"), shapes[1]


def _depth(flat: dict[str, Any]) -> int:
    return 1 + max(int(m[1]) for m in (re.match(r"decoder/layer(\d+)/", path) for path in flat) if m)


def _module(model: Model | Whisper) -> Whisper:
    module = model.module if isinstance(model, LinenModel) else model
    if not isinstance(module, Whisper):
        raise ValueError(f"expected models.speech.whisper.Whisper, got {type(module).__name__}")
    return module


def spread(deep: int, depth: int) -> tuple[int, ...]:
    """Returns the numbers of `depth` layers of `deep`, as far apart as can be, the first and the last too."""
    return tuple(int(i) for i in np.round(np.linspace(0, deep - 1, depth)))
