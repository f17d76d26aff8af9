"""Does a long run keep its memory and its files? Growth of host memory, live arrays and open files an hour: about 0.

[MALLOC_ARENA_MAX=2] python -m benchmarks.long_run [--minutes=60] [--checkpoint_every=25000]

The loop (kd_jax.train.loop.fit) distils configs/cifar_resnet.py:digits with small networks for so long, with a log line
every 20 steps, and an evaluation and a checkpoint every 25,000 (a minute or two). Read once a minute: resident
memory (RSS) and open files of the process, number and bytes of live arrays on the device; and, where RSS grows,
whether what is in use does: bytes of the heap (glibc) and blocks of Python's own allocator. Growth is the slope of a
straight line through the readings after the warm-up (the first fifth); LIMITS is what an hour may add.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import common
from configs import cifar_resnet
from kd_jax.train import fit, jobs, loop

LIMITS = {"rss_mb": 5.0, "live_mb": 0.1, "live_arrays": 1.0, "open_files": 0.5}  # an hour


class Heap(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def heap() -> Heap:
    read = ctypes.CDLL("libc.so.6").mallinfo2
    read.restype = Heap
    return read()


def reading() -> dict[str, float]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    arrays, used = jax.live_arrays(), heap()
    return {
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "live_mb": sum(x.nbytes for x in arrays) / 2**20,
        "live_arrays": len(arrays),
        "open_files": len(os.listdir("/proc/self/fd")),
        "heap_used_mb": (used.uordblks + used.hblkhd) / 2**20,
        "heap_free_mb": used.fordblks / 2**20,
        "python_blocks": sys.getallocatedblocks(),
        "threads": threading.active_count(),
    }


class TimeIsUp(Exception):
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two readings")
    parser.add_argument("--checkpoint_every", type=int, default=25_000, help="steps")
    args = parser.parse_args()
    config = cifar_resnet.get_config("digits")
    for role, widths in (("student", (4, 8)), ("teacher", (16, 32))):
        config[role].model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=widths))
    config.log_every, config.eval_every = 20, args.checkpoint_every
    splits = common.load(config.data)
    scheme = common.digits_scheme(config, "response", splits)
    steps = 10**7  # never reached
    scheme = dataclasses.replace(scheme, stages=(dataclasses.replace(scheme.stages[0], steps=steps),))
    settings = jobs.make_settings(config, config.train, config.train.steps, 0, None, {})
    start, readings = time.monotonic(), []
    original, reached, due = fit.train_batches, 0, [args.every]

    def until_time_is_up(*arguments, **kwargs):
        nonlocal reached
        for batch in original(*arguments, **kwargs):
            seconds = time.monotonic() - start
            # Always at one place of the cycle, half way between two checkpoints and just after a log line.
            if seconds > due[-1] and reached % config.eval_every == config.eval_every // 2 + 1:
                gc.collect()  # cycles that wait for the collector are no leak
                readings.append({"minute": round(seconds / 60, 2), "step": reached, **reading()})
                print(readings[-1], flush=True)
                due.append(seconds + args.every)
            if seconds > 60 * args.minutes:
                raise TimeIsUp
            reached += 1
            yield batch

    fit.train_batches = until_time_is_up
    directory = Path(tempfile.mkdtemp())
    try:
        loop.fit(scheme, splits._asdict(), settings, directory, common.one_device(), "long run")
    except TimeIsUp:
        pass
    finally:
        shutil.rmtree(directory)
    rows, passed = growth(readings[len(readings) // 5 :])
    facts = {"minutes": args.minutes, "steps": reached, "checkpoints": reached // config.eval_every}
    arenas = os.environ.get("MALLOC_ARENA_MAX", "")  # of glibc: how many parts its heap may have
    name = f"long_run_checkpoint_every_{args.checkpoint_every}" + (f"_arenas_{arenas}" if arenas else "")
    common.write(name, rows, passed=passed, **facts, MALLOC_ARENA_MAX=arenas, readings=readings)


def growth(readings: list[dict[str, float]]) -> tuple[list[dict[str, str]], bool]:
    hours = np.array([r["minute"] / 60 for r in readings])
    rows = []
    for name, limit in (LIMITS | {"heap_used_mb": None, "heap_free_mb": None, "python_blocks": None}).items():
        values = np.array([r[name] for r in readings])
        slope = np.polyfit(hours, values, 1)[0]
        rows.append(
            {
                "what": name,
                "after warm-up": f"{values[0]:.1f}",
                "at the end": f"{values[-1]:.1f}",
                "growth an hour": f"{slope:+.2f}",
            }
            | ({} if limit is None else {"limit": f"{limit:g}", "passed": bool(slope <= limit)})
        )
    return rows, all(row.get("passed", True) for row in rows)


if __name__ == "__main__":
    main()
