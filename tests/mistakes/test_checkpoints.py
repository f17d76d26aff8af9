"""Files of a run that were damaged, deleted, or written by another version: nothing false is read, nothing is lost."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from interrupted import cut, flip
from mistakes import MLP, Mistake, check, config, each, run

from kd_jax.system.checkpoint import check_export


@functools.cache
def finished(optimizer="sgd"):
    folder = Path(tempfile.mkdtemp(prefix="kd_jax_finished_"))
    run(folder, config(steps=4, eval_every=2, train__optimizer__name=optimizer))
    return folder / "run"


def teacher(hurt, **networks):
    """A run whose teacher is loaded from an export to which something was done."""

    def do(folder):
        export = shutil.copytree(finished() / "teacher/export/last/student", folder / "export")
        hurt(export)
        return run(folder, config(teacher__checkpoint=str(export)), **networks)

    return do


def start(hurt):
    """A student that starts from an export to which something was done."""

    def do(folder):
        export = shutil.copytree(finished() / "student/export/last/student", folder / "export")
        hurt(export)
        return run(folder, config(student__initial__name=str(export)))

    return do


def resumed(hurt):
    """A run that had come to the end of the student's training, and goes on after something was done to it."""

    def do(folder):
        whole = shutil.copytree(finished(), folder / "run")
        (whole / "results.json").unlink()
        (whole / "student/done.json").unlink()
        (whole / "student/metrics.jsonl").unlink()
        hurt(whole / "student/checkpoints")
        return run(folder, config(steps=4, eval_every=2))

    return do


def all_of(hurt):
    def do(checkpoints):
        for path in checkpoints.iterdir():
            hurt(path)

    return do


def another(checkpoints):
    """The checkpoints of a run with another optimizer, as of another version."""
    shutil.rmtree(checkpoints)
    shutil.copytree(finished("adam") / "student/checkpoints", checkpoints)


def unsealed(checkpoints):
    max(checkpoints.iterdir(), key=lambda path: int(path.name)).joinpath("checksums.json").unlink()


def without(name):
    return lambda folder: next(folder.rglob(name)).unlink()


ROWS = [
    Mistake(
        "an exported teacher with one flipped bit",
        "The exported model …/export is damaged: 1 of …files are missing or changed",
        teacher(flip),
    ),
    Mistake(
        "an exported teacher that was cut off", "export is damaged: 1 of …files are missing or changed", teacher(cut)
    ),
    Mistake(
        "an exported teacher with a file missing",
        "missing or changed (manifest.ocdbt). Copy or export it again",
        teacher(without("manifest.ocdbt")),
    ),
    Mistake(
        "an export without its checksums",
        "has no SHA256: it was not written to its end, or before there were checksums. If you trust it: (cd …sha256sum",
        teacher(without("SHA256")),
    ),
    Mistake(
        "an export whose checksums are empty",
        "is damaged: SHA256 is empty",
        teacher(lambda export: (export / "SHA256").write_text("")),
    ),
    Mistake(
        "an export of another network",
        "does not hold this model: …embedding/kernel has shape …in the file",
        teacher(lambda export: None, teacher=MLP(32)),
    ),
    Mistake("a student that starts from a damaged export", "The exported model …is damaged", start(flip)),
    Mistake(
        "all checkpoints of a run damaged",
        "All checkpoints in …are damaged (4: …To begin at the start, delete that folder",
        resumed(all_of(flip)),
        "reading",
    ),
    Mistake(
        "the newest checkpoint damaged",
        "Checkpoint 4 in …is damaged: 1 of …Using 2.",
        resumed(lambda c: flip(c / "4")),
        "reading",
        goes_on=True,
    ),
    Mistake(
        "a checkpoint whose save was cut off",
        "it has no checksums.json, since its save was cut off. Using 2.",
        resumed(unsealed),
        "reading",
        goes_on=True,
    ),
    Mistake(
        "a checkpoint of another optimizer or version",
        "Checkpoint 4 in …is incompatible with this run: its files are whole, and …differences: opt/",
        resumed(another),
        "reading",
    ),
]


@each(ROWS)
def test_checkpoints(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@pytest.mark.parametrize("hurt", [all_of(flip), another])
def test_what_cannot_be_resumed_stays_as_it_was(hurt, tmp_path):
    """Under a supervisor, which tries again and again."""
    for _ in range(2):
        with pytest.raises(ValueError, match="are damaged|is incompatible"):
            resumed(hurt)(tmp_path)
        assert not (tmp_path / "run/damaged").exists() and not (tmp_path / "run/student/damaged").exists()
        assert {path.name for path in (tmp_path / "run/student/checkpoints").iterdir()} >= {"2", "4"}
        shutil.rmtree(tmp_path / "run")


def test_every_export_of_a_run_is_sealed_as_sha256sum_does_it():
    exports = [*finished().glob("*/export/*/*")]
    assert len(exports) == 4
    for export in exports:
        check_export(export)
        checked = subprocess.run(["sha256sum", "-c", "--strict", "SHA256"], cwd=export, capture_output=True, text=True)
        assert checked.returncode == 0 and checked.stdout.count("OK") == len([*export.rglob("*")]) - 1 - sum(
            path.is_dir() for path in export.rglob("*")
        )


def test_the_line_that_trusts_an_old_export_makes_it_readable(tmp_path):
    export = shutil.copytree(finished() / "teacher/export/last/student", tmp_path / "export")
    (export / "SHA256").unlink()
    with pytest.raises(ValueError) as raised:
        check_export(export)
    subprocess.run(["sh", "-c", str(raised.value).partition("If you trust it: ")[2]], check=True)
    check_export(export)
