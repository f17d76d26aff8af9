"""How does the time grow with batch, classes, features and devices?

python -m benchmarks.scaling [--seconds=2] [--only batch classes features devices]

batch     the distillation step of configs/cifar_resnet.py:digits (response): examples a second, over those at 64
classes   value and gradient of losses of 128 rows of logits: nanoseconds a logit
features  the same of losses of 128 rows of features; rows of them: those that compare examples, at 512 features
devices   the same step, global batch 128, data-parallel over 1, 2, 4, 8 simulated devices of this machine: its time
          over that on one, and the collectives of the compiled program. Simulated devices share the cores: beyond
          their number the ratio says what splitting costs, and nothing about real devices.

Medians of programs that take turns, within one part.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common
from configs import cifar_resnet
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.batches import train_batches
from kd_jax.losses import feature, relation, representation
from kd_jax.losses.response import kd_loss
from kd_jax.losses.response_batch import dist_loss
from kd_jax.losses.response_labels import dkd_loss
from kd_jax.system import parallel

BATCHES, DEVICES = (16, 32, 64, 128, 256, 512), (1, 2, 4, 8)
CLASSES, FEATURES, ROWS = (10, 100, 1_000, 10_000, 100_000), (64, 256, 1024, 4096), (32, 64, 128, 256, 512)
LOGIT_LOSSES = {
    "cross-entropy with the labels": lambda s, t, y: optax.softmax_cross_entropy_with_integer_labels(s, y),
    "kd_loss": lambda s, t, y: kd_loss(s, t, temperature=4.0),
    "dkd_loss": lambda s, t, y: dkd_loss(s, t, y),
    "dist_loss": lambda s, t, y: dist_loss(s, t),
}
FEATURE_LOSSES = {
    "feature_hint_loss": feature.feature_hint_loss,
    "distance_relation_loss": relation.distance_relation_loss,
    "angle_relation_loss": relation.angle_relation_loss,
    "similarity_preserving_loss": relation.similarity_preserving_loss,
    "info_nce_loss": representation.info_nce_loss,
}
COLLECTIVE = re.compile(r"= .*? (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def step_of(batch_size: int, devices: int = 1) -> tuple[Callable[[], Any], Any]:
    """Returns (the step as a call, its compiled program)."""
    config = cifar_resnet.get_config("digits")
    splits, mesh = common.load(config.data), parallel.make_mesh({"data": devices, "fsdp": 1, "model": 1})
    sharding, key = parallel.batch_sharding(mesh), jax.random.key(0)
    batch = next(iter(train_batches(splits.train, batch_size=batch_size, seed=0, num_steps=1, sharding=sharding)))
    scheme, state = common.first_state(common.digits_scheme(config, "response", splits), batch)
    state = jax.device_put(state, parallel.replicated(mesh))
    arguments = (state, batch, hyper_of(scheme.stages[0]), key)
    program = jax.jit(make_train_step(scheme, scheme.stages[0])).lower(*arguments).compile()
    return (lambda: program(*jax.device_put(arguments, program.input_shardings[0]))), program


def gradient(loss: Callable[..., jax.Array], *inputs: jax.Array) -> Callable[[], Any]:
    program = jax.jit(jax.value_and_grad(lambda *x: jnp.sum(loss(*x)))).lower(*inputs).compile()
    return lambda: program(*inputs)


def batches(seconds: float) -> list[dict[str, Any]]:
    ms = common.alternate({size: step_of(size)[0] for size in BATCHES}, seconds * len(BATCHES))
    rate = {size: 1e3 * size / ms[size] for size in BATCHES}
    return [
        {
            "part": "batch",
            "what": "step",
            "size": n,
            "ms": f"{ms[n]:.2f}",
            "examples/s": f"{rate[n]:,.0f}",
            "over that at 64": f"{rate[n] / rate[64]:.2f}",
        }
        for n in BATCHES
    ]


def losses(part: str, table: dict[str, Callable], shapes: list[tuple[int, int]], seconds: float) -> list[dict]:
    """Times losses of inputs [rows, width], beside the number of the inputs."""
    rng, rows = np.random.default_rng(0), []
    for shape in shapes:
        student, teacher = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(2))
        labels = jnp.asarray(rng.integers(0, shape[1], shape[0]))
        others = (teacher, labels) if part == "classes" else (teacher,)
        programs = {name: gradient(loss, student, *others) for name, loss in table.items()}
        for name, ms in common.alternate(programs, seconds).items():
            each = f"{1e6 * ms / (shape[0] * shape[1]):.2f}"
            size = "x".join(map(str, shape))
            rows.append({"part": part, "what": name, "size": size, "ms": f"{ms:.3f}", "ns a number": each})
    return sorted(rows, key=lambda row: list(table).index(row["what"]))


def inside(count: int, seconds: float) -> None:
    """Prints the time of a step on `count` devices and its collectives, from a process that has so many."""
    call, program = step_of(128, count)
    collectives = collections.Counter(COLLECTIVE.findall(program.as_text()))
    print(json.dumps({"ms": common.alternate({0: call}, 2 * seconds)[0], "collectives": dict(collectives)}))


def devices(seconds: float) -> list[dict[str, Any]]:
    rows, first = [], None
    for count in DEVICES:
        command = [sys.executable, "-m", "benchmarks.scaling", f"--inside={count}", f"--seconds={seconds}"]
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        measured = json.loads(output.splitlines()[-1])
        first = first or measured["ms"]
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(measured["collectives"].items())) or "none"
        row = {"part": "devices", "what": "step", "size": count, "ms": f"{measured['ms']:.2f}"}
        rows.append(row | {"over one device": f"{measured['ms'] / first:.2f}", "collectives": listed})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", default=["batch", "classes", "features", "devices"])
    parser.add_argument("--inside", type=int, default=0)
    args = parser.parse_args()
    if args.inside:
        return inside(args.inside, args.seconds)
    rows = []
    if "batch" in args.only:
        rows += batches(args.seconds)
    if "classes" in args.only:
        rows += losses("classes", LOGIT_LOSSES, [(128, n) for n in CLASSES], args.seconds)
    if "features" in args.only:
        rows += losses("features", FEATURE_LOSSES, [(128, n) for n in FEATURES], args.seconds)
        pairs = {name: loss for name, loss in FEATURE_LOSSES.items() if name != "feature_hint_loss"}
        rows += losses("rows of features", pairs, [(n, 512) for n in ROWS], args.seconds)
    if "devices" in args.only:
        rows += devices(args.seconds)
    common.write("scaling", rows)


if __name__ == "__main__":
    main()
