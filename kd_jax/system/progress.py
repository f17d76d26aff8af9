"""Live progress: one bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import collections
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between two plain lines
WINDOW = 20  # updates that the rate is averaged over: follows a change of speed, and does not flicker
BAR_WIDTH = 24  # columns, fewer on a narrow terminal
WAITING = 0.1  # the share of the time from which on waiting for data is shown


class Progress:
    """Shows title, percent, step/total, loss, terms, metrics, examples/s and time left.

    Call `update` once a log interval. Rate and time left count the steps of this process, not those before a resume,
    and from the second interval on leave out the first, which compiles. On a terminal it is one line, cut to the width;
    elsewhere (pipe, CI, notebook) it is full lines: the first, the last, and between them one in ten seconds at most.
    `enabled=False` (all processes but the first) shows nothing. Metrics whose names end in one of `percent` are shares,
    shown last and in percent.
    """

    def __init__(
        self,
        title: str,
        total_steps: int,
        start_step: int = 0,
        batch_size: int = 1,
        enabled: bool = True,
        *,
        percent: tuple[str, ...] = (),
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.batch_size, self.enabled = title, total_steps, batch_size, enabled
        self._percent = percent
        self._file = sys.stdout if file is None else file
        self._clock = clock
        self._marks: collections.deque[tuple[int, float]] = collections.deque([(start_step, clock())], WINDOW + 1)
        self._updates, self._waiting = 0, 0.0
        self._printed_at = -math.inf
        self._pending: str | None = None  # the newest line if it was not printed
        self._bar = None
        if enabled and self._file.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = tqdm(
                total=total_steps,
                initial=min(start_step, total_steps),
                file=self._file,
                ncols=_columns(),
                mininterval=0,
                bar_format=self._bar_format(start_step, ""),
                desc=title,
                leave=True,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def update(self, step: int, values: Mapping[str, Any] | None = None, waiting: float = 0.0) -> None:
        """Shows `step` (the number of finished steps) and the values: "loss", the terms, then shares in percent.

        `waiting` is the share of the time in which the devices waited for data; from WAITING on it is shown.
        """
        if not self.enabled:
            return
        now = self._clock()
        self._updates, self._waiting = self._updates + 1, waiting
        if self._updates == 2 and self._marks[-1][0] < step:
            self._marks.popleft()  # the start: its interval holds the compilation
        self._marks.append((step, now))
        shown = [f"{name} {self._number(name, value)}" for name, value in self._loss_first(values or {})]
        if self._bar is None:
            self._plain(step, now, "  ".join([*shown, *self._speed()]))
        else:
            self._draw(self._bar, step, shown)

    def _loss_first(self, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Sorts loss, then the terms, then shares: a dict that passed through jit is in alphabetical order."""
        return sorted(values.items(), key=lambda item: (item[0] != "loss", item[0].endswith(self._percent)))

    def _number(self, name: str, value: Any) -> str:
        value = float(value)
        if math.isnan(value) and name != "loss":  # nothing was counted, such as the score of a batch without labels
            return "-"
        if not math.isfinite(value):
            return str(value)
        if name.endswith(self._percent):
            return f"{100 * value:.1f}%"
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2e}"

    def print(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        if not self.enabled:
            return
        if self._bar is None:
            print(line, file=self._file, flush=True)
        else:
            self._bar.write(line, file=self._file)

    def close(self) -> None:
        """Ends the bar, or prints the last line if it is not printed yet. A second call does nothing."""
        if self._bar is not None:
            self._bar.close()
        elif self._pending is not None:
            self.print(self._pending)
        self._pending, self.enabled = None, False

    def steps_per_second(self) -> float | None:
        """Returns the rate of this process over the last WINDOW updates; None before the first step."""
        (first, start), (last, end) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if last > first and end > start else None

    def _speed(self) -> list[str]:
        rate = self.steps_per_second()
        if rate is None:
            return []
        left = max(0, self.total - self._marks[-1][0]) / rate
        waiting = [f"waiting for data {100 * self._waiting:.0f}%"] if self._waiting >= WAITING else []
        return [f"{_count(rate * self.batch_size)} examples/s", f"{duration(left)} left", *waiting]

    def _plain(self, step: int, now: float, text: str) -> None:
        percent = 100 * step / self.total if self.total else 100
        self._pending = f"{self.title} {percent:3.0f}% {step}/{self.total}  {text}".rstrip()
        if step >= self.total or now - self._printed_at >= LINE_EVERY:
            self.print(self._pending)
            self._printed_at, self._pending = now, None

    def _draw(self, bar: tqdm, step: int, shown: list[str]) -> None:
        # What does not fit goes, the least wanted first: a line longer than the terminal would wrap and leave a trail.
        speed = self._speed()
        wishes = [
            [*shown, *speed],
            [*shown, *speed[1:]],
            [*shown[:1], *shown[1:][-1:], *speed[1:]],
            [*shown[:1], *speed[1:]],
            [*shown[:1], *speed[1:2]],
            shown[:1],
        ]
        text = next((line for line in map("  ".join, wishes) if len(line) + 5 <= self._room()), "")
        bar.n, bar.ncols = min(step, self.total), _columns()
        bar.bar_format = self._bar_format(step, text)
        bar.refresh()

    def _room(self) -> int:
        """Returns the columns that are left for the bar and the text."""
        return _columns() - len(f"{self.title} 100% || {self.total}/{self.total}  ")

    def _bar_format(self, step: int, text: str) -> str:
        width = max(1, min(BAR_WIDTH, self._room() - len(text)))
        text = text.replace("{", "{{").replace("}", "}}")
        return f"{{desc}} {{percentage:3.0f}}% |{{bar:{width}}}| {step:{len(str(self.total))}d}/{self.total}  {text}"


def _columns() -> int:
    return max(1, shutil.get_terminal_size().columns - 1)  # some terminals wrap when the last column is used


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
