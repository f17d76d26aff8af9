"""From encoded pictures in random access (files, tar shards, tables) to sources. No JAX: worker processes import this.

Pictures of one size, or cut in one way, are decoded once into memory where they fit; others are read, decoded and cut
by Grain's workers, each a function of (seed, example, view).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from kd_jax.data import splits
from kd_jax.data.images import pictures
from kd_jax.data.images.prepared import MEMORY_BYTES, STATISTICS, TEST_SEED
from kd_jax.data.source import Example, Source, Splits
from kd_jax.files import digest
from kd_jax.resolve import near

ON_ERROR = ("raise", "skip")
CONTENT_BYTES = 1 << 30  # of files up to this size together the bytes are hashed, else names, sizes and times
SHOWN = 3  # pictures that are named where more are meant


class Records(Protocol):
    """Encoded pictures by number: their bytes, and what a message calls them."""

    def read(self, index: int) -> bytes: ...

    def place(self, index: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class Options:
    """What is made of a picture: its size (0 = as it is), how it is cut, its channels, and what a broken one does."""

    image_size: int = 0
    crop: str = "random"
    channels: int = 3
    on_error: str = "raise"

    def __post_init__(self) -> None:
        pictures.check_crop(self.crop)
        if self.crop != "random" and not self.image_size:
            raise ValueError(f"data.crop={self.crop!r} has no effect: data.image_size=0 takes pictures as they are.")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels is 3 (RGB) or 1 (grey), not {self.channels}.")
        if self.on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={self.on_error!r}. {near(self.on_error, ON_ERROR)}")


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """The pictures of a split: their records by `numbers`, labels [n, ...] and further fields {name: [n, ...]}."""

    records: Records
    numbers: np.ndarray
    labels: np.ndarray
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray) -> Encoded:
        fields = {name: values[rows] for name, values in self.fields.items()}
        return Encoded(self.records, self.numbers[rows], self.labels[rows], fields)

    def picture(self, index: int, channels: int) -> Image.Image:
        """Returns the decoded picture; ValueError that names it where it is broken."""
        number = int(self.numbers[index])
        try:
            return pictures.decode(self.records.read(number), channels)
        except (ValueError, OSError) as e:
            raise ValueError(f"{self.records.place(number)}: {e}") from e


def splits_of(
    name: str,
    encoded: Mapping[str, Encoded],
    class_names: Sequence[str],
    options: Options,
    *,
    test: float,
    stamp: Callable[[], str],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Splits:
    """Returns the sources of "train", "test" and maybe "validation".

    Without "test" the validation pictures take its place, as ImageNet's do; without both, the fraction `test` of train
    does, stratified and always the same. `mean` and `std` are measured on the training pictures in memory, and those of
    ImageNet where they are streamed; `stamp()` is then the digest of their files. Raises ValueError where a picture is
    broken, sizes differ, or a split is empty.
    """
    encoded = {split: _checked(name, split, one, options) for split, one in encoded.items()}
    if "test" not in encoded and "validation" in encoded:
        print(f"{name}: its validation pictures are the test split: there are no others")
        encoded["test"] = encoded.pop("validation")
    if "test" not in encoded:
        encoded = _with_test(name, encoded["train"], test)
    made = {split: _content(name, split, one, options) for split, one in encoded.items()}
    _check_sizes(name, {split: image_shape for split, (image_shape, _) in made.items()})
    statistics = _statistics(name, made["train"][1].get("images"), options.channels, mean, std)
    sources = {}
    behind = "" if all("images" in content for _, content in made.values()) else stamp()
    for split, one in encoded.items():
        shape, content = made[split]
        facts: dict[str, Any] = {"num_classes": len(class_names), "class_names": tuple(class_names), **statistics}
        facts |= {"labels": one.labels, "fields": one.fields, "image_shape": shape}
        if "images" not in content:
            facts["stamp"] = behind
        sources[split] = Source(name=name, split=split, **facts, **content)
    return Splits(sources["train"], sources.get("validation"), sources["test"])


def _statistics(
    name: str,
    images: np.ndarray | None,
    channels: int,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> dict[str, tuple[float, ...]]:
    measured = _imagenet(channels) if images is None else _moments(images)
    statistics = {"mean": mean or measured[0], "std": std or measured[1]}
    for what, values in statistics.items():
        if len(values) != channels:
            raise ValueError(f"{name}: {what} has {len(values)} values for {channels} channels.")
    return statistics


def _check_sizes(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    train = shapes["train"]
    for split, shape in shapes.items():
        if shape != train:
            raise ValueError(
                f"{name}: the pictures of {split} are {shape[1]}x{shape[0]}, those of train "
                f"{train[1]}x{train[0]}: data.image_size says what to make of them."
            )


def _with_test(name: str, train: Encoded, share: float) -> dict[str, Encoded]:
    rest, held = splits.hold_out(splits.strata(train.labels), share, TEST_SEED)
    if not len(rest) or not len(held):
        raise ValueError(
            f"{name} has no test split of its own, and data.test={share} of its {len(train)} pictures holds out "
            f"{len(held)} and leaves {len(rest)} to train on."
        )
    return {"train": train.take(rest), "test": train.take(held)}


def _checked(name: str, split: str, encoded: Encoded, options: Options) -> Encoded:
    """Without the pictures that cannot be decoded, where they are to be left out: all are decoded once to know."""
    if options.on_error == "raise":
        return encoded
    with ThreadPoolExecutor() as threads:
        flaws = list(threads.map(functools.partial(_flaw, encoded, options.channels), range(len(encoded))))
    rows = np.array([flaw is None for flaw in flaws])
    broken = [flaw for flaw in flaws if flaw]
    shown = "; ".join(broken[:SHOWN]) + (f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else "")
    said = f"are broken and left out: {shown}" if broken else "are broken"
    print(f"{name}/{split}: {len(broken)} of {len(encoded)} pictures {said}")
    if not rows.any():
        raise ValueError(f"{name}/{split}: none of {len(encoded)} pictures can be decoded: {broken[0]}")
    return encoded.take(np.flatnonzero(rows))


def _flaw(encoded: Encoded, channels: int, index: int) -> str | None:
    try:
        encoded.picture(index, channels)
    except ValueError as e:
        return str(e)
    return None


def _content(name: str, split: str, encoded: Encoded, options: Options) -> tuple[tuple[int, ...], dict[str, Any]]:
    """(shape of a picture, the source's `images` or `fetch`)."""
    if not len(encoded):
        raise ValueError(f"{name}/{split} has no examples")
    size, varies = options.image_size, options.image_size and options.crop == "random"
    width, height = (size, size) if size else encoded.picture(0, options.channels).size
    shape = (height, width, options.channels)
    fetch = functools.partial(_fetch, encoded, options)
    if not varies and len(encoded) * math.prod(shape) <= MEMORY_BYTES:
        images = np.empty((len(encoded), *shape), np.uint8)

        def decode(index: int) -> None:
            image = fetch(index, None, 0)["image"]
            _check_size(name, encoded, index, image.shape, shape)
            images[index] = image

        with ThreadPoolExecutor() as threads:
            list(threads.map(decode, range(len(encoded))))
        return shape, {"images": images}
    if not size:

        def check(index: int) -> None:  # of the header alone
            width, height = _size(encoded.records, int(encoded.numbers[index]))
            _check_size(name, encoded, index, (height, width, options.channels), shape)

        with ThreadPoolExecutor() as threads:
            list(threads.map(check, range(len(encoded))))
    return shape, {"fetch": fetch, "size": len(encoded)}


def _size(records: Records, number: int) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(records.read(number))) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as e:
        raise ValueError(f"{records.place(number)}: it cannot be decoded: {e}") from e


