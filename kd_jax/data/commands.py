"""Spoken commands: words of a telephone menu, learned from synthetic voices and tested on recordings of a person.

The prompts of Asterisk (English: A. Smith, CC-BY-SA 3.0) have each word once, so that they are the test, and nothing
else: espeak-ng and flite (data/spoken.py) speak what is learned and what steps are chosen by, with other voices in
each. How well networks understand the person is thus how far they get from voices that nobody has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data.arrays import in_memory
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Source, Splits
from kd_jax.data.speech import FOLDER, read, speech_of
from kd_jax.data.spoken import VOICES, Line, spoken
from kd_jax.files import path_of

TEENS = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
UNITS = tuple(f"zero one two three four five six seven eight nine ten {TEENS}".split())
TENS = tuple("thirty forty fifty sixty seventy eighty ninety".split())
DAYS = tuple("sunday monday tuesday wednesday thursday friday saturday".split())
MONTHS = tuple("january february march april may june july august september october november december".split())
# Each word, and its file in the folder of the prompts.
WORDS: dict[str, str] = {
    **{word: f"digits/{i}.wav" for i, word in enumerate(UNITS)},
    **{word: f"digits/{10 * i}.wav" for i, word in enumerate(TENS, 3)},
    **{word: f"digits/day-{i}.wav" for i, word in enumerate(DAYS)},
    **{word: f"digits/mon-{i}.wav" for i, word in enumerate(MONTHS)},
    **{
        word: f"digits/{word}.wav"
        for word in "hundred thousand million billion dollars minus pound star today tomorrow yesterday".split()
    },
}
PEAK = 0.5  # of every recording
SPLITS = ("train", "validation")
SPOKEN = {"train": VOICES["train"], "validation": (*VOICES["validation"], *VOICES["test"])}


def commands(config: Mapping[str, Any]) -> Splits:
    """Loads words as waves: image float32 [n, 8448, 1, 1] at 8 kHz from where the sound begins, labels the word.

    Beside DEFAULTS it reads `utterances` (train, validation): every word in turn, by a voice, at a rate and a pitch
    that `split_seed` draws. The test is the prompts in the folder en_* of `directory`; "" is where Debian puts them.
    DataNotFound where prompts or programs are missing, ValueError where a split lacks a word.
    """
    fields = {**DEFAULTS, "utterances": (2320, 580), **config}
    counts = [int(n) for n in fields["utterances"]]
    if len(counts) != 2 or min(counts) < len(WORDS):
        raise ValueError(
            f"data.utterances is how many to train and validate with, each at least a word of {len(WORDS)}, "
            f"not {fields['utterances']!r}."
        )
    prompts = [read(path) for path in prompts_of(fields["directory"])]
    train, validation = (
        source_of(split, drawn(split, n, fields["split_seed"])) for split, n in zip(SPLITS, counts, strict=True)
    )
    return Splits(train, validation, source_of("test", prompts))


def prompts_of(directory: str) -> list[Path]:
    """Returns the file of each word; DataNotFound where there is no folder en_* in `directory` that has them all."""
    root = path_of(directory or FOLDER, "data.directory")
    for folder in sorted(root.glob("en_*")):
        paths = [folder / name for name in WORDS.values()]
        if all(path.is_file() for path in paths):
            return paths
    raise DataNotFound(
        f"commands: {root} has no folder en_* with the English prompts. On Debian: apt-get install "
        "asterisk-core-sounds-en-wav"
    )


def drawn(split: str, count: int, seed: int) -> list[np.ndarray]:
    """Returns `count` recordings of synthetic speech, every word in turn."""
    rng, voices, words = np.random.default_rng((seed, SPLITS.index(split))), SPOKEN[split], list(WORDS)
    lines = []
    for i in range(count):
        program, voice = voices[rng.integers(len(voices))]
        lines.append(
            Line(words[i % len(words)], program, voice, int(rng.integers(110, 190)), int(rng.integers(30, 71)))
        )
    return spoken(lines)


def clips_of(recordings: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what networks read of recordings [samples] in -1..1 at 8 kHz: float32 [n, 8448, 1, 1].

    That is the first 1.06 s of sound, followed by 0 where it is shorter, its largest sample PEAK. ValueError for
    silence.
    """
    clips = [speech_of(np.asarray(recording, np.float32), shortest=1) for recording in recordings]
    waves = [clip * (PEAK / np.abs(clip).max()) for clip in clips if clip is not None]
    if len(waves) < len(clips):
        silent = [i for i, clip in enumerate(clips) if clip is None]
        raise ValueError(f"commands: recording {silent[0]} of {len(clips)} (from 0) is silent.")
    return np.stack(waves)[..., None, None].astype(np.float32)


def source_of(split: str, recordings: Sequence[np.ndarray]) -> Source:
    """Makes a source of recordings that say every word in turn."""
    labels = np.arange(len(recordings)) % len(WORDS)
    return in_memory("commands", split, clips_of(recordings), labels, class_names=tuple(WORDS), mean=(0.0,), std=(1.0,))
