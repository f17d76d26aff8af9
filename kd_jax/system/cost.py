"""The cost of networks: parameters, bytes, FLOPs by XLA's count, and latency in rounds that all of them share."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from kd_jax.models.host import HostModel
from kd_jax.types import Model, PyTree

BATCHES = (1, 128)
ROUNDS, FEWEST, SECONDS = 50, 3, 3.0  # of a batch size: at most, at least, and after how long for each network


@dataclasses.dataclass(frozen=True)
class Forward:
    """A network as it answers in use; `inputs(batch)` makes inputs of that many examples.

    It is timed at its logits, or at what `answer(params, stats, *inputs)` returns in place of them.
    """

    model: Model
    params: PyTree
    stats: PyTree
    inputs: Callable[[int], tuple[PyTree, ...]]
    answer: Callable[..., PyTree] | None = None


def costs(networks: Mapping[str, Forward]) -> dict[str, dict[str, Any]]:
    """Measures inference: {name: {"parameters", "bytes", "flops", "bytes_accessed", "latency_ms",
    "latency_spread_ms"}}.

    "latency_ms" is {"1": milliseconds, "128": milliseconds} by batch size: the median of calls after compilation, on
    one device that holds the inputs; "latency_spread_ms" has [first, third quartile] in its place. A round calls every
    network once, so that what else the machine does meets all of them alike. Networks that compile to one program, such
    as a student and its baseline, are one measurement. "flops" and "bytes_accessed" of one example (what its operations
    read and write) are None where XLA does not count them; of a function on the host the latency alone is known.
    """
    measured = {batch: _measured(networks, batch) for batch in BATCHES}
    counted, result = _counted(networks, {name: counts for name, (counts, _) in measured[1].items()}), {}
    for name, network in networks.items():
        leaves, host = jax.tree.leaves(network.params), isinstance(network.model, HostModel)
        result[name] = {
            "parameters": None if host else sum(x.size for x in leaves),
            "bytes": None if host else sum(x.size * x.dtype.itemsize for x in leaves),
            "flops": None if host else counted[name].get("flops"),
            "bytes_accessed": None if host else counted[name].get("bytes accessed"),
            "latency_ms": {str(batch): float(np.median(measured[batch][name][1])) for batch in BATCHES},
            "latency_spread_ms": {
                str(batch): [float(q) for q in np.quantile(measured[batch][name][1], (0.25, 0.75))] for batch in BATCHES
            },
        }
    return result


def flops_of(compiled: Any) -> float | None:
    """Returns the FLOPs that XLA counts in a compiled program; None where it does not know."""
    return counts_of(compiled).get("flops")


def counts_of(compiled: Any) -> dict[str, float]:
    """Returns what XLA counts in a compiled program, "flops" and "bytes accessed"; it says 0 or -1 of the unknown."""
    counts = compiled.cost_analysis() or {}
    values = {name: counts.get(name) for name in ("flops", "bytes accessed")}
    return {name: float(n) for name, n in values.items() if n and math.isfinite(n) and n > 0}


def _measured(networks: Mapping[str, Forward], batch: int) -> dict[str, tuple[dict[str, float], list[float]]]:
    """{name: (counts, milliseconds of the rounds)} at one batch size."""
    programs: dict[str, tuple[Any, tuple]] = {}  # by the text of what is compiled: shapes and operations, no values
    text_of = {}
    for name, network in networks.items():
        args = (network.params, network.stats, *network.inputs(batch))
        run = _infer(network.model) if network.answer is None else jax.jit(network.answer)
        lowered = run.lower(*jax.eval_shape(lambda *x: x, *args))  # wherever the arguments lie
        text_of[name] = lowered.as_text()
        if text_of[name] not in programs:
            programs[text_of[name]] = lowered.compile(), jax.device_put(args, jax.local_devices()[0])
    milliseconds = dict(zip(programs, rounds(list(programs.values())), strict=True))
    return {name: (counts_of(programs[text][0]), milliseconds[text]) for name, text in text_of.items()}


def _counted(networks: Mapping[str, Forward], timed: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """What XLA counts of one example: of `timed`, or of the logits in place of an answer whose loops it counts once.

    The program of the logits is compiled and not run.
    """
    counts: dict[str, dict[str, float]] = {}
    result = dict(timed)
    for name, network in networks.items():
        if network.answer is not None:
            shapes = jax.eval_shape(lambda *x: x, network.params, network.stats, *network.inputs(1))
            lowered = _infer(network.model).lower(*shapes)
            text = lowered.as_text()
            if text not in counts:
                counts[text] = counts_of(lowered.compile())
            result[name] = counts[text]
    return result


def _infer(model: Model) -> Any:
    @jax.jit
    def infer(params: PyTree, stats: PyTree, *x: PyTree) -> Any:
        return model.apply(params, stats, *x, train=False, key=jax.random.key(0))[0].logits

    return infer


def rounds(programs: Sequence[tuple[Any, tuple]]) -> list[list[float]]:
    """Calls every program once in each round; returns the milliseconds of the calls of each."""
    for program, args in programs:
        jax.block_until_ready(program(*args))
    spent: list[list[float]] = [[] for _ in programs]
    began = time.perf_counter()
    for count in range(ROUNDS):
        if count >= FEWEST and time.perf_counter() - began > SECONDS * len(programs):
            break
        for (program, args), milliseconds in zip(programs, spent, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            milliseconds.append(1e3 * (time.perf_counter() - start))
    return spent
