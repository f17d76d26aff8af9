"""What student.remat keeps for the way back: bytes of the values between forward and backward pass, batch 64.

python -m benchmarks.remat

Counted from shapes, nothing is run. XLA's CPU compiler computes early what is to be computed again, so the memory of a
CPU program (the last columns, MiB and FLOPs of the compiled gradient, with --compile) does not fall as this does.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import common
from kd_jax.config import base
from kd_jax.models.adapters import LinenModel
from kd_jax.models.remat import Remat
from kd_jax.models.vision import cifar_resnet, vit

NETWORKS = {
    "resnet20": cifar_resnet.resnet20(10),
    "resnet56": cifar_resnet.resnet56(10),
    "vit 64 wide, 6 blocks": vit.vit(10, width=64, heads=2, depth=6),
}
POLICIES = ("", "nothing_saveable", "dots_saveable")
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    modules, key, x = base().student.remat.modules, jax.random.key(0), jax.ShapeDtypeStruct((64, 32, 32, 3), "float32")
    rows = []
    for name, module in NETWORKS.items():
        plain = LinenModel(module)
        params, stats = jax.eval_shape(plain.init, key, x)
        for policy in POLICIES:
            model = Remat(plain, modules, policy) if policy else plain

            def loss(params: Any, stats: Any, x: Any, model: Any = model) -> Any:
                return jnp.square(model.apply(params, stats, x, train=True, key=key)[0].logits).mean()

            def back(p: Any, s: Any, x: Any, loss: Any = loss) -> Any:
                return jax.vjp(lambda p: loss(p, s, x), p)[1]

            size = sum(v.size * v.dtype.itemsize for v in jax.tree.leaves(jax.eval_shape(back, params, stats, x)))
            row = {"network": name, "policy": policy or "(off)", "kept MiB": f"{size / MIB:.0f}"}
            if args.compile:
                program = jax.jit(jax.grad(loss)).lower(params, stats, x).compile()
                row["CPU program MiB"] = f"{program.memory_analysis().temp_size_in_bytes / MIB:.0f}"
                row["GFLOP"] = f"{program.cost_analysis()['flops'] / 1e9:.1f}"
            rows.append(row)
    common.write("remat", rows, batch=64)


if __name__ == "__main__":
    main()
