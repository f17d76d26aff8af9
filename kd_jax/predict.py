"""What an exported network says of files: python -m kd_jax.predict RUN FILES... [--out=FILE.csv|FILE.jsonl].

RUN is what kd_jax.load takes. FILES are pictures (resized to what the network reads), folders of pictures, .npy and
.npz arrays, .csv rows of numbers, .txt files with a text a line, and .wav recordings (16 bit, mono, 8 kHz) of a network
of waves. Without --out the lines go to the terminal.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from kd_jax.data import tables
from kd_jax.data.images.pictures import as_array, centre_crop, opened
from kd_jax.data.transcripts import read_wave, waves_of
from kd_jax.train.raw import joined
from kd_jax.train.student import MOST, Student, load

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
KINDS = (*PICTURES, ".npy", ".npz", ".csv", ".txt", ".wav")
OUT = (".csv", ".jsonl")
# (the name of each example, the examples, how many pixels of its file one of a picture is: [n, 2], across and down)
Part = tuple[list[str], Any, np.ndarray | None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and writes a line for every example; ends with one line for whatever does not fit."""
    parser = argparse.ArgumentParser("kd-jax predict", description=__doc__)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("files", metavar="FILES", nargs="+")
    parser.add_argument("--out", default="", help="FILE.csv or FILE.jsonl")
    parser.add_argument("--which", default="", help="best or last")
    parser.add_argument("--entry", default="", help="an exit or branch of the network")
    asked = parser.parse_args(arguments)
    try:
        predict_files(asked.run, asked.files, asked.out, asked.which, asked.entry)
    except (ValueError, OSError) as e:
        sys.exit(f"{type(e).__name__}: {e}")


def predict_files(run: str, files: Sequence[str], out: str = "", which: str = "", entry: str = "") -> int:
    """Writes what the network predicts of every example of the files; returns how many there were.

    A line has the file, the number of the example in it, the prediction, and the name of the class where it is one.
    Raises ValueError for a file that is no example of the network; then nothing is left at `out`.
    """
    if out and Path(out).suffix not in OUT:
        raise ValueError(f"--out={out!r} ends in {' or '.join(OUT)}.")
    student, places = load(run, which=which, entry=entry), list(_listed(files))
    if not out:
        return _write(student, places, sys.stdout, False)
    scratch = Path(f"{out}.tmp")
    try:
        with open(scratch, "w", encoding="utf-8", newline="") as stream:
            count = _write(student, places, stream, out.endswith(".jsonl"))
        os.replace(scratch, out)
    finally:
        scratch.unlink(missing_ok=True)
    print(f"{count} predictions in {out}")
    return count


def _listed(files: Sequence[str]) -> Iterator[Path]:
    """The files, and the pictures of the folders among them; ValueError for what is not there or of another kind."""
    for name in files:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
            if not inside:
                raise ValueError(f"{path} holds no pictures ({', '.join(PICTURES)}).")
            yield from inside
        elif not path.is_file():
            raise ValueError(f"There is no file {path}.")
        elif path.suffix.lower() not in KINDS:
            raise ValueError(f"{path} is none of {', '.join(KINDS)}.")
        else:
            yield path


def _write(student: Student, places: Sequence[Path], stream: TextIO, lines: bool) -> int:
    names, count = student.classes if student.info["task"]["name"] == "classify" else [], 0
    table = csv.writer(stream)
    if not lines:
        table.writerow(["file", "example", "prediction", *(["class"] if names else [])])
    with tqdm(total=len(places), unit="file", disable=None) as bar:
        for numbers, (labels, examples, pixels) in _parts(student, places):
            answers = _one_each(_in_pixels(student.predict(examples), pixels), len(labels))
            for label, number, value in zip(labels, numbers, answers, strict=True):
                name = {"class": names[value]} if names else {}
                if lines:
                    record = {"file": label, "example": number, "prediction": value, **name}
                    stream.write(json.dumps(record) + "\n")
                else:
                    shown = json.dumps(value) if isinstance(value, (list, dict)) else value
                    table.writerow([label, number, shown, *name.values()])
            count += len(labels)
            bar.update(len({*labels}))
    return count


