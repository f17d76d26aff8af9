"""The processes of a run end together: one that fails tells the others why, one that falls silent is noticed.

Left alone, the others would wait in the next collective: for 5 minutes where a process raised an error (JAX's barrier
at exit), for the heartbeat timeout and an abort where it was killed. So every process keeps a line in the key-value
store of JAX's coordinator, "alive N" or "failed with ...", and a thread that reads those of the others. A process that
ends so has exit status 1; the same command, started on all hosts again, resumes at the last checkpoint.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from kd_jax.system.signals import stopped_by

FOLDER = "kd_jax/processes/"
BEATS = 5  # within the timeout
LAST_WORDS = 2.0  # seconds
GRACE = 20  # seconds that JAX, which ends a process without saying why, waits longer than we do
LEAVING = "leaving"  # the last line of a process that ends well: from then on it is silent
RESUME = "Start all processes again: the run resumes at its last checkpoint."
EXPECTED = (ValueError, OSError, FloatingPointError)  # a message says enough, without the lines of code

_leaving, _failing = threading.Event(), threading.Event()


def watch(timeout: float) -> None:
    """Begins to watch the other processes; ends this one when one of them fails, or is silent for `timeout` seconds."""
    if jax.process_count() == 1:
        return
    # asked once: at exit JAX drops its backends, and in the thread this question would build them anew, and abort
    me = jax.process_index()
    client, reports = _store(), PeerReports(me, timeout)
    every = min(timeout / BEATS, max(1.0, jax.process_count() / 64))  # seconds; all read what all write

    def run() -> None:
        beat = 0
        while not (_failing.is_set() or _leaving.is_set()):
            try:
                _say(client, me, f"alive {beat}")
                lines = {int(key.rpartition("/")[2]): line for key, line in client.key_value_dir_get(FOLDER)}
            except Exception:  # at the end the coordinator goes first; before the end, JAX notices within a second
                return
            problem = reports.problem(lines)
            if problem and not _leaving.is_set():
                _end(me, f"{problem} Process {me} ends too. {RESUME}")
            beat += 1
            _leaving.wait(every)
        with contextlib.suppress(Exception):
            _say(client, me, LEAVING)

    thread = threading.Thread(target=run, name="peers", daemon=True)
    thread.start()
    # Before JAX's own handler, in which a process waits for the others to finish too. The thread ends there: Python
    # kills those that are left, and one inside a call of JAX takes the process with it.
    atexit.register(_leave, thread)


def _leave(thread: threading.Thread) -> None:
    _leaving.set()
    thread.join(GRACE)


class PeerReports:
    """What the others last said, and when by our own clock that changed: no two clocks are compared."""

    def __init__(self, me: int, timeout: float, clock: Callable[[], float] = time.monotonic):
        self.me, self.timeout, self.clock = me, timeout, clock
        self.lines: dict[int, tuple[str, float]] = {}

    def problem(self, lines: Mapping[int, str]) -> str:
        """Returns why this process should end, "" if it need not."""
        now = self.clock()
        for index, line in sorted(lines.items()):
            if self.lines.get(index, ("", 0.0))[0] != line:
                self.lines[index] = line, now
        others = {index: said for index, said in self.lines.items() if index != self.me}
        for index, (line, _) in others.items():
            if line.startswith("failed"):
                return f"Process {index} {line}."
        for index, (line, since) in others.items():
            if line != LEAVING and now - since > self.timeout:
                return f"Process {index} gave no sign of life for {now - since:.0f} s: it, or its host, is gone."
        return ""


@contextlib.contextmanager
def together() -> Generator[None]:
    """Ends all processes at once where the body fails in one of them; with one process the error is just raised."""
    try:
        yield
    except Exception as e:
        if jax.process_count() == 1:
            raise
        if not isinstance(e, EXPECTED):
            traceback.print_exc()
        _fail(f"{type(e).__name__}: {e}")
    except KeyboardInterrupt as e:
        if jax.process_count() == 1 or stopped_by(e):  # all of them stop there
            raise
        _fail("Ctrl-C", 128 + signal.SIGINT)


def _fail(why: str, status: int = 1) -> None:
    """Tells the other processes why this one ends, and ends it."""
    _failing.set()
    with contextlib.suppress(Exception):
        _say(_store(), jax.process_index(), f"failed with {why}")
    _end(jax.process_index(), why, status)


def _store() -> Any:
    """Returns the client of the coordinator's key-value store. JAX has no public name for it; of the modules that are
    public, this one holds it."""
    state = getattr(getattr(multihost_utils, "distributed", None), "global_state", None)
    client = getattr(state, "client", None)
    if client is None:
        raise RuntimeError(
            f"JAX {jax.__version__} keeps its key-value store elsewhere than JAX 0.10.2 to 0.12 do: the processes of a "
            "run cannot watch one another. One process works; for several, install a JAX of these versions."
        )
    return client


def _say(client: Any, me: int, line: str) -> None:
    client.key_value_set(f"{FOLDER}{me}", line, allow_overwrite=True)


def _end(me: int, message: str, status: int = 1) -> None:
    """Not sys.exit: JAX would wait at its barrier for processes that are in a collective."""
    sys.stdout.flush()
    print(f"\n{message}", file=sys.stderr, flush=True)
    if me == 0:
        time.sleep(LAST_WORDS)  # the coordinator goes with this process, and with it what the others have yet to read
    os._exit(status)
