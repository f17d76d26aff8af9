"""Recordings with transcripts: waves float32 [n, samples, 1, 1] at 8 kHz, labels int32 [n, length], -1 behind the end.

Symbol 0 is CTC's blank, then come the space and the letters of ALPHABET. What follows a recording is 0: the networks
take it for padding.
"""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data import splits
from kd_jax.data.arrays import in_memory
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.files import path_of, read_utf8

RATE = 8000
ALPHABET = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
SYMBOLS = ("", *ALPHABET)
LIST = "transcripts.tsv"
QUIET = 1e-3  # a recording whose largest value is below holds nothing to hear
FRAME = 320  # samples of a frame that a network answers: a hop of 80, one in 4


def encode(text: str, where: str = "") -> np.ndarray:
    """Returns the symbols of a transcript, int32 [length], capitals as small letters.

    ValueError, with the name `where`, for an empty transcript and for symbols that are not in ALPHABET.
    """
    text = " ".join(text.lower().split())
    if not text:
        raise ValueError(f"{where or 'A transcript'}: the transcript is empty; leave the recording out.")
    if strange := sorted({*text} - {*ALPHABET}):
        raise ValueError(
            f"{where or repr(text)}: {', '.join(map(repr, strange))} in {text!r}: symbols are a to z, the apostrophe "
            "and the space; write numbers as words."
        )
    return np.array([SYMBOLS.index(symbol) for symbol in text], np.int32)


def decode(symbols: Sequence[int] | np.ndarray) -> str:
    """Returns the text of a row of symbols; blanks and what is below 0 are left out."""
    return "".join(SYMBOLS[int(s)] for s in symbols if int(s) > 0)


def needed(symbols: np.ndarray) -> int:
    """Returns how many frames CTC needs for a transcript: one a symbol, and one between two equal neighbours."""
    return len(symbols) + int((symbols[1:] == symbols[:-1]).sum())


def waves_of(recordings: Sequence[np.ndarray], samples: int, names: Sequence[str] = (), rate: int = RATE) -> np.ndarray:
    """Returns recordings, each [samples] in -1..1 at `rate`, as [n, samples, 1, 1]: what a network of them reads.

    ValueError, with the name or the number of the recording, for one that is empty, silent, longer than `samples`, no
    row of finite floats, or outside -1..1 (16-bit integers are divided by 32768 first).
    """
    waves = np.zeros((len(recordings), samples, 1, 1), np.float32)
    for i, recording in enumerate(recordings):
        wave_of, where = np.asarray(recording), names[i] if names else f"recording {i}"
        if wave_of.ndim != 1 or wave_of.dtype.kind != "f":
            raise ValueError(
                f"{where}: a recording is a row of floats in -1..1, not {wave_of.dtype} {list(wave_of.shape)}."
            )
        if not np.isfinite(wave_of).all():
            raise ValueError(f"{where}: some samples are not finite (NaN or infinity).")
        peak = np.abs(wave_of).max(initial=0)
        if peak < QUIET:
            raise ValueError(f"{where}: it is {'silent' if len(wave_of) else 'empty'}, there is nothing to hear.")
        if peak > 1:
            raise ValueError(f"{where}: samples lie in -1..1, and the largest is {peak:g}.")
        if len(wave_of) > samples:
            raise ValueError(f"{where}: {len(wave_of) / rate:.2f} s are longer than {samples / rate:.2f} s.")
        waves[i, : len(wave_of), 0, 0] = wave_of
    return waves


def read_wave(path: Path, rate: int = RATE) -> np.ndarray:
    """Reads a .wav as float32 [samples] in -1..1. ValueError unless it is 16 bit, mono, at `rate`."""
    try:
        with wave.open(str(path)) as file:
            form = file.getsampwidth(), file.getnchannels(), file.getframerate()
            if form != (2, 1, rate):
                raise ValueError(
                    f"{path}: expected 16 bit, 1 channel, {rate} Hz, got {8 * form[0]} bit, {form[1]} channels, "
                    f"{form[2]} Hz. sox IN.wav -b 16 -c 1 -r {rate} OUT.wav makes it so."
                )
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    except (wave.Error, EOFError) as e:
        raise ValueError(f"{path} is no .wav file of 16-bit samples: {e}") from e