def _in_pixels(answers: Any, pixels: np.ndarray | None) -> Any:
    """The answers, boxes [n, objects, 4] in pixels of the files; all else as it is."""
    if pixels is None or not isinstance(answers, Mapping) or "boxes" not in answers:
        return answers
    return {**answers, "boxes": answers["boxes"] * np.tile(pixels, 2)[:, None]}


def _one_each(answers: Any, count: int) -> list[Any]:
    """The answer to each of `count` examples as JSON has it; a dict of arrays (boxes, scores, ...) is one of each."""
    if isinstance(answers, Mapping):
        return [{name: values[i].tolist() for name, values in answers.items()} for i in range(count)]
    return [answer.tolist() if hasattr(answer, "tolist") else answer for answer in answers]


def _parts(student: Student, places: Sequence[Path]) -> Iterator[tuple[list[int], Part]]:
    """The examples of all files, pictures of several files together: ([number in the file], part)."""
    pictures: list[Path] = []
    for place in places:
        if place.suffix.lower() in PICTURES:
            pictures.append(place)
            if len(pictures) == MOST:
                yield _of_pictures(student, pictures)
                pictures = []
            continue
        examples = _read(student, place)
        size = len(next(iter(examples.values()))) if isinstance(examples, dict) else len(examples)
        yield list(range(size)), ([str(place)] * size, examples, None)
    if pictures:
        yield _of_pictures(student, pictures)


def _of_pictures(student: Student, places: list[Path]) -> tuple[list[int], Part]:
    shape, dtype = student.info["input"]["shape"], student.info["input"]["dtype"]
    if len(shape) != 3 or dtype != "uint8" or shape[-1] not in (1, 3):
        raise ValueError(f"{places[0]} is a picture, and this network reads {dtype} {shape}: give arrays (.npy).")
    crop, images, pixels = student.info["preparation"]["crop"], [], []
    for place in places:
        image = opened(place).convert("L" if shape[-1] == 1 else "RGB")
        pixels.append((image.width / shape[1], image.height / shape[0]))
        if crop:
            images.append(centre_crop(image, shape[0]))
        else:
            images.append(as_array(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)))
    return [0] * len(places), ([str(place) for place in places], np.stack(images), None if crop else np.array(pixels))


def _read(student: Student, place: Path) -> Any:
    """The examples of a file of arrays, rows or texts."""
    kind = place.suffix.lower()
    if kind == ".txt":
        return [line for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
    if kind == ".wav":
        shape = tuple(student.info["input"]["shape"])
        if len(shape) != 3 or shape[1:] != (1, 1):
            raise ValueError(f"{place} is a recording, and this network reads {joined(student.info)}.")
        return waves_of([read_wave(place)], shape[0], [str(place)])
    try:
        if kind == ".csv" and student.info.get("columns"):
            return tables.as_rows(tables.read_cells(place), student.info["columns"])
        if kind == ".csv":
            rows = list(csv.reader(place.read_text(encoding="utf-8").splitlines()))
            return np.array(rows[not _is_numbers(rows[0]) :], np.float32)
        content = np.load(place, allow_pickle=False)
        if kind == ".npy":
            return content
        arrays = {name: content[name] for name in content}
    except (ValueError, EOFError, IndexError, OSError) as e:
        raise ValueError(f"{place} cannot be read as {kind}: {e}") from e
    entries = (student.info["preparation"]["entry"], *student.info["fields"])
    return arrays if len(arrays) > 1 or {*arrays} <= {*entries} else next(iter(arrays.values()))


def _is_numbers(row: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in row])
    except ValueError:
        return False


if __name__ == "__main__":
    main()
