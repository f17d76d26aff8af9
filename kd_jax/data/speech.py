"""Recorded speech in two modalities: which of five languages is a telephone prompt in?

The prompts of Asterisk (CC-BY-SA 3.0 and CC-BY 3.0; A. Smith, J. Wallack, C. Carlo, M. Topal), 8 kHz, about 550 a
language. Each language is one voice (English and Spanish are the same one), so voices and recordings tell languages
apart too: numbers compare networks, they say little about language recognition.
"""

from __future__ import annotations

import dataclasses
import functools
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data.arrays import in_memory
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits, subset
from kd_jax.data.splits import hold_out

LANGUAGES = ("en", "es", "fr", "it", "ru")
FOLDER = "/usr/share/asterisk/sounds"
RATE, WINDOW, HOP, FRAMES, BANDS = 8000, 512, 256, 32, 16  # 1.06 s from where the sound begins
LONGEST = 3 * RATE  # of a recording that is read at all
TEST_SEED = 0


def languages(config: Mapping[str, Any]) -> Splits:
    """`image` float32 [n, 32, 16, 1], the log-mel spectrogram; field `contour` float32 [n, 32, 2], loudness and rate of
    zero crossings in the same 32 frames, standardised over train.

    `directory` holds a folder for each language, such as en_US_f_Allison; "" is where Debian puts them. A fixed
    stratified fraction `test` of the recordings is for testing.
    """
    fields = {**DEFAULTS, **config}
    mel, contour, labels = _recordings(fields["directory"] or FOLDER)
    kept, held = hold_out(labels, fields["test"], TEST_SEED)
    train = mel[kept]
    level, width = contour[kept].mean((0, 1)), contour[kept].std((0, 1))
    whole = in_memory("speech", "train", mel, labels, class_names=LANGUAGES, mean=(train.mean(),), std=(train.std(),))
    whole = dataclasses.replace(whole, fields={"contour": ((contour - level) / width).astype(np.float32)})
    return Splits(subset(whole, kept), None, subset(whole, held, "test"))


@functools.lru_cache(maxsize=2)
def _recordings(directory: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mel [n, 32, 16, 1], contour [n, 32, 2], labels [n]) of all recordings that hold sound, in the order of names."""
    folders = {code: sorted(Path(directory).glob(f"{code}_*")) for code in LANGUAGES}
    if missing := [code for code, found in folders.items() if not found]:
        packages = " ".join(f"asterisk-core-sounds-{code}-wav" for code in missing)
        raise DataNotFound(
            f"speech: {directory} has no folder for {', '.join(missing)}. On Debian: apt-get install {packages}"
        )
    found = [
        (*modalities(clip), label)
        for label, code in enumerate(LANGUAGES)
        for path in sorted(path for folder in folders[code] for path in folder.rglob("*.wav"))
        if (clip := speech_of(read(path))) is not None
    ]
    mel, contour, labels = zip(*found, strict=True)
    return np.stack(mel), np.stack(contour), np.array(labels, np.int32)


def read(path: Path) -> np.ndarray:
    """float32 [samples] in -1..1, the first three seconds. ValueError unless 16 bit, mono, 8 kHz."""
    with wave.open(str(path)) as file:
        form = file.getsampwidth(), file.getnchannels(), file.getframerate()
        if form != (2, 1, RATE):
            raise ValueError(f"{path}: expected 2 bytes, 1 channel, {RATE} Hz, got {form}")
        return np.frombuffer(file.readframes(LONGEST), "<i2").astype(np.float32) / 32768


def speech_of(samples: np.ndarray) -> np.ndarray | None:
    """1.06 seconds from where the sound first reaches 5 % of its peak, padded with 0; None for silence or less than a
    third of that."""
    length = WINDOW + HOP * (FRAMES - 1)
    size = np.abs(samples)
    peak = size.max(initial=0)
    if peak < 0.01:
        return None
    clip = samples[np.argmax(size > 0.05 * peak) :][:length]
    return np.pad(clip, (0, length - len(clip))) if len(clip) >= length // 3 else None


def modalities(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log mel energies [32, 16, 1], (log energy, zero crossings a sample) [32, 2]) of one clip, float32."""
    frames = np.lib.stride_tricks.sliding_window_view(clip, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    mel = np.log(power @ mel_filters() + 1e-6)[..., None]
    crossings = (np.diff(np.signbit(frames), axis=1)).mean(1)
    energy = np.log((frames**2).mean(1) + 1e-6)
    return mel.astype(np.float32), np.stack([energy, crossings], 1).astype(np.float32)


@functools.cache
def mel_filters() -> np.ndarray:
    """[frequencies, bands]: triangles whose corners are equally spaced on the mel scale from 60 to 3,800 Hz."""
    frequency = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, 3800))
    corner = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    left, middle, right = corner[:-2], corner[1:-1], corner[2:]
    return np.clip(np.minimum((frequency - left) / (middle - left), (right - frequency) / (right - middle)), 0, None)