def _check_size(name: str, encoded: Encoded, index: int, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    if tuple(shape) != first:
        places = (encoded.records.place(int(encoded.numbers[i])) for i in (0, index))
        raise ValueError(
            f"{name}: pictures differ in size, {next(places)} is {first[1]}x{first[0]} and {next(places)} is "
            f"{shape[1]}x{shape[0]}: data.image_size must say what to make of them."
        )


def _fetch(encoded: Encoded, options: Options, index: int, view: int | None, seed: int) -> Example:
    picture = encoded.picture(index, options.channels)
    return {"image": pictures.cut(picture, options.image_size, options.crop, index, view, seed)}


def _imagenet(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = STATISTICS["imagenet2012"]
    return (mean, std) if channels == 3 else ((sum(mean) / 3,), (sum(std) / 3,))


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel of uint8 images / 255, from counts: exact, and without a float copy."""
    values = np.arange(256) / 255
    channels = [images[..., c].reshape(-1) for c in range(images.shape[-1])]
    counts = [np.bincount(channel, minlength=256) / channel.size for channel in channels]
    means = [float(share @ values) for share in counts]
    deviations = [math.sqrt(share @ (values - mean) ** 2) for share, mean in zip(counts, means, strict=True)]
    return tuple(means), tuple(d if d > 1e-6 else 1.0 for d in deviations)


def stamp_of(files: Sequence[Path], root: Path) -> str:
    """Returns a digest of files, by their names below `root` and their bytes.

    Above CONTENT_BYTES together, sizes and times of change stand for the bytes.
    """
    facts = [os.stat(path) for path in files]
    whole = sum(fact.st_size for fact in facts) <= CONTENT_BYTES
    if whole:
        with ThreadPoolExecutor() as threads:  # hashing leaves Python's lock alone
            contents = list(threads.map(digest, files))
    else:
        contents = [f"{fact.st_size} {fact.st_mtime_ns}" for fact in facts]
    total = hashlib.sha256()
    for path, content in zip(files, contents, strict=True):
        total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()
