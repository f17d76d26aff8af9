"""Speech in noise, made: where in a clip of two seconds is somebody speaking? image float32 [n, samples, 1, 1], 8 kHz.

Half of the speech are telephone prompts (people: data/speech.py), half sentences of espeak-ng and flite (synthetic:
data/spoken.py). Where a clip speaks is measured on the speech before noise is added: labels int32 [n, windows] of 256
samples, 1 for speech. Prompts, voices and sentences of the splits differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_jax.data import speech, spoken
from kd_jax.data.arrays import in_memory
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import Source, Splits
from kd_jax.models.speech.voice_activity import WINDOW
from kd_jax.ranges import COUNT, check_numbers

FIELDS: dict[str, Any] = dict(utterances=(400, 60, 120), samples=16384, prompts="")
LONGEST = 1.4  # seconds of speech in a clip
LOUD = 0.05  # a window speaks where its loudness is more than this share of the loudest window's
DECIBELS = (0.0, 20.0)  # speech is so much louder than noise


def clips(config: Mapping[str, Any]) -> Splits:
    """Loads clips: one word or sentence somewhere in noise that is white, brown or the hum of mains.

    Beside DEFAULTS it reads `utterances` (train, validation, test), `samples`, and `prompts`, the folder of the prompts
    ("": where Debian puts them); `directory` is as that of data/spoken.py. DataNotFound where recordings or programs
    are missing, ValueError for clips too short for speech.
    """
    fields = {**DEFAULTS, **FIELDS, **config}
    check_numbers("data", fields, {"samples": COUNT})
    counts, samples, seed = spoken.counts_of(fields), fields["samples"], fields["split_seed"]
    if samples < (LONGEST + 0.2) * speech.RATE:
        raise ValueError(f"data.samples={samples}: clips hold {LONGEST} s of speech and noise around it.")
    people = speech.by_split(fields["prompts"], seed)
    longest = int(LONGEST * speech.RATE)

    def make(split: str, count: int) -> Source:
        rng = np.random.default_rng((seed, spoken.SPLITS.index(split), 4))
        machines = spoken.drawn(split, (count + 1) // 2, longest, 10**6, seed, fields["directory"])
        prompts = [people[split][i][0] for i in rng.integers(len(people[split]), size=count // 2)]
        voices = [recording for _, recording in machines] + prompts
        waves, labels = zip(*(mixed(voice[:longest], samples, rng) for voice in voices), strict=True)
        names = tuple(f"{1000 * i * WINDOW // speech.RATE} ms" for i in range(samples // WINDOW))
        return in_memory(
            "clips",
            split,
            np.stack(waves)[..., None, None],
            np.stack(labels),
            class_names=names,
            mean=(0.0,),
            std=(1.0,),
            fields={"person": (np.arange(count) >= len(machines)).astype(np.int32)},
            levels={"person": ("synthetic", "person")},
        )

    return Splits(*map(make, spoken.SPLITS, counts))


def mixed(voice: np.ndarray, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns (a clip float32 [samples], which of its windows speak int32 [samples // 256]) of a voice in noise."""
    clean = np.zeros(samples)
    start = rng.integers(samples - len(voice) + 1)
    clean[start : start + len(voice)] = voice / np.abs(voice).max()
    windows = clean[: samples // WINDOW * WINDOW].reshape(-1, WINDOW)
    loudness = np.sqrt((windows**2).mean(1))
    speaking = loudness > LOUD * loudness.max()
    near = np.pad(speaking, 2)
    closed = speaking | ((near[1:-3] | near[:-4]) & (near[3:-1] | near[4:]))  # a stop of a word is no silence
    noise = _noise(samples, rng)
    ratio = 10 ** (rng.uniform(*DECIBELS) / 20)
    noise *= np.sqrt((windows[speaking] ** 2).mean()) / (np.sqrt((noise**2).mean()) * ratio)
    clip = clean + noise
    return (0.5 * clip / np.abs(clip).max()).astype(np.float32), closed.astype(np.int32)


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    kind, white = rng.integers(3), rng.normal(size=samples)
    if kind == 0:
        return white
    if kind == 1:
        brown = np.cumsum(white)
        smooth = np.convolve(brown, np.ones(200) / 200, "same")  # what a loudspeaker cannot play
        return brown - smooth
    time = 2 * np.pi * rng.choice([50.0, 60.0]) * np.arange(samples) / speech.RATE
    return sum((np.sin(k * time + rng.uniform(0, 6)) / k for k in range(1, 6)), 0.05 * white)
