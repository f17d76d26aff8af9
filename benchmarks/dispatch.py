"""Does it pay to make several steps in one dispatch? (a step of many) / (a step alone), and what compiling them costs.

python -m benchmarks.dispatch [--students mlp cnn] [--sizes 4 16] [--rounds=10]

Distillation on digits, batch 64, as the loop makes it (data on the device, logging left out), with a student that costs
next to nothing (an MLP of 8) and one that convolves. Each round makes 16 steps in each way; ratios are of the medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import common
from configs import cifar_resnet
from kd_jax.system import parallel
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.train import dispatch, jobs, loop

STUDENTS = {
    "mlp": dict(name="models.mlp.mlp", kwargs=dict(widths=(8,))),
    "cnn": dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(4, 8))),
}
STEPS = 16


def runner(config: Any, splits: Any, size: int, scratch: str) -> tuple[Any, float]:
    """Returns (makes STEPS steps, seconds that the first call took)."""
    scheme = common.digits_scheme(config, "response", splits)
    scheme = dataclasses.replace(scheme, stages=(dataclasses.replace(scheme.stages[0], steps=10**6),))
    config.steps_per_dispatch, config.eval_every = size, 10**6
    settings = jobs.make_settings(config, config.train, config.train.steps, 0, None, {})
    mesh = common.one_device()
    with jax.set_mesh(mesh):
        checkpoints = Checkpoints(Path(scratch) / str(size), 1)
        run = loop.begin(scheme, {"train": splits.train, "validation": None, "test": None}, settings, mesh, checkpoints)
        checkpoints.close()
    stage = run.scheme.stages[0]
    jitted, data = dispatch.compiled(run, stage, []), dispatch.dispatches(run, "train", 0, 0, 10**6)
    hyper = parallel.create_everywhere(lambda: run.hyper(0), mesh)

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            number, inputs = next(data)
            run.state, metrics = jitted[number](run.state, *inputs, hyper, run.keys)
        jax.block_until_ready((run.state, metrics))
        return time.perf_counter() - start

    first = steps(1)
    return (lambda: steps(STEPS // size)), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--students", nargs="*", default=[*STUDENTS])
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for name in args.students:
        config = cifar_resnet.get_config("digits")
        config.student.model, config.teacher.model = STUDENTS[name], STUDENTS["mlp"]
        splits = common.load(config.data)
        with tempfile.TemporaryDirectory() as scratch:
            ways = {size: runner(config, splits, size, scratch) for size in (1, *args.sizes)}
        seconds: dict[int, list[float]] = {size: [] for size in ways}
        for number in range(args.rounds + 2):
            for size, (run, _) in ways.items():
                took = run()
                if number >= 2:
                    seconds[size].append(took)
        alone = common.median(seconds[1])
        for size, (_, first) in ways.items():
            step = common.median(seconds[size])
            rows.append(
                {
                    "student": name,
                    "steps in a dispatch": size,
                    "ms a step": f"{1e3 * step / STEPS:.3f}",
                    "ratio": f"{step / alone:.3f}",
                    "first call s": f"{first:.1f}",
                }
            )
    common.write("dispatch", rows, rounds=args.rounds)


if __name__ == "__main__":
    main()
