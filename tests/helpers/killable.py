"""Runs the loop on toy data in its own process, so that a test can kill it. Arguments: directory, seconds a step."""

import sys
import time
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import toy  # noqa: E402

from kd_jax.schemes import offline  # noqa: E402
from kd_jax.train import fit, loop  # noqa: E402

STEPS, SETTINGS = 60, loop.Settings(batch_size=8, seed=3, log_every=7, eval_every=10, eval_batch_size=16)
SOURCES = {"train": toy.source(), "validation": toy.source(21, "validation"), "test": toy.source(30, "test")}


def scheme():
    return offline.build(toy.parts(toy.roles(dropout=0.2), {"ce": toy.ce(), "kd": toy.kd()}, STEPS))


def slowly(pause: float, fails_at: int = -1) -> None:
    """From now on the loop sleeps in every step, and says when it takes one and when it saves."""
    batches, save = fit.train_batches, loop.Checkpoints.save

    def slow(*args, **kwargs):
        for number, batch in enumerate(batches(*args, **kwargs)):
            print("STEP", flush=True)
            time.sleep(pause)
            if number == fails_at:
                raise OSError("the disk of this host is gone")
            yield batch

    def announced(self, *args):
        print("SAVE", flush=True)
        save(self, *args)

    fit.train_batches, loop.Checkpoints.save = slow, announced


def main(directory: str, pause: str) -> None:
    slowly(float(pause))
    loop.fit(scheme(), SOURCES, SETTINGS, Path(directory), toy.mesh(2), "toy")


if __name__ == "__main__":
    main(*sys.argv[1:])
