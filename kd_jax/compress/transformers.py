"""Pruning of transformers as a step of a chain: heads with their KV groups, FFN units, layers, embedding channels."""

from __future__ import annotations

from functools import partial
from typing import Any

from kd_jax.compress.heads import staying
from kd_jax.compress.plan import Network, Smaller, module_of, with_module
from kd_jax.compress.transformer_units import Sizes, changed, sizes_of, sliced, smaller, target
from kd_jax.compress.unit_scores import check_score, scores
from kd_jax.types import PyTree


def prune(
    network: Network,
    heads: int | float = 0,
    kv_heads: int | float = 0,
    hidden: int | float = 0,
    layers: int | float = 0,
    width: int | float = 0,
    score: str = "activation",
) -> Smaller:
    """Plans the step after which so many units stay of a decoder or encoder of text; a float below 1 is a share.

    0 leaves all of a kind. `heads` and `hidden` are those of every layer. Without `kv_heads`, heads go evenly from the
    KV groups where their number divides `heads`, and by whole groups else. `score` (unit_scores.py) is "activation" as
    in Minitron, "taylor", "magnitude", or, for layers alone, "perplexity". ValueError for more units than there are,
    for numbers that KV groups do not divide, and for networks that have no such units.
    Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation", 2024, arXiv 2407.14679.
    """
    module = module_of(network.model)
    named = {"heads": heads, "kv_heads": kv_heads, "hidden": hidden, "layers": layers, "width": width}
    now = sizes_of(module)
    left = target(module, {unit: count for unit, count in named.items() if count})
    gone = changed(now, left)
    check_score(score, gone)

    def transform(params: PyTree, stats: PyTree, measured: Any) -> tuple[PyTree, PyTree]:
        return sliced(module, params, staying(now, left, measured)), stats

    return Smaller(
        with_module(network.model, smaller(module, left)),
        transform,
        _label(now, left, gone, score),
        scorer=partial(scores, network.model, score) if gone else None,
    )


def _label(now: Sizes, left: Sizes, gone: tuple[str, ...], score: str) -> str:
    words = {"heads": "heads", "kv_heads": "KV groups", "hidden": "FFN units", "layers": "layers", "width": "channels"}
    parts = [f"{getattr(left, unit)} of {getattr(now, unit)} {words[unit]}" for unit in gone]
    return f"keep {', '.join(parts)} ({score})" if parts else "keep all units"
