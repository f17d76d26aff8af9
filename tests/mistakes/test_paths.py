"""Paths that lead nowhere, to a file, to a bucket, or a folder too high or too low."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mistakes import MLP, Mistake, check, config, data, each, run
from safetensors.numpy import save_file

import kd_jax
from kd_jax.models.safetensors_io import Tensors, read_config

GS = "gs://mine/run"


@functools.cache
def finished():
    """The folder of a run that has ended."""
    folder = Path(tempfile.mkdtemp(prefix="kd_jax_finished_"))
    run(folder)
    return folder / "run"


def at(**fields):
    return lambda folder: run(folder, config(**fields))


def loaded(path, **fields):
    """A run whose teacher is loaded from a path below the finished run."""
    return lambda folder: run(folder, config(teacher__checkpoint=str(finished() / path), **fields))


def a_file(folder):
    (folder / "file").write_text("")
    return str(folder / "file")


def npz(cut):
    def do(folder):
        arrays = {"x": np.zeros((50, 6)), "y": np.zeros(50, int)}
        whole = {f"{split}_{axis}": array for split in ("train", "test") for axis, array in arrays.items()}
        np.savez(folder / "data.npz", **whole)
        text = (folder / "data.npz").read_bytes()
        (folder / "data.npz").write_bytes(cut(text))
        return run(folder, config(data__name="arrays", data__directory=str(folder / "data.npz")), data=None)

    return do


def tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    fields = dict(data__name="pairs", data__directory="arithmetic", data__tokenizer=str(folder / "tokenizer.json"))
    return run(folder, config(**fields), data=None)


def model_folder(name):
    """Reads a folder of a published model in which one file was cut off."""

    def do(folder):
        (folder / "config.json").write_text('{"model_type": "bert"}')
        save_file({"a": np.zeros(100)}, folder / "model.safetensors")
        path = folder / name
        path.write_bytes(path.read_bytes()[:-10])
        return read_config(folder), Tensors(folder)

    return do


ROWS = [
    Mistake("a published model's config.json cut off", "config.json is not readable: ", model_folder("config.json")),
    Mistake(
        "a published model's weights cut off",
        "model.safetensors is not readable: it is cut off or of another kind",
        model_folder("model.safetensors"),
    ),
    Mistake(
        "a workdir in a bucket",
        "workdir='gs://mine/run': gs:// is not supported. Mount it as a folder",
        lambda folder: kd_jax.run(config(), GS, data=data()),
    ),
    Mistake("a checkpoint in a bucket", "teacher.checkpoint='gs://mine/run': gs:// is not", at(teacher__checkpoint=GS)),
    Mistake(
        "a teacher's workdir in a bucket", "teacher.workdir='gs://mine/run': gs:// is not", at(teacher__workdir=GS)
    ),
    Mistake("a cache in a bucket", "teacher.cache.directory='gs://mine/run': gs://", at(teacher__cache__directory=GS)),
    Mistake("a start in a bucket", "initial.name='gs://mine/run': gs:// is not", at(student__initial__name=GS)),
    Mistake(
        "compiled programs in a bucket", "compilation_cache='s3://mine': s3:// is", at(compilation_cache="s3://mine")
    ),
    Mistake(
        "data in a bucket",
        "data.directory='gs://mine/run': gs:// is not supported",
        lambda folder: run(folder, config(data__name="arrays", data__directory=GS), data=None),
    ),
    Mistake("no workdir", "workdir=None is no path", lambda folder: kd_jax.run(config(), None, data=data())),
    Mistake(
        "a workdir that is a file",
        "A run cannot write into …run (File exists): choose another --workdir",
        lambda folder: ((folder / "run").write_text(""), run(folder)),
    ),
    Mistake(
        "cache.directory that is a file",
        "teacher.cache.directory='…file' is a file; the answers need a folder",
        lambda folder: run(folder, config(teacher__cache__directory=a_file(folder))),
    ),
    Mistake(
        "a checkpoint that is nowhere",
        "There is no exported model at nowhere. A finished run has them under <workdir>/<name>/export/",
        at(teacher__checkpoint="nowhere"),
    ),
    Mistake(
        "a workdir as a checkpoint, whose student is another network",
        "student/export/best/student does not hold this model",
        loaded(""),
    ),
    Mistake(
        "a checkpoint one level too low",
        "/export/last/student/d. Near it lie: …export/last/student.",
        loaded("teacher/export/last/student/d"),
    ),
    Mistake(
        "a checkpoint of another role",
        "/export/last/teacher. Near it lie: …export/last/student.",
        loaded("teacher/export/last/teacher"),
    ),
    Mistake(
        "a .npz file that was cut off",
        "data.npz' cannot be read as .npz: it is cut off or of another kind",
        npz(lambda text: text[: len(text) // 2]),
    ),
    Mistake("a .npz file that is something else", "data.npz' cannot be read as .npz", npz(lambda text: b"hello")),
    Mistake(
        "a .npz file with a damaged array",
        "data.npz' cannot be read as .npz: …train_x",
        npz(lambda text: text[:300] + b"?" + text[301:]),
    ),
    Mistake("a tokenizer.json that was cut off", "tokenizer.json' is no tokenizer.json that can be read", tokenizer),
]


@each(ROWS)
def test_paths(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@pytest.mark.parametrize("field", ["workdir", "teacher.checkpoint", "student.initial.name", "teacher.cache.directory"])
def test_a_tilde_is_the_home_folder_everywhere(field, tmp_path, monkeypatch):
    export = finished() / "teacher/export/last/student"
    monkeypatch.setenv("HOME", str(export.parent if field.endswith(("checkpoint", "name")) else tmp_path))
    monkeypatch.chdir(tmp_path)
    made, workdir = config(steps=1), "~/mine" if field == "workdir" else tmp_path / "run"
    values = dict.fromkeys(("teacher.checkpoint", "student.initial.name"), "~/student")
    values["teacher.cache.directory"] = "~/cache"
    networks = {"student": MLP(16), "teacher": MLP(16)}
    if field in values:
        *parents, last = field.split(".")
        owner = made
        for name in parents:
            owner = owner[name]
        owner[last] = values[field]
    kd_jax.run(made, workdir, data=data(), **networks)
    assert not (tmp_path / "~").exists()
    assert {"workdir": tmp_path / "mine/results.json", "teacher.cache.directory": tmp_path / "cache"}.get(
        field, tmp_path / "run/results.json"
    ).exists()
