"""Why are convolutions slower than PyTorch's on a CPU, and would another form of them help?

python -m benchmarks.convolutions [--rounds=15]   (needs torch)

A 3 x 3 convolution of 64 maps, float32, channels last: milliseconds of the forward pass, of the gradients of its input
and of its kernel, by XLA itself, as nine products of shifted maps, as one product of patches (im2col), and in
PyTorch (oneDNN, channels_last). Medians of interleaved rounds. XLA's flags --xla_cpu_experimental_ynn_fusion_type,
--xla_cpu_use_onednn and --xla_cpu_prefer_vector_width are tried by setting XLA_FLAGS.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import common

BATCH, SHAPES = 64, ((32, 16), (16, 32), (8, 64), (32, 64), (16, 128), (8, 256))  # (height = width, channels)
PARTS = ("forward", "input", "kernel")


def windows(x: jax.Array) -> list[jax.Array]:
    """Returns the nine shifted maps [batch * height * width, channels]."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width].reshape(-1, channels) for i in range(3) for j in range(3)]


def xla(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    products = (a @ b for a, b in zip(windows(x), kernel.reshape(9, *kernel.shape[2:]), strict=True))
    return sum(products).reshape(*x.shape[:3], -1)


def patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return (jnp.concatenate(windows(x), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])).reshape(*x.shape[:3], -1)


def ours(form: Callable, x: np.ndarray, kernel: np.ndarray, gradient: np.ndarray) -> dict[str, Callable[[], Any]]:
    arrays = tuple(map(jnp.asarray, (x, kernel, gradient)))
    functions = {
        "forward": lambda x, k, g: form(x, k),
        "input": lambda x, k, g: jax.vjp(lambda x: form(x, k), x)[1](g),
        "kernel": lambda x, k, g: jax.vjp(lambda k: form(x, k), k)[1](g),
    }
    compiled = {part: jax.jit(function) for part, function in functions.items()}
    return {part: lambda f=f: jax.block_until_ready(f(*arrays)) for part, f in compiled.items()}


def theirs(x: np.ndarray, kernel: np.ndarray, gradient: np.ndarray) -> dict[str, Callable[[], Any]]:
    def place(values: np.ndarray, *order: int) -> torch.Tensor:
        return torch.tensor(values).permute(*order).contiguous(memory_format=torch.channels_last)

    x, kernel, gradient = place(x, 0, 3, 1, 2), place(kernel, 3, 2, 0, 1), place(gradient, 0, 3, 1, 2)
    geometry = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    backward = partial(torch.ops.aten.convolution_backward, gradient, x, kernel, *geometry)
    forward = partial(torch.nn.functional.conv2d, x, kernel, padding=1)
    return {
        "forward": forward,
        "input": lambda: backward([True, False, False]),
        "kernel": lambda: backward([False, True, False]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    for size, channels in SHAPES:
        maps = [rng.normal(size=(BATCH, size, size, channels)).astype(np.float32) for _ in range(2)]
        arrays = (maps[0], rng.normal(size=(3, 3, channels, channels)).astype(np.float32) / channels, maps[1])
        forms = {form.__name__: ours(form, *arrays) for form in (xla, shifted, patches)} | {"torch": theirs(*arrays)}
        seconds: dict[tuple[str, str], list[float]] = {(f, p): [] for f in forms for p in PARTS}
        for number in range(args.rounds + 2):
            for form, part in seconds:
                start = time.perf_counter()
                forms[form][part]()
                if number >= 2:
                    seconds[form, part].append(time.perf_counter() - start)
        ms = {key: 1e3 * common.median(times) for key, times in seconds.items()}
        whole = {form: sum(ms[form, part] for part in PARTS) for form in forms}
        for form in forms:
            row = {"maps": f"{size}x{size}x{channels}", "form": form, **{p: f"{ms[form, p]:.2f}" for p in PARTS}}
            rows.append(row | {"all": f"{whole[form]:.2f}", "over torch": f"{whole[form] / whole['torch']:.2f}"})
    common.write("convolutions", rows, flags=os.environ.get("XLA_FLAGS", ""), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
