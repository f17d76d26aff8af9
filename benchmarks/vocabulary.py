"""Memory and time of losses fused with the output projection, against the plain loss of all logits.

python -m benchmarks.vocabulary [--rounds=9] [--chunk=256] [--small]

temp MB     memory that the compiled program needs beside inputs and outputs (value, and gradients by the student's
            hidden states and head). Only compiled, so also at sizes that do not fit this machine. Limit: 1/8 of the
            plain loss at 8,192 tokens and 131,072 classes
wall, cpu   (fused) / (plain) of the medians over rounds in which both take turns, of elapsed seconds and of processor
            seconds of the process; the second is the steadier where other work runs on the machine. Limit: 1.1
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from kd_jax.losses import response
from kd_jax.losses import vocabulary as voc

LOSSES = {
    "kd": (response.kd_loss, voc.fused_kd_loss),
    "reverse_kl": (response.reverse_kl_loss, voc.fused_reverse_kl_loss),
    "jsd": (response.jsd_loss, voc.fused_jsd_loss),
}
# (tokens, classes, width of the student, of the teacher)
COMPILED = [
    (2048, 32768, 256, 384),
    (8192, 32768, 256, 384),
    (8192, 131072, 256, 384),
    (8192, 131072, 2048, 4096),
]
TIMED = [(1024, 8192, 256, 384), (2048, 32768, 256, 384)]
PUBLISHED = "Liger-Kernel, published, not measured here: 68.9 to 11.1 GB and 213 to 61 ms (JSD, H100, hidden 4096)."


def programs(name: str, size: tuple[int, ...], chunk: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Returns {"plain", "fused"}: compiled, without being run."""
    tokens, classes, student, teacher = size
    plain, fused = LOSSES[name]
    shapes = [(tokens, student), (student, classes), (tokens, teacher), (teacher, classes)]
    losses = {
        "plain": lambda hs, ws, ht, wt: plain(hs @ ws, ht @ wt, temperature=2.0).mean(),
        "fused": lambda hs, ws, ht, wt: fused(hs, ws, ht, wt, temperature=2.0, chunk=chunk).mean(),
    }
    abstract = [jax.ShapeDtypeStruct(s, dtype) for s in shapes]
    return {k: jax.jit(jax.value_and_grad(f, argnums=(0, 1))).lower(*abstract).compile() for k, f in losses.items()}


def row_of(name: str, size: tuple[int, ...], chunk: int, dtype: Any) -> dict[str, Any]:
    tokens, classes, student, teacher = size
    return {
        "loss": name,
        "tokens": tokens,
        "classes": classes,
        "widths": f"{student}/{teacher}",
        "dtype": jnp.dtype(dtype).name,
        "chunk": chunk,
    }


def memory(name: str, size: tuple[int, ...], chunk: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    temp = {k: p.memory_analysis().temp_size_in_bytes for k, p in programs(name, size, chunk, dtype).items()}
    megabytes = {f"{k} temp MB": round(v / 1e6) for k, v in temp.items()}
    return row_of(name, size, chunk, dtype) | megabytes | {"plain/fused temp": round(temp["plain"] / temp["fused"], 1)}


def timing(name: str, size: tuple[int, ...], chunk: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    tokens, classes, student, teacher = size
    shapes = [(tokens, student), (student, classes), (tokens, teacher), (teacher, classes)]
    arrays = [jnp.asarray(0.3 * rng.standard_normal(s, np.float32)) for s in shapes]
    seconds: dict[str, list[tuple[float, float]]] = {"plain": [], "fused": []}
    both = programs(name, size, chunk)
    for number in range(rounds + 1):
        for kind, program in both.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(*arrays))
            if number:  # the first one warms up
                seconds[kind].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = ({k: common.median([x[i] for x in v]) for k, v in seconds.items()} for i in (0, 1))
    return row_of(name, size, chunk, jnp.float32) | {
        "plain s": round(wall["plain"], 2),
        "fused s": round(wall["fused"], 2),
        "wall": round(wall["fused"] / wall["plain"], 3),
        "cpu": round(cpu["fused"] / cpu["plain"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chunk", type=int, default=256, help="tokens; another number has a record of its own")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    args = parser.parse_args()
    compiled, timed = ([(64, 512, 8, 8)], [(64, 512, 8, 8)]) if args.small else (COMPILED, TIMED)
    chunk = 8 if args.small else args.chunk
    rows = [memory("kd", size, chunk) for size in compiled]
    rows += [memory("jsd", compiled[-1], chunk), memory("kd", compiled[-1], chunk, jnp.bfloat16)]
    rows += [timing(name, size, chunk, args.rounds) for size in timed for name in LOSSES]
    name = "vocabulary" if args.chunk == 256 else f"vocabulary_chunk_{args.chunk}"
    common.write(name, rows, published=PUBLISHED, limits={"plain/fused temp": 8, "wall": 1.1})


if __name__ == "__main__":
    main()
