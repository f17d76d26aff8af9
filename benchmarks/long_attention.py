"""Memory and time of a decoder's gradient over the length of its texts: attention in blocks against the plain softmax.

python -m benchmarks.long_attention [--rounds=5] [--lengths 2048 4096 8192] [--timed 2048] [--small]

temporary MiB   what the compiled gradient needs beside inputs and outputs; only compiled
seconds         medians over rounds in which both forms take turns in one process
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import common
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import blocked_attention, decoder_attention
from kd_jax.models.language import decoder_families as families

FORMS = {"blocks": blocked_attention.BLOCK, "plain": 2**30}  # queries from which on attention is in blocks


def gradient(form: str, length: int, small: bool, **options: Any) -> tuple[Any, tuple]:
    """Returns (the compiled gradient of a mean of hidden states, shapes of its arguments)."""
    size = dict(width=16, depth=1, heads=2) if small else dict(width=896, depth=4, heads=14, kv_heads=2)
    model = LinenModel(families.qwen2(1024, **{**size, **options}))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), tokens)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        outputs, _ = model.apply(params, {}, tokens, train=True, key=jax.random.key(0), taps=("final",))
        return outputs.features["final"].astype(jnp.float32).mean()

    usual, decoder_attention.BLOCK = decoder_attention.BLOCK, FORMS[form]
    program = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    decoder_attention.BLOCK = usual
    return program, (params, tokens)


def timed(length: int, rounds: int, small: bool) -> dict[str, float]:
    """Returns {form: median seconds}."""
    programs = {form: gradient(form, length, small) for form in FORMS}
    arguments = jax.tree.map(lambda x: jnp.full(x.shape, 0.01, x.dtype), programs["blocks"][1])
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(rounds + 1):
        for form, (program, _) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if number:  # the first one warms up
                seconds[form].append(time.perf_counter() - start)
    return {form: common.median(s) for form, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 4096, 8192])
    parser.add_argument("--timed", type=int, nargs="*", default=[2048])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    args = parser.parse_args()
    lengths, times = ([512, 1024], [512]) if args.small else (args.lengths, args.timed)
    rows: list[dict[str, Any]] = []
    for length in lengths:
        row: dict[str, Any] = {"tokens": length}
        for form in FORMS:
            program, _ = gradient(form, length, args.small)
            row[f"{form}, temporary MiB"] = round(program.memory_analysis().temp_size_in_bytes / 2**20)
        rows.append(row)
    for length in times:
        seconds = timed(length, args.rounds, args.small)
        rows.append({"tokens": length, **{f"{form} s": round(s, 3) for form, s in seconds.items()}})
        rows[-1]["blocks / plain"] = round(seconds["blocks"] / seconds["plain"], 3)
    common.write("long_attention", rows, limits={"blocks / plain": 1.0})


if __name__ == "__main__":
    main()
