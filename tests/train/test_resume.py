"""A run that is killed at any moment and started again ends in the same bytes as one that was not."""

import dataclasses
import json
import os
import random
import signal
import time

import jax.numpy as jnp
import optax
import pytest
import toy
from interrupted import assert_same_end, cut, flip, start, wait_for
from killable import SETTINGS, SOURCES, STEPS, scheme

from kd_jax.system import workdir
from kd_jax.system.checkpoint import Checkpoints
from kd_jax.system.log import NonFiniteLoss
from kd_jax.train import loop


def test_killed_at_random_steps_and_during_a_save(unbroken, tmp_path):
    rng = random.Random(int.from_bytes(os.urandom(4), "big"))  # other moments in every run of the suite
    moments = [
        ("STEP", rng.randint(2, 25), 0.0),
        ("SAVE", rng.randint(1, 2), rng.uniform(0, 0.05)),
        ("STEP", rng.randint(2, 15), 0.0),
    ]
    for word, count, delay in moments:
        process = start(tmp_path, pause=0.02)
        wait_for(process, word, count)
        time.sleep(delay)
        process.kill()
        process.communicate()
    print(moments)
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert_same_end(tmp_path, unbroken)


def test_a_second_run_in_the_folder_is_refused_until_the_first_has_ended_however_it_ends(tmp_path):
    process = start(tmp_path, pause=0.05)
    wait_for(process, "STEP", 2)
    with pytest.raises(ValueError, match=rf"Another run works in {tmp_path} \(process {process.pid} on "):
        loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    process.kill()
    process.communicate()
    with workdir.locked(tmp_path):
        pass


def test_sigterm_saves_and_exits_cleanly(unbroken, tmp_path, capsys):
    process = start(tmp_path, pause=0.02)
    wait_for(process, "STEP", 24)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "SIGTERM" in output and "resume" in output
    assert max(Checkpoints(tmp_path / "checkpoints", 2).steps()) % SETTINGS.eval_every != 0  # saved where it stood
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert "resumed at step" in capsys.readouterr().out
    assert_same_end(tmp_path, unbroken)


@pytest.mark.parametrize("hurt", [cut, pytest.param(flip, marks=pytest.mark.slow)])
def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(unbroken, tmp_path, capsys, hurt):
    process = start(tmp_path, pause=0.01)
    wait_for(process, "SAVE", 3)
    wait_for(process, "STEP", 4)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    steps = Checkpoints(tmp_path / "checkpoints", 2).steps()
    hurt(tmp_path / "checkpoints" / str(steps[-1]))
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    output = capsys.readouterr().out
    assert f"Checkpoint {steps[-1]}" in output and "is damaged" in output and f"resumed at step {steps[-2]}" in output
    assert_same_end(tmp_path, unbroken)


def test_all_checkpoints_damaged(tmp_path):
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    for step in Checkpoints(tmp_path / "checkpoints", 2).steps():
        cut(tmp_path / "checkpoints" / str(step))
    for _ in range(2):  # a supervisor tries again, and must not begin at step 0
        with pytest.raises(ValueError, match="All checkpoints .* are damaged .*To begin at the start, delete"):
            loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert not (tmp_path / "damaged").exists()


def resumable(directory, steps=30):
    """A run of 30 steps, whose checkpoints one of 60 goes on from."""
    short = dataclasses.replace(scheme().stages[0], steps=steps)
    plan = dataclasses.replace(scheme(), stages=(short,))
    loop.fit(plan, SOURCES, SETTINGS, directory, toy.mesh(2), "toy")
    return Checkpoints(directory / "checkpoints", 2).steps()


def test_a_checkpoint_whose_save_was_cut_off_is_not_used(tmp_path, capsys):
    """Nothing says whether its bytes are those that were saved."""
    *_, before, newest = resumable(tmp_path)
    (tmp_path / "checkpoints" / str(newest) / "checksums.json").unlink()
    loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    output = capsys.readouterr().out
    assert f"Checkpoint {newest}" in output and "its save was cut off. Using" in output
    assert f"resumed at step {before}" in output and (tmp_path / "damaged" / str(newest)).exists()


def test_where_the_first_save_was_cut_off_the_run_begins_anew_and_says_so(tmp_path, capsys):
    assert resumable(tmp_path, 10) == [10]
    (tmp_path / "checkpoints/10/checksums.json").unlink()
    run = loop.begin(scheme(), SOURCES, SETTINGS, toy.mesh(2), Checkpoints(tmp_path / "checkpoints", 2))
    assert int(run.state.step) == 0 and not run.resumed
    assert "There is none before it: the run begins anew." in capsys.readouterr().out


def test_a_checkpoint_of_another_structure_is_incompatible_and_stays(tmp_path, capsys):
    """Another optimizer, as a newer version may have it: no attempt of a supervisor moves or overwrites anything."""
    steps = resumable(tmp_path)
    other = scheme()
    phase = dataclasses.replace(other.stages[0].phases[0], tx=optax.adam(1e-3))
    other = dataclasses.replace(other, stages=(dataclasses.replace(other.stages[0], phases=(phase,)),))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Checkpoint 30 .* is incompatible .*opt/student/0/mu/.* is not in the"):
            loop.fit(other, SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == steps and not (tmp_path / "damaged").exists()
    assert "damaged" not in capsys.readouterr().out


def test_a_best_checkpoint_that_was_damaged_meanwhile_is_not_exported(tmp_path, monkeypatch):
    """It is read at the end, hours after its save."""
    conclude = loop.conclude

    def damaged(run, directory):
        flip(directory / "checkpoints" / str(run.record["best"][""]["step"]))
        return conclude(run, directory)

    monkeypatch.setattr(loop, "conclude", damaged)
    with pytest.raises(ValueError, match=r"Checkpoint \d+ in .* is damaged: 1 of .*To train again, delete"):
        loop.fit(scheme(), SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert not (tmp_path / "done.json").exists()


def test_keeps_the_last_ones_and_the_best(unbroken):
    done = json.loads((unbroken / "done.json").read_text())
    steps = Checkpoints(unbroken / "checkpoints", 2).steps()
    assert steps[-2:] == [STEPS - 10, STEPS] and done["best"]["step"] in steps and len(steps) <= 3
    assert done["last"]["step"] == STEPS


def test_nan_names_the_term_and_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    bad = scheme()
    phase = bad.stages[0].phases[0]
    kd = dataclasses.replace(
        phase.terms["kd"], kwargs={"temperature": lambda step: jnp.where(step == 24, jnp.nan, 2.0)}
    )
    phase = dataclasses.replace(phase, terms={**phase.terms, "kd": kd})
    bad = dataclasses.replace(bad, stages=(dataclasses.replace(bad.stages[0], phases=(phase,)),))
    with pytest.raises(NonFiniteLoss, match="'kd' became nan or infinite at step 25"):
        loop.fit(bad, SOURCES, SETTINGS, tmp_path, toy.mesh(2), "toy")
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [10, 20]
