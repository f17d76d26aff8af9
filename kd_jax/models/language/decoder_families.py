"""Decoders by the name of their family: what a config names, and what converts to and from Hugging Face.

Any field of `decoder_parts.Options` is overridden by its name: `llama(vocabulary=100, width=64, depth=2, heads=4,
kv_heads=2, scan=True)`.
"""

from __future__ import annotations

from typing import Any

from kd_jax.models.language.decoder import Decoder
from kd_jax.models.language.decoder_parts import Options


def llama(
    vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, hidden: int = 0, **options: Any
) -> Decoder:
    """Returns Llama 2 and 3, Mistral: RMSNorm, rotary positions, SwiGLU, no biases, the head not tied.

    `hidden` defaults to 8/3 of the width, rounded up to a multiple of 32. Touvron et al., 2023, arXiv 2302.13971;
    Mistral (Jiang et al., 2023, arXiv 2310.06825) adds `windows=(4096,)`.
    """
    hidden = hidden or -(-8 * width // 96) * 32
    return Decoder(Options(vocabulary, width, depth, heads, hidden, **{"tied": False, "epsilon": 1e-5, **options}))


def mistral(vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, **options: Any) -> Decoder:
    """Returns Llama with a sliding window. Jiang et al., "Mistral 7B", 2023, arXiv 2310.06825."""
    return llama(vocabulary, width, depth, heads, **{"windows": (4096,), **options})


def qwen2(vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, **options: Any) -> Decoder:
    """Returns Llama with biases of queries, keys and values. Yang et al., "Qwen2", 2024, arXiv 2407.10671."""
    return llama(
        vocabulary, width, depth, heads, **{"qkv_bias": True, "theta": 1e6, "epsilon": 1e-6, "tied": True, **options}
    )


def qwen3(vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, **options: Any) -> Decoder:
    """Returns Llama with normed queries and keys. Yang et al., "Qwen3", 2025, arXiv 2505.09388."""
    return llama(
        vocabulary, width, depth, heads, **{"qk_norm": True, "theta": 1e6, "epsilon": 1e-6, "tied": True, **options}
    )


def gemma(vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, **options: Any) -> Decoder:
    """Returns Gemma: scaled embeddings, GeGLU, norms stored as weight - 1, tied. Gemma Team, 2024, arXiv 2403.08295."""
    family_options = {
        "scale_embedding": True,
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "epsilon": 1e-6,
        "tied": True,
    }
    return llama(vocabulary, width, depth, heads, **{**family_options, **options})


def gemma2(vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, **options: Any) -> Decoder:
    """Returns Gemma with norms after attention and MLP, soft caps, and a window in every second layer.

    Gemma Team, "Gemma 2", 2024, arXiv 2408.00118."""
    family_options = {"post_norms": True, "attention_softcap": 50.0, "logit_softcap": 30.0, "windows": (4096, 0)}
    return gemma(vocabulary, width, depth, heads, **{**family_options, **options})


def gpt_oss(vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, **options: Any) -> Decoder:
    """Returns Llama with experts, biases, a window in every second layer and a sink in each head.

    OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025, arXiv 2508.10925.
    """
    family_options = {
        "experts": 32,
        "experts_used": 4,
        "expert_bias": True,
        "expert_limit": 7.0,
        "expert_slope": 1.702,
        "qkv_bias": True,
        "out_bias": True,
        "sinks": True,
        "windows": (128, 0),
        "theta": 150000.0,
    }
    return llama(vocabulary, width, depth, heads, **{**family_options, **options})


def gpt2(
    vocabulary: int, width: int = 256, depth: int = 4, heads: int = 4, max_length: int = 1024, **options: Any
) -> Decoder:
    """Returns GPT-2: learned positions, LayerNorm, GELU, biases, tied.

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    family_options = {
        "hidden": 4 * width,
        "norm": "layer",
        "epsilon": 1e-5,
        "activation": "gelu_tanh",
        "gated": False,
        "positions": "learned",
        "max_length": max_length,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "tied": True,
    }
    return Decoder(Options(vocabulary, width, depth, heads, **{**family_options, **options}))
