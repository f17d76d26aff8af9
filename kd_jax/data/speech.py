"""Recorded speech in two modalities: the class is the language, one of five, of a telephone prompt.

The prompts of Asterisk (CC-BY-SA 3.0 and CC-BY 3.0; A. Smith, J. Wallack, C. Carlo, M. Topal), 8 kHz, about 550 a
language. One voice speaks each language (English and Spanish share one), so networks can tell languages by voice and
recording: accuracies compare networks, and say little about language recognition.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data.arrays import in_memory
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Source, Splits, subset
from kd_jax.data.splits import hold_out
from kd_jax.files import path_of

LANGUAGES = ("en", "es", "fr", "it", "ru")
FOLDER = "/usr/share/asterisk/sounds"
RATE, WINDOW, HOP, FRAMES, BANDS = 8000, 512, 256, 32, 16  # 1.06 s from where the sound begins
LENGTH = WINDOW + HOP * (FRAMES - 1)
LONGEST = 3 * RATE  # of a recording that is read at all
TEST_SEED = 0


def languages(config: Mapping[str, Any]) -> Splits:
    """Loads the prompts: `image` float32 [n, 32, 16, 1] is the log-mel spectrogram, the field `contour` a second view.

    contour float32 [n, 32, 2] is the loudness and the rate of zero crossings in the same 32 frames, standardised over
    train. `directory` holds a folder for each language, such as en_US_f_Allison; "" is where Debian puts them. A fixed
    stratified fraction `test` of the recordings is the test split. DataNotFound where a language is missing.
    """
    fields = {**DEFAULTS, **config}
    mel, contour, labels = _recordings(str(path_of(fields["directory"] or FOLDER, "data.directory")))
    train, test = hold_out(labels, fields["test"], TEST_SEED)
    mean, std = mel[train].mean(), mel[train].std()
    level, width = contour[train].mean((0, 1)), contour[train].std((0, 1))
    whole = in_memory("speech", "train", mel, labels, class_names=LANGUAGES, mean=(mean,), std=(std,))
    whole = dataclasses.replace(whole, fields={"contour": ((contour - level) / width).astype(np.float32)})
    return Splits(subset(whole, train), None, subset(whole, test, "test"))


def prompts(config: Mapping[str, Any]) -> Splits:
    """Loads the prompts as waves: image float32 [n, 8448, 1, 1] from where the sound begins, labels the language.

    A prompt is in one split in all languages (it is what a file's path inside the folders of two languages says alike),
    a fifth of them in test and a tenth in validation; `split_seed` draws which. DataNotFound where a language is
    missing.
    """
    fields = {**DEFAULTS, **config}
    parts = by_split(fields["directory"], fields["split_seed"])

    def make(split: str) -> Source:
        clips, labels = zip(*parts[split], strict=True)
        waves = np.stack(clips)[..., None, None].astype(np.float32)
        return in_memory("prompts", split, waves, np.array(labels), class_names=LANGUAGES, mean=(0.0,), std=(1.0,))

    return Splits(*map(make, ("train", "validation", "test")))


def by_split(directory: str, seed: int) -> dict[str, list[tuple[np.ndarray, int]]]:
    """Returns {split: [(the first 1.06 s of sound of a prompt, the number of its language)]}.

    `directory` is as that of `prompts`, which says how the splits are made. DataNotFound where a language is missing,
    ValueError where a split has no prompt.
    """
    folders = _folders(str(path_of(directory or FOLDER, "data.directory")))
    parts: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "validation": [], "test": []}
    for label, code in enumerate(LANGUAGES):
        for folder in folders[code]:
            for path in sorted(folder.rglob("*.wav")):
                clip = speech_of(read(path))
                if clip is not None:
                    parts[_split_of(path.relative_to(folder).as_posix(), seed)].append((clip, label))
    if empty := [split for split, rows in parts.items() if not rows]:
        raise ValueError(f"speech: {', '.join(empty)} would have no prompt; there are too few.")
    return parts


def _split_of(name: str, seed: int) -> str:
    """The split of a prompt, by the digest of its name: a part in ten is validation's, two are test's."""
    part = hashlib.sha256(f"{seed}/{name}".encode()).digest()[0] % 10
    return {0: "validation", 1: "test", 2: "test"}.get(part, "train")


def _folders(directory: str) -> dict[str, list[Path]]:
    """The folders of each language; DataNotFound where one is missing."""
    folders = {code: sorted(Path(directory).glob(f"{code}_*")) for code in LANGUAGES}
    if missing := [code for code, paths in folders.items() if not paths]:
        packages = " ".join(f"asterisk-core-sounds-{code}-wav" for code in missing)
        raise DataNotFound(
            f"speech: {directory} has no folder for {', '.join(missing)}. On Debian: apt-get install {packages}"
        )
    return folders


@functools.lru_cache(maxsize=2)
def _recordings(directory: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mel [n, 32, 16, 1], contour [n, 32, 2] and labels [n] of all recordings with sound, in order of names."""
    folders = _folders(directory)
    clips = [
        (*modalities(clip), label)
        for label, code in enumerate(LANGUAGES)
        for path in sorted(path for folder in folders[code] for path in folder.rglob("*.wav"))
        if (clip := speech_of(read(path))) is not None
    ]
    mel, contour, labels = zip(*clips, strict=True)
    return np.stack(mel), np.stack(contour), np.array(labels, np.int32)


def read(path: Path) -> np.ndarray:
    """Reads the first three seconds as float32 [samples] in -1..1. ValueError unless 16 bit, mono, 8 kHz."""
    with wave.open(str(path)) as file:
        form = file.getsampwidth(), file.getnchannels(), file.getframerate()
        if form != (2, 1, RATE):
            raise ValueError(f"{path}: expected 2 bytes, 1 channel, {RATE} Hz, got {form}")
        return np.frombuffer(file.readframes(LONGEST), "<i2").astype(np.float32) / 32768


def speech_of(samples: np.ndarray, shortest: int = LENGTH // 3) -> np.ndarray | None:
    """Cuts out 1.06 seconds from where the sound first reaches 5 % of its peak, padded with 0.

    Returns None for silence, and where fewer samples than `shortest` are left.
    """
    size = np.abs(samples)
    peak = size.max(initial=0)
    if peak < 0.01:
        return None
    clip = samples[np.argmax(size > 0.05 * peak) :][:LENGTH]
    return np.pad(clip, (0, LENGTH - len(clip))) if len(clip) >= shortest else None


def modalities(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes log mel energies [32, 16, 1], and (log energy, zero crossings a sample) [32, 2], float32, of a clip."""
    frames = np.lib.stride_tricks.sliding_window_view(clip, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    mel = np.log(power @ mel_filters() + 1e-6)[..., None]
    crossings = (np.diff(np.signbit(frames), axis=1)).mean(1)
    energy = np.log((frames**2).mean(1) + 1e-6)
    return mel.astype(np.float32), np.stack([energy, crossings], 1).astype(np.float32)


@functools.cache
def mel_filters() -> np.ndarray:
    """Returns [frequencies, bands]: triangles with corners equally spaced on the mel scale from 60 to 3,800 Hz."""
    frequency = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, 3800))
    corner = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    left, middle, right = corner[:-2], corner[1:-1], corner[2:]
    return np.clip(np.minimum((frequency - left) / (middle - left), (right - frequency) / (right - middle)), 0, None)
