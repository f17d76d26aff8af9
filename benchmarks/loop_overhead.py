"""What do logging, data and progress cost? (steps/s of bare jitted steps) / (steps/s of the real loop).

python -m benchmarks.loop_overhead [--segments=20]

Distillation of configs/cifar_resnet.py:digits. The loop (kd_jax.train.loop.fit) runs in segments of one log interval;
between two segments the same program is called bare as often, on one batch. The ratio is that of the medians. Limit:
1.03.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import common
from configs import cifar_resnet
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.train import fit, jobs, loop

SEGMENT = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=20)
    args = parser.parse_args()
    config = cifar_resnet.get_config("digits")
    config.log_every, config.eval_every = SEGMENT, 10**9
    splits = common.load(config.data)
    scheme = common.digits_scheme(config, "response", splits)
    steps = (args.segments + 2) * SEGMENT
    scheme = dataclasses.replace(scheme, stages=(dataclasses.replace(scheme.stages[0], steps=steps),))
    settings = jobs.make_settings(config, config.train, steps, 0, None, {})
    real: list[float] = []
    bare: list[float] = []
    original = fit.train_batches

    def measured(*arguments, **kwargs):
        """The loop's batches. It asks for step 20k + 2 when the metrics of step 20k are there: a point in step with
        the device, where the clock is read and the bare program takes its turn."""
        run = None
        start = 0.0
        for number, batch in enumerate(original(*arguments, **kwargs)):
            if kwargs["num_steps"] == steps and number % SEGMENT == 1:
                if number > SEGMENT:
                    real.append(time.perf_counter() - start)
                with jax.transfer_guard("allow"):
                    run = run or bare_runner(scheme, batch)
                    bare.append(run())
                start = time.perf_counter()
            yield batch

    fit.train_batches = measured
    with tempfile.TemporaryDirectory() as directory:
        loop.fit(
            scheme,
            {"train": splits.train, "validation": None, "test": splits.test},
            settings,
            Path(directory),
            common.one_device(),
            "loop",
        )
    loop_ms, bare_ms = (1e3 * common.median(s[2:]) / SEGMENT for s in (real, bare))
    row = {"loop ms/step": f"{loop_ms:.3f}", "bare ms/step": f"{bare_ms:.3f}", "ratio": f"{loop_ms / bare_ms:.3f}"}
    common.write("loop_overhead", [row], limit=1.03, segments=args.segments, segment_steps=SEGMENT)


def bare_runner(scheme, batch):
    batch = jax.tree.map(jnp.copy, batch)
    bound, state = common.first_state(scheme, batch)
    step = jax.jit(make_train_step(bound, bound.stages[0]), donate_argnums=0)
    hyper, key = hyper_of(bound.stages[0]), jax.random.key(0)
    held = [jax.block_until_ready(step(state, batch, hyper, key))[0]]

    def run() -> float:
        start = time.perf_counter()
        for _ in range(SEGMENT):
            held[0], metrics = step(held[0], batch, hyper, key)
        jax.block_until_ready((held[0], metrics))
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
