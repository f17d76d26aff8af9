"""What does a loss cost beside reading its inputs? Value and gradient of every loss, on one device.

python -m benchmarks.losses [--only NAME...] [--small]

x copy         time of value and gradient over that of a copy of the inputs: medians of runs that take turns
temp x inputs  memory that the compiled program needs beside inputs and outputs, over the bytes of the inputs
time ^         losses that compare examples, channels or positions also run at half of them: log2 of the ratio, so that
               n^2 shows as 2; beside it the exponent of the leading part (the others are linear)
temp ^         the same of the memory; distances and angles go through in blocks of 64 MiB, so theirs hardly grows

--small takes tiny inputs: does everything run?
"""

from __future__ import annotations

import argparse
import collections
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, field_loss_cases, loss_cases
from benchmarks.loss_cases import Case, Input
from kd_jax.resolve import near


def losses() -> dict[str, Callable[..., jax.Array]]:
    """Returns all losses by name."""
    return loss_cases.losses() | field_loss_cases.losses()


def table(small: bool = False) -> dict[str, Case]:
    """Returns what is measured of each loss."""
    return loss_cases.table(small) | field_loss_cases.table(small)


def _program(loss: Callable[..., jax.Array], inputs: list[list[Input]]) -> tuple[Any, list[list[jax.Array]]]:
    """Value and gradient of the sum, compiled, and its arguments."""
    rng = np.random.default_rng(0)
    arrays = [[jnp.asarray(x.draw(rng)) for x in side] for side in inputs]
    program = jax.jit(jax.value_and_grad(lambda student, other: jnp.sum(loss(*student, *other))))
    return program.lower(*arrays).compile(), arrays


def measure(name: str, case: Case, seconds: float) -> dict[str, Any]:
    loss, inputs = case.call or losses()[name], case.inputs()
    program, arrays = _program(loss, inputs)
    copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x)).lower(arrays).compile()
    programs = {"loss": lambda: program(*arrays), "copy": lambda: copy(arrays)}
    if case.axis is not None:
        half, fewer = _program(loss, case.inputs(half=True))
        programs["half"] = lambda: half(*fewer)
    ms, temp = common.alternate(programs, seconds), program.memory_analysis().temp_size_in_bytes
    sizes = collections.Counter("x".join(map(str, x.shape)) or "1" for side in inputs for x in side)
    row = {
        "loss": name,
        "inputs": " ".join(f"{s}({n})" if n > 1 else s for s, n in sizes.items()),
        "ms": round(ms["loss"], 2),
        "x copy": round(ms["loss"] / ms["copy"], 1),
        "temp x inputs": round(temp / sum(x.nbytes for x in jax.tree.leaves(arrays)), 2),
    }
    if case.axis is None:
        return row
    grown = ms["loss"] / ms["half"], temp / max(half.memory_analysis().temp_size_in_bytes, 1)
    time_exponent, temp_exponent = (round(math.log2(ratio), 2) for ratio in grown)
    expected, at_most = case.expected
    return row | {"time ^": time_exponent, "expected": expected, "temp ^": temp_exponent, "at most": at_most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    cases = table(args.small)
    for name in args.only:
        if name not in cases:
            raise SystemExit(f"There is no loss {name!r}. {near(name, cases)}")
    rows = [measure(n, c, 0.0 if args.small else 0.8) for n, c in cases.items() if n in (args.only or cases)]
    common.write("losses", rows)


if __name__ == "__main__":
    main()
