"""Texts that a loaded decoder goes on with."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from kd_jax.compress.plain import multiplied, network_in, unrounded
from kd_jax.data.text.tokenizing import of_tokenizer
from kd_jax.models.language import decoder
from kd_jax.models.language.generation import generate, left_padded
from kd_jax.models.lora import LoraModel
from kd_jax.models.remat import Remat
from kd_jax.types import Model, PyTree


def decoder_of(model: Model) -> decoder.Decoder | None:
    """Returns the decoder of this package in a model, None where it is another network."""
    network = model.model if isinstance(model, Remat) else model
    module = getattr(network_in(network), "module", None)
    return module if isinstance(module, decoder.Decoder) else None


def continued(
    model: Model, params: PyTree, fixed: Mapping[str, PyTree], tokenizer: str, texts: str | Sequence[str], length: int
) -> list[str]:
    """Returns what the decoder writes after each text, greedily; `tokenizer` is the content of a tokenizer.json.

    Raises ValueError for another network, and for a length below 1.
    """
    module, network = decoder_of(model), model.model if isinstance(model, Remat) else model
    if module is None:
        raise ValueError("This network is no decoder of kd_jax, so it writes no texts: take .logits(texts).")
    if length < 1:
        raise ValueError(f"length={length}: at least one token is written.")
    network, params = multiplied(*unrounded(network, params))
    if isinstance(network, LoraModel):
        params = network.merged(params, fixed[max(fixed, key=int)])  # the base is its last input
    codec = of_tokenizer(Tokenizer.from_str(tokenizer))
    rows = [[codec.start, *ids] for ids in codec.encode([texts] if isinstance(texts, str) else list(texts))]
    size = 1 << (max(map(len, rows)) - 1).bit_length()
    tokens, mask = np.full((len(rows), size), codec.pad, np.int32), np.zeros((len(rows), size), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    greedy = functools.partial(
        generate, decoder.decoding(module), length=length, temperature=0, end=codec.end, pad=codec.pad
    )
    written = jax.jit(greedy)(params, *left_padded(jnp.asarray(tokens), jnp.asarray(mask)), jax.random.key(0))
    tokens, real = (np.asarray(x) for x in written)
    return [codec.decode([t for t in row[there] if t != codec.end]) for row, there in zip(tokens, real, strict=True)]
