"""Fused losses of large vocabularies on an accelerator: time against the products they need, memory against all logits.

python -m benchmarks.gpu [--small] [--seconds 5]     (all of the card's benchmarks: benchmarks/gpu.sh)

Forward KL and JSD of 8,192 tokens, hidden states of 4,096 in bfloat16, value and gradients by the student's hidden
states and head, each program timed in turns with the others.

products    the four matrix products that no form avoids: logits of student and teacher, and the student's two gradients
fused       losses/vocabulary.py, which has the logits of a chunk of tokens at a time. Goal: <= 1.5 x products, and
            <= 1/9 of the plain loss's temporary memory
plain       the loss of all logits, as XLA fuses it
Liger, TRL  their losses of the same arrays through PyTorch, where the packages are installed and CUDA is there; a row
            that was not run says why
"""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from kd_jax.losses import response, vocabulary

LOSSES = {
    "forward KL": (partial(response.kd_loss, temperature=1.0), partial(vocabulary.fused_kd_loss, temperature=1.0)),
    "JSD": (response.jsd_loss, vocabulary.fused_jsd_loss),
}
SIZES = ((8192, 4096, 128_256), (8192, 4096, 151_936))  # tokens, width, classes
GOALS = {"/ products": 1.5, "plain / temporary MB": 9}


def arrays_of(tokens: int, width: int, classes: int) -> list[np.ndarray]:
    """Returns hidden states and head [width, classes] of student and teacher, float32, logits of variance 1."""
    rng = np.random.default_rng(0)
    shapes = ((tokens, width), (width, classes))
    scales = (1.0, 1 / math.sqrt(width))
    return [s * rng.standard_normal(n, np.float32) for _ in range(2) for n, s in zip(shapes, scales, strict=True)]


def products(hs: jax.Array, ws: jax.Array, ht: jax.Array, wt: jax.Array) -> tuple[jax.Array, ...]:
    """Computes what every form multiplies; the student's logits stand for their gradient."""
    s, t = hs @ ws, ht @ wt
    return s @ ws.T, hs.T @ s, t


def programs_of(loss: str, arrays: list[jax.Array], chunk: int) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """Returns (what makes one step of each form, temporary bytes of each)."""
    plain, fused = LOSSES[loss]
    forms = {
        "products": products,
        "fused": jax.value_and_grad(lambda *x: fused(*x, chunk=chunk).mean(), argnums=(0, 1)),
        "plain": jax.value_and_grad(lambda hs, ws, ht, wt: plain(hs @ ws, ht @ wt).mean(), argnums=(0, 1)),
    }
    compiled = {name: jax.jit(form).lower(*arrays).compile() for name, form in forms.items()}
    temporary = {name: program.memory_analysis().temp_size_in_bytes for name, program in compiled.items()}
    return {name: partial(program, *arrays) for name, program in compiled.items()}, temporary


def peers(loss: str, arrays: list[np.ndarray]) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Returns (steps of the other packages, why there is none)."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return {}, {name: "no PyTorch" for name in ("Liger", "TRL")}
    if not torch.cuda.is_available():
        return {}, {name: "no CUDA in PyTorch" for name in ("Liger", "TRL")}
    hs, ws, ht, wt = (torch.tensor(x, device="cuda", dtype=torch.bfloat16) for x in arrays)
    ws, wt = ws.T.contiguous(), wt.T.contiguous()
    hs.requires_grad_(), ws.requires_grad_()

    def step(value: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            hs.grad = ws.grad = None
            loss = value()
            loss.backward()
            return float(loss.detach())  # waits for the card

        return run

    beta = {"forward KL": 0.0, "JSD": 0.5}[loss]
    made, why = {}, {}
    try:
        liger = importlib.import_module("liger_kernel.transformers").LigerFusedLinearJSD(jsd_beta=beta)
        made["Liger"] = step(lambda: liger(hs, ws, ht, wt))
    except ImportError:
        why["Liger"] = "liger-kernel is not installed"
    try:
        divergence = importlib.import_module("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss
        made["TRL"] = step(lambda: divergence(hs @ ws.T, ht @ wt.T, beta=beta))
    except ImportError:
        why["TRL"] = "trl is not installed"
    return made, why


def rows_of(loss: str, size: tuple[int, int, int], chunk: int, seconds: float) -> list[dict[str, Any]]:
    host = arrays_of(*size)
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in host]
    programs, temporary = programs_of(loss, arrays, chunk)
    others, why = peers(loss, host)
    times = common.alternate(programs | others, seconds)
    shared = {"loss": loss, "tokens": size[0], "width": size[1], "classes": size[2]}
    rows = []
    for name, ms in times.items():
        row = {**shared, "form": name, "ms": f"{ms:.2f}", "/ products": f"{ms / times['products']:.2f}"}
        if name in temporary:
            row["temporary MB"] = round(temporary[name] / 2**20)
            row["plain / temporary MB"] = f"{temporary['plain'] / max(temporary[name], 1):.1f}"
        rows.append(row)
    return rows + [{**shared, "form": name, "ms": reason} for name, reason in why.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each loss and size")
    parser.add_argument("--chunk", type=int, default=1024, help="tokens")
    args = parser.parse_args()
    sizes, chunk = (((64, 32, 512),), 16) if args.small else (SIZES, args.chunk)
    rows = [row for size in sizes for loss in LOSSES for row in rows_of(loss, size, chunk, args.seconds)]
    common.write("gpu_small" if args.small else "gpu", rows, goals=GOALS)


if __name__ == "__main__":
    main()
