"""Ctrl-C is heard as SIGTERM is: a training saves, a command ends with 130 and one line; twice ends it at once."""

import json
import signal
import subprocess
import threading
import time

import pytest
import toy
from interrupted import assert_same_end, command, wait_for
from interrupted import start as begin
from killable import SETTINGS, SOURCES, scheme
from several import start as start_processes

from kd_jax.system.checkpoint import Checkpoints
from kd_jax.system.signals import SAVED, Signals
from kd_jax.train import loop


def interrupted(process: subprocess.Popen, times: int = 1) -> tuple[str, float]:
    """(what it printed, the seconds that it took) after as many Ctrl-C; its status is 130, and nothing is a page.

    A second one may come when the first has ended all but Python, which then dies of it: shells call that 130 too.
    """
    began = time.monotonic()
    for number in range(times):
        time.sleep(0.2 * bool(number))
        process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode in (130, -2)[:times] and "Traceback" not in output, (process.returncode, output)
    return output, time.monotonic() - began


def fit(directory):
    return loop.fit(scheme(), SOURCES, SETTINGS, directory, toy.mesh(2), "toy")


def test_in_python_a_run_is_saved_and_raises_keyboard_interrupt(unbroken, tmp_path, capsys):
    process = begin(tmp_path, 0.02)
    wait_for(process, "STEP", 24)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == -signal.SIGINT and "by Ctrl-C and saved; run it again to resume" in output
    assert output.strip().endswith("KeyboardInterrupt: Stopped by Ctrl-C and saved: run it again to go on.")
    assert max(Checkpoints(tmp_path / "checkpoints", 2).steps()) % SETTINGS.eval_every != 0  # saved where it stood
    fit(tmp_path)
    assert "resumed at step" in capsys.readouterr().out
    assert_same_end(tmp_path, unbroken)


def test_a_command_is_saved_and_goes_on(tmp_path):
    process = command(":long", f"--workdir={tmp_path}")
    wait_for(process, "teacher", 2)
    output, _ = interrupted(process)
    assert "Ctrl-C again ends at once" in output and "by Ctrl-C and saved; run it again to resume" in output
    step = Checkpoints(tmp_path / "teacher/checkpoints", 2).steps()[-1]
    process = command(":long", f"--workdir={tmp_path}")
    wait_for(process, f"teacher: resumed at step {step} of 4000", 1)
    interrupted(process, 2)
    assert Checkpoints(tmp_path / "teacher/checkpoints", 2).damage(step) == ""


@pytest.mark.parametrize("moment", [0.3, 0.8])
def test_a_command_that_starts_ends_at_once(moment, tmp_path):
    """Inside imports, which crash or print pages when they are cut off."""
    process = command("", f"--workdir={tmp_path / 'run'}")
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    # The first imports are Python's own and those of kd_jax.cli: nothing hears a signal there.
    assert process.returncode == 130 and "Traceback" not in output or "kd_jax.cli import main" in output, output


def test_a_second_one_ends_a_compilation_at_once(tmp_path):
    process = command(":compiling", f"--workdir={tmp_path / 'run'}")
    wait_for(process, "COMPILING", 1)
    output, seconds = interrupted(process, 2)
    assert "Ended at once" in output and seconds < 5


@pytest.mark.slow
def test_while_a_teacher_is_asked_for_its_answers(tmp_path):
    options = f"--workdir={tmp_path / 'run'}", "--build_cache", f"--config.teacher.cache.directory={tmp_path / 'cache'}"
    process = command("", *options)
    wait_for(process, "teacher's cache", 1)
    assert "The same command goes on" in interrupted(process)[0]
    process = command("", *options)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output


@pytest.mark.slow
def test_in_a_sweep(tmp_path):
    options = f"--workdir={tmp_path}", "--sweep=seed=0,1"
    process = command(":long", *options)
    wait_for(process, "teacher", 2)
    assert "by Ctrl-C and saved" in interrupted(process)[0]
    process = command(":long", *options)
    wait_for(process, "teacher: resumed at step", 1)
    interrupted(process, 2)


def test_in_a_validation_it_ends_after_it(tmp_path, monkeypatch):
    score, before = loop.Fit.score, signal.getsignal(signal.SIGINT)

    def heard(*args):
        signal.raise_signal(signal.SIGINT)
        return score(*args)

    monkeypatch.setattr(loop.Fit, "score", heard)
    with pytest.raises(KeyboardInterrupt, match=SAVED):
        fit(tmp_path)
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [10, 11]
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["kind"] == "validation"


def test_in_the_scores_of_the_end_it_ends_there_and_they_are_made_again(unbroken, tmp_path, monkeypatch):
    export = loop.conclude

    def heard(*args):
        signal.raise_signal(signal.SIGINT)
        return export(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "conclude", heard)
        fit(tmp_path)
    fit(tmp_path)
    assert_same_end(tmp_path, unbroken)


def test_the_second_one_is_raised_on_the_spot_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.stop_at(1)
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_is_ignored_stays_ignored():
    """A shell ignores Ctrl-C for what it puts into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGINT)
        assert not signals.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_changed():
    handlers = []

    def enter():
        with Signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    processes = start_processes("worker.py", 2, tmp_path, 0.3)
    while not (tmp_path / "checkpoints/10").exists():
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGINT)
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, -signal.SIGINT], outputs
    assert "stopped at step" in outputs[0] and not (tmp_path / "done.json").exists()
