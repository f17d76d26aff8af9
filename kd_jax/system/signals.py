"""SIGTERM and Ctrl-C in a training: it saves, and ends. Anything else than a training ends where it is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SAVED = "Stopped by Ctrl-C and saved: run it again to go on."


class Stopped(SystemExit):
    """SIGTERM stopped the run after a save; the same command resumes it. As a SystemExit it ends a script with 0."""


class Signals:
    """Turns SIGTERM and Ctrl-C into a flag that the loop reads between steps; processes agree on the step to stop at.

    The second Ctrl-C is a KeyboardInterrupt on the spot. Afterwards the handlers are those of before.
    """

    def __init__(self) -> None:
        self.asked = self.interrupted = False
        self._before: dict[int, Any] = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self.asked = self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(RuntimeError, OSError):  # a print inside a print; a terminal that is gone
            print("\nCtrl-C: saving, then the end. Ctrl-C again ends at once.", file=sys.stderr, flush=True)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's handler tells the other processes

    def __enter__(self) -> Signals:
        handlers: dict[int, Any] = {signal.SIGINT: self._interrupt}
        if jax.process_count() == 1:  # with several, JAX's own handler stays, which tells the other processes
            handlers[signal.SIGTERM] = self._note
        if threading.current_thread() is not threading.main_thread():
            return self  # a notebook's worker keeps its own handling: Python allows no other
        for number, handler in handlers.items():
            # What is ignored stays so: a command that a shell put into the background is not meant by its Ctrl-C.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # of something that is not Python, which cannot be put back
                signal.signal(number, handler)

    def stop_at(self, step: int) -> bool:
        """Returns whether the run stops after this step. All processes must call it."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked

    def ending(self) -> Stopped | KeyboardInterrupt:
        """Returns what is raised once all is saved."""
        return KeyboardInterrupt(SAVED) if self.interrupted else Stopped(0)


def stopped_by(error: BaseException) -> str:
    """Returns "SIGTERM" or "Ctrl-C" for the end of a run that saved first, "" for any other error."""
    if isinstance(error, Stopped):
        return "SIGTERM"
    # No class of its own: of a subclass Python does not know that Ctrl-C ended the script, nor does the shell.
    return "Ctrl-C" if isinstance(error, KeyboardInterrupt) and error.args == (SAVED,) else ""
