"""Texts that a loaded decoder goes on with."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from kd_jax.data.text.tokenizing import of_tokenizer
from kd_jax.models.described import rebuild
from kd_jax.models.language import decoder
from kd_jax.models.language.generation import generate, left_padded
from kd_jax.models.lora import LoraModel
from kd_jax.models.remat import Remat
from kd_jax.types import Model, PyTree

_BESIDE = 16  # tokens that may stand before a text, whose every byte is a token at most


def decoder_of(model: Model) -> decoder.Decoder | None:
    """Returns the decoder of this package in a model, None where it is another network."""
    network = model.model if isinstance(model, Remat) else model
    module = getattr(network, "module", None)
    return module if isinstance(module, decoder.Decoder) else None


def continued(
    model: Model,
    params: PyTree,
    fixed: Mapping[str, PyTree],
    info: Mapping[str, Any],
    tokenizer: str,
    texts: str | Sequence[str],
    length: int,
) -> list[str]:
    """Returns what the decoder writes after each text, greedily; `tokenizer` is the content of a tokenizer.json.

    `info` is the model.json that says how a text begins and ends. Raises ValueError for another network, for a length
    below 1, and for an empty text of a network whose texts begin with no token.
    """
    module, network = decoder_of(model), model.model if isinstance(model, Remat) else model
    if module is None:
        raise ValueError("This network is no decoder of kd_jax, so it writes no texts: take .logits(texts).")
    if length < 1:
        raise ValueError(f"length={length}: at least one token is written.")
    if isinstance(network, LoraModel):
        params = network.merged(params, fixed[max(fixed, key=int)])  # the base is its last input
    rows = begun(info, tokenizer, [texts] if isinstance(texts, str) else list(texts))
    if not all(rows):
        raise ValueError("An empty text has no token that this network could go on from: its texts begin with none.")
    size = 1 << (max(map(len, rows)) - 1).bit_length()
    tokens, mask = np.zeros((len(rows), size), np.int32), np.zeros((len(rows), size), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    ends = ends_of(info, tokenizer)
    greedy = functools.partial(generate, decoder.decoding(module), length=length, temperature=0, end=ends)
    written = jax.jit(greedy)(params, *left_padded(jnp.asarray(tokens), jnp.asarray(mask)), jax.random.key(0))
    tokens, real = (np.asarray(x) for x in written)
    decode = Tokenizer.from_str(tokenizer).decode
    rows = [[int(t) for t in row[there] if t not in ends] for row, there in zip(tokens, real, strict=True)]
    return [decode(row, skip_special_tokens=True) for row in rows]


def begun(info: Mapping[str, Any], tokenizer: str, texts: Sequence[str]) -> list[list[int]]:
    """Returns the tokens of each text, with those that the data begin a text with."""
    entries = rebuild(info["preparation"]["text"])
    room = max(len(text.encode()) for text in texts) + _BESIDE
    made = entries(texts, tokenizer, length=room)
    return [row[there > 0].tolist() for row, there in zip(made["tokens"], made["segments"], strict=True)]


def ends_of(info: Mapping[str, Any], tokenizer: str) -> tuple[int, ...]:
    """Returns the tokens that end a text; exports of older versions do not say them, and their tokenizers have one."""
    ends = info["data"].get("end")
    return tuple(ends) if ends is not None else (of_tokenizer(Tokenizer.from_str(tokenizer)).end,)
