from __future__ import annotations

import io

import pytest

from kd_jax.system import progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def _run(file, clock, steps, seconds, total=1000, start=0, **values):
    shown = progress.Progress("student", total, start, 100, percent=("accuracy",), file=file, clock=clock)
    for step in steps:
        clock.now += seconds
        shown.update(step, values)
    return shown


def test_plain_lines_first_last_and_every_ten_seconds():
    file, clock = io.StringIO(), Clock()
    shown = _run(file, clock, range(10, 1001, 10), 1.0, accuracy=0.5, ce=2.0, loss=12.5)
    shown.close()
    lines = file.getvalue().splitlines()
    assert [int(line.split()[2].split("/")[0]) for line in lines] == [10, *range(110, 1000, 100), 1000]
    assert lines[1] == "student  11% 110/1000  loss 12.5000  ce 2.0000  accuracy 50.0%  1,000 examples/s  1m29s left"
    assert lines[-1].startswith("student 100% 1000/1000") and lines[-1].endswith("0s left")


def test_close_prints_the_last_line_once():
    file, clock = io.StringIO(), Clock()
    with _run(file, clock, (10, 20, 30), 1.0, loss=1.0) as shown:
        assert file.getvalue().count("\n") == 1
    shown.close()
    shown.update(40, {"loss": 1.0})
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 and " 30/1000" in lines[1]


def test_rate_is_that_of_this_process():
    clock = Clock()
    shown = progress.Progress("student", 1000, 900, 10, file=io.StringIO(), clock=clock)
    assert shown.steps_per_second() is None
    clock.now += 50  # 10 steps and the compilation
    shown.update(910, {})
    assert shown.steps_per_second() == pytest.approx(0.2)
    clock.now += 5
    shown.update(920, {})
    assert shown.steps_per_second() == pytest.approx(2.0)


def test_rate_follows_a_change_of_speed():
    clock = Clock()
    shown = _run(io.StringIO(), clock, range(1, 101), 1.0)
    for step in range(101, 101 + progress.WINDOW):
        clock.now += 4.0
        shown.update(step, {})
    assert shown.steps_per_second() == pytest.approx(0.25)


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 12])
def test_the_bar_never_exceeds_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    file, clock = Terminal(), Clock()
    shown = progress.Progress("student", 1000, 200, 100, percent=("accuracy",), file=file, clock=clock)
    for step in range(210, 1001, 10):
        clock.now += 1
        shown.update(step, {"loss": 12.5, "ce": 2.0, "{kd}": 4.0, "accuracy": 0.5})
    shown.print("a line")
    shown.close()
    frames = [frame for frame in file.getvalue().replace("\n", "\r").split("\r") if frame.strip()]
    assert max(map(len, frames)) <= columns
    assert "a line" in frames
    if columns >= 60:
        assert "1000/1000" in frames[-1] and "loss 12.5" in frames[-1] and "0s left" in frames[-1]
    assert ("accuracy 50.0%" in frames[-1]) == (columns >= 80)
    assert ("{kd} 4.0" in frames[-1] and "1,000 examples/s" in frames[-1]) == (columns == 200)


def test_disabled_prints_nothing():
    file = Terminal()
    with progress.Progress("student", 10, file=file, enabled=False) as shown:
        shown.update(10, {"loss": 1.0})
        shown.print("a line")
    assert file.getvalue() == ""


def test_odd_numbers():
    file, clock = io.StringIO(), Clock()
    _run(file, clock, (5,), 0.0, total=5, loss=float("nan"), big=1.5e7, tiny=1e-6, zero=0)
    assert file.getvalue() == "student 100% 5/5  loss nan  big 1.50e+07  tiny 1.00e-06  zero 0.0000\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.7, "1m00s"), (3599.9, "1h00m"), (90_000, "1d01h"), (86_399.9, "1d00h")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_waiting_for_data_is_said_from_a_tenth_on():
    file, clock = io.StringIO(), Clock()
    shown = progress.Progress("student", 100, 0, 100, file=file, clock=clock)
    for step, waiting in ((10, 0.09), (20, 0.434), (30, 0.0)):
        clock.now += 20
        shown.update(step, {"loss": 1.0}, waiting)
    lines = file.getvalue().splitlines()
    assert lines[1].endswith("left  waiting for data 43%")
    assert "waiting" not in lines[0] + lines[2]
