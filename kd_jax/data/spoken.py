"""Synthetic speech: sentences of a small grammar, spoken by espeak-ng and flite, at 8 kHz. The text is known exactly.

No person speaks here. Voices of train, validation and test differ, and so do their sentences; each sentence has its own
rate and pitch. What was spoken is written to ~/.cache/kd_jax/spoken (or $KD_JAX_DATA/spoken) and read again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import wave
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data.folders import places
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.data.transcripts import FRAME, RATE, encode, needed, source_of
from kd_jax.ranges import COUNT, check_numbers

PROGRAMS = ("espeak-ng", "flite")
# Whose voice is in which split: (program, voice). Flite's are recorded people, diphones or clustergen; espeak's are
# formants, an accent and a variant of the throat.
VOICES = {
    "train": (
        *(("espeak-ng", f"{accent}+{throat}") for accent in ("en-us", "en-gb") for throat in ("m1", "m3", "f1", "f2")),
        *(("espeak-ng", f"en-gb-scotland+{throat}") for throat in ("m2", "f4")),
        ("flite", "kal"),
        ("flite", "rms"),
        ("flite", "slt"),
    ),
    "validation": (("espeak-ng", "en-us+m7"), ("espeak-ng", "en-gb-x-rp+f3")),
    "test": (("espeak-ng", "en-029+m4"), ("espeak-ng", "en-us+f5"), ("espeak-ng", "en-gb+m6"), ("flite", "awb")),
}
DIGITS = tuple("zero one two three four five six seven eight nine".split())
THINGS = tuple("light radio heater door fan".split())
NAMES = tuple("anna tom maria john".split())
FIELDS: dict[str, Any] = dict(utterances=(1500, 200, 400), samples=2 * RATE, length=32)
SPLITS = ("train", "validation", "test")


class Line(NamedTuple):
    """What is said, by whom, and how: words a minute, and a pitch of 50 +- 20 (flite's: of 1 +- 0.15)."""

    text: str
    program: str
    voice: str
    rate: int
    pitch: int


def sentences(config: Mapping[str, Any]) -> Splits:
    """Loads spoken sentences: image float32 [n, samples, 1, 1], labels the symbols of the text (data/transcripts.py).

    Beside DEFAULTS it reads `utterances` (train, validation, test), `samples` (longer sentences are left out and
    others are spoken) and `length`, the most symbols of a text. `directory` is a folder into which the Debian packages
    of both programs were unpacked (dpkg -x), "" takes those of the system. `split_seed` draws sentences and voices.
    Field: voice. DataNotFound where a program is missing, ValueError where it fails.
    """
    fields = {**DEFAULTS, **FIELDS, "length": FIELDS["length"], **config}
    check_numbers("data", fields, {"samples": COUNT, "length": COUNT})
    samples, length, seed, directory = (fields[name] for name in ("samples", "length", "split_seed", "directory"))

    def make(split: str, count: int) -> Source:
        lines = drawn(split, count, samples, length, seed, directory)
        numbers = [VOICES[split].index((line.program, line.voice)) for line, _ in lines]
        voices = tuple(f"{program} {voice}" for program, voice in VOICES[split])
        more = dict(fields={"voice": np.array(numbers, np.int32)}, levels={"voice": voices})
        texts, recordings = [line.text for line, _ in lines], [recording for _, recording in lines]
        return source_of("spoken", split, recordings, texts, samples, length, **more)

    return Splits(*map(make, SPLITS, counts_of(fields)))


def counts_of(fields: Mapping[str, Any]) -> list[int]:
    """Returns how many sentences train, validation and test have; ValueError where one has none."""
    counts = [int(n) for n in fields["utterances"]]
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(f"data.utterances is how many to train, validate and test with, not {fields['utterances']!r}.")
    return counts


def drawn(
    split: str, count: int, samples: int, length: int, seed: int, directory: str = "", rate: int = RATE
) -> list[tuple[Line, np.ndarray]]:
    """Returns `count` lines of a split and their recordings at `rate`; lines are drawn and spoken until so many fit.

    A recording has at most `samples`, a text `length` symbols and no more than the frames of its recording can say.
    ValueError where none of a hundred fits.
    """
    rng, fitting = np.random.default_rng((seed, SPLITS.index(split))), []
    while len(fitting) < count:
        lines = [draw(split, rng) for _ in range(max(count - len(fitting) + count // 8, 100 * (not fitting)))]
        for line, recording in zip(lines, spoken(lines, directory, rate), strict=True):
            frames = -(-len(recording) * RATE // rate // FRAME)
            if len(recording) <= samples and len(line.text) <= length and needed(encode(line.text)) <= frames:
                fitting.append((line, recording))
        if not fitting:
            raise ValueError(f"No sentence fits data.samples={samples} at {rate} Hz and data.length={length}.")
    return fitting[:count]


def sentence(rng: np.random.Generator) -> str:
    """Returns a sentence of the grammar: two to four digits, an order to a thing, or a call of a name and a digit."""
    kind = rng.integers(3)
    if kind == 0:
        return " ".join(rng.choice(DIGITS, rng.integers(2, 5)))
    if kind == 1:
        verb = rng.choice(["turn", "switch"])
        return f"{verb} {rng.choice(['on', 'off'])} the {rng.choice(THINGS)}"
    verb, place = rng.choice(["call", "tell", "ask"]), rng.choice(["at", "on", "in"])
    return f"{verb} {rng.choice(NAMES)} {place} {rng.choice(DIGITS)}"


def share_of(text: str) -> str:
    """Returns the split in which a text is, by its digest: three fifths are train's, a fifth is test's."""
    number = hashlib.sha256(text.encode()).digest()[0] % 5
    return {3: "validation", 4: "test"}.get(number, "train")


def draw(split: str, rng: np.random.Generator) -> Line:
    """Returns a line of a split: a sentence that is in no other, one of its voices, a rate and a pitch."""
    text = sentence(rng)
    while share_of(text) != split:
        text = sentence(rng)
    program, voice = VOICES[split][rng.integers(len(VOICES[split]))]
    return Line(text, program, voice, int(rng.integers(120, 170)), int(rng.integers(30, 71)))


def spoken(lines: Sequence[Line], directory: str = "", rate: int = RATE) -> list[np.ndarray]:
    """Returns the recordings of lines at `rate`, float32 [samples] each, from the disk if they were spoken before."""
    key = hashlib.sha256(json.dumps([rate, lines]).encode()).hexdigest()[:32]
    path = _cache() / f"{key}.npz"
    if path.is_file():
        with np.load(path) as file:
            ends, samples = file["ends"], file["samples"]
    else:
        programs = {name: _program(name, directory) for name in sorted({line.program for line in lines})}
        with ThreadPoolExecutor(2) as threads:
            parts = list(threads.map(lambda line: speak(line, *programs[line.program], rate), lines))
        ends, samples = np.cumsum([len(part) for part in parts]), np.concatenate(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{key}.{os.getpid()}.tmp.npz")
        np.savez(scratch, ends=ends, samples=samples)
        os.replace(scratch, path)
    return [part.astype(np.float32) / 32768 for part in np.split(samples, ends[:-1])]


def _cache() -> Path:
    """$KD_JAX_DATA/spoken, or ~/.cache/kd_jax/spoken."""
    return (places("")[0] if os.environ.get("KD_JAX_DATA") else Path("~/.cache/kd_jax").expanduser()) / "spoken"


def _program(name: str, directory: str) -> tuple[str, dict[str, str]]:
    """(path, environment) of a program, in an unpacked folder or on the system; DataNotFound where it is missing."""
    if not directory:
        if path := shutil.which(name):
            return path, dict(os.environ)
        raise DataNotFound(
            f"spoken: the program {name} is not here. On Debian: apt-get install {' '.join(PROGRAMS)}; or unpack the "
            "packages (apt-get download, dpkg -x FILE.deb DIR) and say --config.data.directory=DIR."
        )
    root = Path(directory).expanduser()
    path, libraries = root / "usr/bin" / name, sorted((root / "usr/lib").glob("*-linux-gnu"))
    if not path.is_file():
        raise DataNotFound(f"spoken: there is no {path}: dpkg -x unpacks the packages of {name} into {root}.")
    voices = [str(p / "espeak-ng-data") for p in libraries if (p / "espeak-ng-data").is_dir()]
    more = {"LD_LIBRARY_PATH": ":".join(map(str, libraries)), "ESPEAK_DATA_PATH": "".join(voices[:1])}
    return str(path), {**os.environ, **more}


def speak(line: Line, path: str, environment: Mapping[str, str], rate: int = RATE) -> np.ndarray:
    """Returns a recording of a line, int16 [samples] at `rate`, its peak half of the range, silent ends cut off.

    ValueError with the program's message where it fails or says nothing.
    """
    if line.program == "flite":
        stretch, shift = 145 / line.rate, 1 + (line.pitch - 50) / 130
        options = ["--setf", f"duration_stretch={stretch:.3f}", "--setf", f"f0_shift={shift:.3f}"]
        command = [path, "-voice", line.voice, *options, "-t", line.text, "-o", "/dev/stdout"]
    else:
        command = [path, "-v", line.voice, "-s", str(line.rate), "-p", str(line.pitch), "--stdout", line.text]
    ran = subprocess.run(command, env=dict(environment), capture_output=True, check=False)
    if ran.returncode or len(ran.stdout) < 100:
        said = " ".join(ran.stderr.decode(errors="replace").split())[:200]
        raise ValueError(f"spoken: {line.program} did not speak {line.text!r} by the voice {line.voice}: {said}")
    with wave.open(io.BytesIO(ran.stdout)) as file:
        theirs, frames = file.getframerate(), file.readframes(1 << 30)
    samples = np.frombuffer(frames[: len(frames) // 2 * 2], "<i2").astype(np.float32)
    from scipy.signal import resample_poly  # here: it takes a while to import

    common = np.gcd(theirs, rate)
    samples = resample_poly(samples, rate // common, theirs // common)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return np.round(samples * (16384 / np.abs(samples).max())).astype(np.int16)
