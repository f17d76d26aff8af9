"""From a student to files of other formats, each through the parity gate."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kd_jax.compress.plain import unrounded
from kd_jax.export import decoder, deployed, huggingface, latency, litert, onnx, parity, safetensors, stablehlo, web
from kd_jax.export.examples import Examples
from kd_jax.export.network import Run, function_of, shaped
from kd_jax.export.parity import LARGEST, Gate, gates_of
from kd_jax.files import write_json
from kd_jax.report.exported import RECORD
from kd_jax.resolve import near
from kd_jax.train.student import Student, predictor

GRAPHS = {"stablehlo": stablehlo, "onnx": onnx, "litert": litert}
FOLDERS = {"safetensors": safetensors, "huggingface": huggingface}
FORMATS = (*GRAPHS, *FOLDERS, "web")


class Task(NamedTuple):
    """An export under way: the student, the function that leaves, real examples, JAX's answers to them."""

    student: Student  # without the rounding of its weights in every answer: they are rounded
    network: deployed.Deployed
    inputs: tuple[np.ndarray, ...]  # of all examples, as the function takes them
    raw: tuple[np.ndarray, ...]  # and as they lie in the data
    expected: list[np.ndarray]
    structure: Any  # of the main output that these are the leaves of
    labels: np.ndarray | None
    gates: tuple[Gate, Gate]  # of float formats, of whole numbers
    folder: Path
    size: int  # of a decoder's cache, 0 for what is no decoder
    loaded: Student  # the student as its description builds it