def source_of(
    name: str,
    split: str,
    recordings: Sequence[np.ndarray],
    texts: Sequence[str],
    samples: int,
    length: int,
    names: Sequence[str] = (),
    fields: Mapping[str, np.ndarray] | None = None,
    levels: Mapping[str, tuple[str, ...]] | None = None,
) -> Source:
    """Returns a source of recordings and their transcripts of at most `length` symbols.

    ValueError as `encode` and `waves_of` have it, and for a transcript that the frames of its recording cannot say.
    """
    labels = np.full((len(texts), length), -1, np.int32)
    for i, (recording, text) in enumerate(zip(recordings, texts, strict=True)):
        where = names[i] if names else f"{name}/{split}, recording {i}"
        symbols, frames = encode(text, where), -(-len(recording) // FRAME)
        if len(symbols) > length:
            raise ValueError(f"{where}: a transcript of {len(symbols)} symbols; the longest may have {length}.")
        if needed(symbols) > frames:
            raise ValueError(
                f"{where}: {text!r} needs {needed(symbols)} frames of {1000 * FRAME // RATE} ms, and the recording has "
                f"{frames}: is the transcript another's?"
            )
        labels[i, : len(symbols)] = symbols
    waves = waves_of(recordings, samples, names)
    options: dict[str, Any] = dict(class_names=SYMBOLS, mean=(0.0,), std=(1.0,), fields=fields, levels=levels)
    return in_memory(name, split, waves, labels, **options)


class Recording(NamedTuple):
    """A line of a list: its file, its text, and what was recorded, float32 [samples]."""

    path: str
    text: str
    wave: np.ndarray


def folder(config: Mapping[str, Any]) -> Splits:
    """Loads the recordings of config.data.directory, a folder with transcripts.tsv: FILE.wav, text, speaker a line.

    The three are separated by tabs; files lie in the folder. Speakers, where they are told, are in one split only:
    `test` and `validation` are shares of them, else of recordings. DataNotFound without the file, ValueError for a
    line or a recording that does not fit, with its name.
    """
    parts = listed({**DEFAULTS, **config}, RATE)
    everything = [one for part in parts.values() for one in part]
    samples = max(len(one.wave) for one in everything)
    length = max(len(encode(one.text, one.path)) for one in everything)

    def make(split: str) -> Source:
        names, texts, waves = zip(*parts[split], strict=True)
        return source_of("recordings", split, waves, texts, samples, length, names)

    return Splits(make("train"), make("validation") if "validation" in parts else None, make("test"))


def listed(fields: Mapping[str, Any], rate: int) -> dict[str, list[Recording]]:
    """Returns the recordings at `rate` of a folder by split, as `folder` says, without a validation that is empty."""
    root = path_of(fields["directory"], "data.directory")
    if not fields["directory"] or not (root / LIST).is_file():
        raise DataNotFound(f"There is no {root / LIST}: lines of FILE.wav, text and maybe speaker, separated by tabs.")
    rows = _rows(root)
    speakers = sorted({speaker for _, _, speaker in rows})
    units = [speakers.index(speaker) for _, _, speaker in rows] if len(speakers) > 1 else list(range(len(rows)))
    order = splits.shuffled(max(units) + 1, fields["split_seed"])
    counts = [round(fields[share] * len(order)) for share in ("test", "validation")]
    what = "speakers" if len(speakers) > 1 else "recordings"
    splits.check_counts(what, len(order), counts, _Shares(fields["test"], fields["validation"]))
    parts = dict(zip(("test", "validation", "train"), np.split(order, np.cumsum(counts)), strict=True))
    recordings = [Recording(str(path), text, read_wave(path, rate)) for path, text, _ in rows]
    return {
        split: [one for one, unit in zip(recordings, units, strict=True) if unit in {*chosen.tolist()}]
        for split, chosen in parts.items()
        if len(chosen)
    }


class _Shares:
    """What splits.check_counts reads."""

    def __init__(self, test: float, validation: float) -> None:
        self.test, self.validation = test, validation


def _rows(root: Path) -> list[tuple[Path, str, str]]:
    """(file, text, speaker) of each line of a list; ValueError for one of another form, and for none."""
    lines = read_utf8(root / LIST).splitlines()
    rows = [_row(root, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{root / LIST} lists no recording.")
    return rows


def _row(root: Path, number: int, line: str) -> tuple[Path, str, str]:
    """(file, text, speaker) of a line; ValueError for another form, and where there is no such file."""
    cells = line.split("\t")
    if len(cells) not in (2, 3):
        raise ValueError(
            f"{root / LIST}, line {number}: expected FILE.wav, text and maybe speaker, separated by tabs, not {line!r}."
        )
    path = root / cells[0]
    if not path.is_file():
        raise ValueError(f"{root / LIST}, line {number}: there is no file {path}.")
    return path, cells[1], cells[2].strip() if len(cells) == 3 else ""
