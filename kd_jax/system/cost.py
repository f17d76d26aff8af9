"""The cost of a model: parameters, bytes, FLOPs by XLA's count, measured latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from kd_jax.types import Model, PyTree


def cost(
    model: Model, params: PyTree, stats: PyTree, inputs: Callable[[int], tuple[PyTree, ...]], repeats: int = 20
) -> dict[str, Any]:
    """Measures the inference forward pass: {"parameters", "bytes", "flops" of one example, "latency_ms"}.

    "latency_ms" is {"1": milliseconds, "128": milliseconds} by batch size: the median of `repeats` calls, or of as many
    as fit into 3 s, after compilation, on one device that holds the inputs. `inputs(batch)` makes inputs of that many
    examples. "flops" is None where XLA does not count them.
    """
    leaves = jax.tree.leaves(params)

    @jax.jit
    def infer(params: PyTree, stats: PyTree, *x: PyTree) -> Any:
        return model.apply(params, stats, *x, train=False, key=jax.random.key(0))[0].logits

    flops = (infer.lower(params, stats, *inputs(1)).compile().cost_analysis() or {}).get("flops")
    return {
        "parameters": sum(x.size for x in leaves),
        "bytes": sum(x.size * x.dtype.itemsize for x in leaves),
        "flops": float(flops) if flops else None,
        "latency_ms": {str(b): _latency(infer, (params, stats, *inputs(b)), repeats) for b in (1, 128)},
    }


def _latency(fn: Any, args: tuple, repeats: int) -> float:
    jax.block_until_ready(fn(*args))
    seconds = []
    while len(seconds) < repeats and sum(seconds) < 3:
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)
