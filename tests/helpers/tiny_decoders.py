"""Decoders of every family, small enough to compile in a second, their parameters and prompts."""

import jax
import jax.numpy as jnp

from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.generation import Decoding

SMALL = {"width": 16, "depth": 2, "heads": 4, "hidden": 24}
VOCABULARY = 11
MASK = jnp.asarray([[True] * 3, [False, True, True], [False, False, True]])
MODULES = {
    "llama": families.llama(VOCABULARY, **SMALL, kv_heads=2),
    "mistral": families.mistral(VOCABULARY, **SMALL, kv_heads=1, windows=(3,), scan=True),
    "qwen3": families.qwen3(VOCABULARY, **SMALL, qkv_bias=True, head_width=6, scan=True),
    "gemma2": families.gemma2(VOCABULARY, **SMALL, kv_heads=2, windows=(2, 0), attention_scale=0.3),
    "gpt2": families.gpt2(VOCABULARY, **SMALL, max_length=12),
}


def params_of(module, seed=0, scale=8.0):
    """Initial values, enlarged: with the small ones of training every distribution is nearly uniform."""
    params = jax.jit(lambda key: module.init(key, jnp.zeros((1, 2), jnp.int32))["params"])(jax.random.key(seed))
    return jax.tree.map(lambda x: x * scale if x.ndim > 1 else x + 0.1, params)


def tokens_of(batch, length, seed=1):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, VOCABULARY)


def table(logits) -> Decoding:
    """A network whose next token depends on the last one alone: logits [vocabulary, vocabulary]."""
    return Decoding(
        lambda params, batch, size: jnp.zeros((batch, 1)),
        lambda params, tokens, cache, mask=None, last=False: (params[tokens[:, -1:] if last else tokens], cache),
        lambda cache, rows: cache[rows],
        lambda cache, index: cache,
    )
