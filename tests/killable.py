"""Runs the loop on toy data in its own process, so that a test can kill it. Arguments: directory, seconds a step."""

import sys
import time
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import toy  # noqa: E402

from kd_jax import loop  # noqa: E402
from kd_jax.schemes import offline  # noqa: E402

STEPS, SETTINGS = 60, loop.Settings(batch_size=8, seed=3, log_every=7, eval_every=10, eval_batch_size=16)
SOURCES = {"train": toy.source(), "validation": toy.source(21, "validation"), "test": toy.source(30, "test")}


def scheme():
    return offline.build(toy.parts(toy.roles(dropout=0.2), {"ce": toy.ce(), "kd": toy.kd()}, STEPS))


def main(directory: str, pause: str) -> None:
    batches = loop.train_batches

    def slow(*args, **kwargs):
        for batch in batches(*args, **kwargs):
            print("STEP", flush=True)
            time.sleep(float(pause))
            yield batch

    save = loop.Checkpoints.save

    def announced(self, *args):
        print("SAVE", flush=True)
        save(self, *args)

    loop.train_batches, loop.Checkpoints.save = slow, announced
    loop.fit(scheme(), SOURCES, SETTINGS, Path(directory), toy.mesh(2), "toy")


if __name__ == "__main__":
    main(*sys.argv[1:])