def export(
    student: Student,
    formats: Sequence[str],
    folder: str | Path,
    examples: Examples,
    *,
    teacher: Student | None = None,
    int8: bool = False,
    preparation: bool = True,
    tolerance: float = LARGEST,
    agreement: float | None = None,
    measure: bool = True,
) -> list[dict[str, Any]]:
    """Writes a student in `formats` into `folder` and returns what export.json there says of each file.

    `examples` are real ones that it was not trained on; every file answers them in its own runtime, and is compared
    with JAX: the largest difference, relative to the largest output, is at most `tolerance`, the share of equal answers
    at least `agreement` (default: parity.EQUAL, of 8 bits parity.EQUAL_INT8). With `preparation` the files take
    examples as they lie in the data, else prepared ones. `int8` adds ONNX with weights of 8 bits. "web" is a page that
    runs the ONNX files of student and `teacher`. `measure` adds latency and peak memory.
    Nothing is written where a format is unknown, refuses the network or fails the gate: ValueError says which.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"There is no format {unknown[0]!r}. {near(unknown[0], FORMATS)}")
    if int8 and "onnx" not in formats:
        raise ValueError("int8 is of ONNX: add onnx to the formats.")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        task = _task(student, examples, scratch, preparation, gates_of(tolerance, agreement))
        files: dict[str, Path] = {}
        runs: dict[str, Run] = {"jax": _jax(task)}
        records = [r for name in dict.fromkeys(formats) if name != "web" for r in _of(task, name, int8, files, runs)]
        if task.size:
            decoder.ship(student, scratch)
        if measure:
            _measure(task, records, files, runs)
        if "web" in formats:
            web.write(student, teacher, examples, scratch)
            records.append(_record(task, "web", scratch / web.FOLDER, None, None))
        write_json(scratch / RECORD, records)
        _move(scratch, folder)
        return records
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _task(loaded: Student, examples: Examples, folder: Path, preparation: bool, gates: tuple[Gate, Gate]) -> Task:
    model, params = unrounded(loaded.model, loaded.params)
    student = dataclasses.replace(loaded, model=model, params=params)
    if decoder.is_decoder(student):
        size = student.info["input"]["shape"][0]
        raw = tuple(x[: max(1, 256 // size)] for x in shaped(deployed.raw_inputs(student), examples.raw))
        few = (raw[0],)  # a step reads tokens alone
        network, expected = decoder.stepping(student, size), decoder.whole(student)(*few)
        return Task(student, network, few, raw, expected, None, None, gates, folder, size, loaded)
    raw = shaped(deployed.raw_inputs(student), examples.raw)
    if preparation:
        network, inputs = deployed.with_preparation(student), raw
    else:
        network = deployed.without_preparation(student, examples.raw)
        made = student.prepare(examples.raw)
        inputs = tuple(np.asarray(x) for i, x in enumerate(made) if str(i) not in student.fixed)
    leaves, structure = jax.tree.flatten(student.logits(examples.raw))
    expected = [np.asarray(x) for x in leaves]
    return Task(student, network, inputs, raw, expected, structure, examples.labels, gates, folder, 0, loaded)


def _jax(task: Task) -> Run:
    call = jax.jit(function_of(*task.network[:3]))
    return lambda *arrays: [np.asarray(x) for x in call(*arrays)]


def _of(task: Task, name: str, int8: bool, files: dict[str, Path], runs: dict[str, Run]) -> list[dict[str, Any]]:
    """The records of a format, whose files are written and have passed the gate."""
    if name in FOLDERS:
        return [_of_folder(task, name, runs)]
    module = GRAPHS[name]
    path = module.write(*task.network, task.folder)
    written = {name: path}
    if int8 and name == "onnx":
        examples = decoder.empty(task.network[3]) if task.size else task.inputs
        kinds = ("dynamic",) if task.size else ("dynamic", "static")
        written |= {f"onnx-int8-{kind}": onnx.quantise(path, kind, examples) for kind in kinds}
    records = []
    for label, file in written.items():
        runs[label], files[label] = module.read(file), file
        run = decoder.unrolled(runs[label], task.network[3]) if task.size else runs[label]
        gate = task.gates["int8" in label]
        records.append(_gated(task, label, file, run, task.inputs, gate, module))
    return records


def _of_folder(task: Task, name: str, runs: dict[str, Run]) -> dict[str, Any]:
    """The record of the arrays in a file or folder that other code builds the network from."""
    student, module = task.loaded, FOLDERS[name]
    path = module.write(student, task.folder)
    runs[name] = module.read(path, student)
    if task.size:  # the whole network reads more than a step does: which tokens are of one text
        names = [i.name for i in deployed.raw_inputs(student)]
        answered = student.logits(dict(zip(names, task.raw, strict=True)))
        task = task._replace(expected=[np.asarray(x) for x in jax.tree.leaves(answered)])
    return _gated(task, name, path, runs[name], task.raw, task.gates[0], module)


def _gated(
    task: Task, label: str, file: Path, run: Run, inputs: Sequence[np.ndarray], gate: Gate, module: Any
) -> dict[str, Any]:
    predict = None if task.size else predictor(task.student.info)
    answers = None if predict is None else lambda leaves: predict(jax.tree.unflatten(task.structure, leaves))
    try:
        result, got = parity.compare(run, inputs, task.expected, answers)
    except parity.ParityFailed as e:
        raise parity.ParityFailed(f"{label}: {e}.") from e
    parity.check(result, gate, task.expected, label, [file])
    return _record(task, label, file, result, got, module)


def _record(
    task: Task, label: str, file: Path, result: parity.Parity | None, got: Any, module: Any = web
) -> dict[str, Any]:
    inside = [p for p in file.rglob("*") if p.is_file()] if file.is_dir() else [file]
    record: dict[str, Any] = {
        "format": label,
        "file": file.name,
        "bytes": sum(p.stat().st_size for p in inside),
        "parity": None if result is None else result._asdict(),
        "latency_ms": {},
        "runtime": module.RUNTIME,
        "how_to_load": module.how_to_load(file),
        "inputs": [i._asdict() | {"shape": list(i.shape)} for i in task.network[3]],
    }
    labels = task.labels
    if got is not None and labels is not None and labels.ndim == 1 and labels.dtype.kind == "i" and got[0].ndim == 2:
        rows = labels >= 0
        record["accuracy"] = float((got[0].argmax(-1)[rows] == labels[rows]).mean()) if rows.any() else None
    return record


def _measure(task: Task, records: list[dict[str, Any]], files: Mapping[str, Path], runs: Mapping[str, Run]) -> None:
    """Adds latency, in rounds with JAX's own program, and peak memory to the records of files that run."""
    step = decoder.empty(task.network[3]) if task.size else task.inputs
    comparable = {name: run for name, run in runs.items() if not (task.size and name in FOLDERS)}  # steps, no texts
    programs = {name: (run, task.raw if name in FOLDERS else step) for name, run in comparable.items()}
    measured = latency.latencies(programs, steps=bool(task.size))
    for record in records:
        label = record["format"]
        record |= measured.get(label, {}) | {f"jax_{name}": value for name, value in measured["jax"].items()}
        if label in files:
            module, scratch = GRAPHS[label.partition("-")[0]].__name__, task.folder / "inputs.npz"
            one = step if task.size else [x[:1] for x in step]
            record["peak_memory_bytes"] = latency.peak_memory(module, files[label], one, scratch)


def _move(scratch: Path, folder: Path) -> None:
    """Puts what was written in the place of files of the same names; what else lies in the folder stays."""
    old = json.loads((folder / RECORD).read_text()) if (folder / RECORD).is_file() else []
    new = json.loads((scratch / RECORD).read_text())
    names = {record["format"] for record in new}
    write_json(scratch / RECORD, [*(r for r in old if r["format"] not in names), *new])
    folder.mkdir(exist_ok=True)
    for path in sorted(scratch.iterdir(), key=lambda p: p.name == RECORD):  # the record last: it says what is there
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
