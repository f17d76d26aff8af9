"""`Source`, one split of a data set: it holds numpy arrays, or reads one example at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from kd_jax.data.answers import Answers

Example = dict[str, Any]
Fetch = Callable[[int, int | None, int], Example]
BATCH = ("label", "labelled", "index", "view", "mask", "target")


class Origin(NamedTuple):
    """Where the examples of a subset stood in the split that was read: its name and size, and their rows there."""

    split: str
    size: int
    rows: np.ndarray


class DataNotFound(FileNotFoundError):
    """The data are not on this machine; the message names them, the folders that were searched, and how to get them."""


class FromText(NamedTuple):
    """How texts become the entries of examples: `entries(texts, tokenizer) -> {"tokens": [n, L], ...}`.

    `entries` is a function that can be imported, or a partial of one, and `tokenizer` the content of a tokenizer.json:
    an export holds both.
    """

    entries: Callable[[Sequence[str], str], Mapping[str, np.ndarray]]
    tokenizer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One split of a data set, in random access: `len(source)` examples, numbered from 0.

    `images` ([n, H, W, C] uint8, or float32 images or [n, d] features as they are) of a set in memory;
    a streamed set has `fetch(index, view, seed) -> {"image", "label"}` instead, and `size`. What a fetch draws
    (a random crop) is a function of its three arguments, and with `view=None`, in evaluation, it draws nothing.
    `labels` is an array [n, ...] of int32 or float32: the number of a class, 0 or 1 for each of several, coordinates, a
    transcript, a mask; -1, or nan among floats, where there is none. It is None for a streamed set of which nobody
    needed all labels; then each comes with its example. `num_classes` is the number of outputs that a network needs.
    `mean` and `std` are per channel, of uint8 images divided by 255 and of float values as they are. `fields` are
    further arrays [n, ...] in memory (another modality, the number of a node, ...), each in a batch under its name;
    `levels` names what the numbers 0, 1, ... of a field mean, where it says to which group an example belongs.
    `answers` are stored outputs of frozen teachers, by role (kd_jax/data/answers.py), each field in a batch as
    "<role>/<field>". `origin` says where the examples of a subset come from, and `stamp` is the digest of the files
    behind a streamed set.

    Text: with `entry="tokens"` the main array holds token ids, int32 [n, L], and a batch has `tokens` in place of
    `image`. Where every token has a target `labels` is integer [n, M], -1 where none is counted (padding, a prompt),
    and `num_classes` the size of the vocabulary; everything that reads labels then counts tokens. `decode` turns ids
    into text for a report, `end` is the token that ends a text, or several, and `texts` is how a text became its
    tokens. Where such a set is streamed, `token_labels` says that the labels, which it does not have at hand, are those
    of tokens, `unanswered` that there are none (prompts alone), and `fetch` returns its further fields too.
    `environment` is where the examples are episodes (kd_jax/data/environments.py); `columns` says how those of a table
    become the features (kd_jax/data/tables.py), so that a loaded network can be asked about further rows.
    """

    name: str
    split: str
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_shape: tuple[int, ...]
    labels: np.ndarray | None
    images: np.ndarray | None = None
    fetch: Fetch | None = None
    size: int = 0
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    entry: str = "image"
    decode: Callable[[Iterable[SupportsIndex]], str] | None = None
    end: int | tuple[int, ...] | None = None
    answers: Mapping[str, Answers] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None
    stamp: str = ""
    texts: FromText | None = None
    token_labels: bool = False
    unanswered: bool = False
    levels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    environment: Any = None
    columns: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "labels", as_labels(self.labels))
        if (self.images is None) == (self.fetch is None):
            raise ValueError(f"{self.name}/{self.split}: a source has either images or fetch")
        if self.images is not None and self.labels is None:
            raise ValueError(f"{self.name}/{self.split}: a source in memory needs labels (-1 where there is none)")
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(f"{self.name}/{self.split}: {len(self)} examples, but {len(self.labels)} labels")
        for name, values in self.fields.items():
            if len(values) != len(self) or name in (self.entry, *BATCH):
                raise ValueError(
                    f"{self.name}/{self.split}: field {name!r} has {len(values)} rows for {len(self)} examples, "
                    f"or the name of one that every batch has: {', '.join((self.entry, *BATCH))}"
                )
        if self.images is not None and self.entry != "image" and self.images.dtype != np.int32:
            raise ValueError(f"{self.name}/{self.split}: {self.entry} are int32, not {self.images.dtype}")

    def __len__(self) -> int:
        return self.size if self.images is None else len(self.images)

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """Returns bool [n]: which examples have a label, or a token that has one."""
        if self.labels is None:
            return np.full(len(self), not self.unanswered)
        return has_label(self.labels, each=False)

    @property
    def per_token(self) -> bool:
        """Returns whether the labels are those of tokens."""
        labels = self.labels
        if labels is None:
            return self.token_labels
        return self.entry == "tokens" and labels is not None and labels.ndim == 2 and labels.dtype == np.int32

    @property
    def per_pixel(self) -> bool:
        """Returns whether the labels are masks: an integer at every pixel of images in memory."""
        return self.entry == "image" and self.labels is not None and are_masks(self.labels, self.image_shape)

    @property
    def per_place(self) -> bool:
        """Returns whether every token or pixel has a label of its own, or none."""
        return self.per_token or self.per_pixel

    @property
    def noun(self) -> str:
        """Returns what a report calls an example; a series over time [length, 1, channels] is no image."""
        if self.entry != "image":
            return "sequence"
        return "image" if len(self.image_shape) == 3 and self.image_shape[1] > 1 else "example"

    def in_memory(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels of all examples; ValueError where they are fetched one by one."""
        if self.images is None or self.labels is None:
            raise ValueError(f"{self.name}/{self.split} is fetched example by example; expected a set in memory")
        return self.images, self.labels

    def with_labels(self, labels: np.ndarray) -> Source:
        """Returns the same examples with other labels."""
        return dataclasses.replace(self, labels=labels)

    def example(self, index: int, view: int | None = None, seed: int = 0) -> Example:
        """Returns one example as numpy arrays. A label that is hidden in `labels` stays hidden for a streamed set."""
        if self.fetch is not None:
            fetched = self.fetch(index, view, seed)
            label = fetched["label"] if self.labels is None else self.labels[index]
            more = {name: fetched[name] for name in fetched if name not in (self.entry, "label")}
            return {self.entry: fetched[self.entry], "label": as_labels(label), **more, **self._fields_of(index)}
        images, labels = self.in_memory()
        return {self.entry: images[index], "label": labels[index], **self._fields_of(index)}

    def _fields_of(self, index: int) -> Example:
        return {name: values[index] for name, values in self.fields.items()}

    def batch(self, count: int) -> Example:
        """Returns the first `count` examples as a batch, before Scheme.prepare."""
        rows = [self.example(i) for i in range(count)]
        fields = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        number = np.arange(count, dtype=np.int32)
        labelled = has_label(fields["label"], self.per_place)
        batch = fields | {"labelled": labelled, "index": number, "view": np.zeros_like(number)}
        for role, answers in self.answers.items():
            batch |= {f"{role}/{name}": rows for name, rows in answers.read(number, batch["view"]).items()}
        return batch


def as_labels(labels: Any) -> np.ndarray:
    """Returns labels as they are stored: float32 or int32."""
    labels = np.asarray(labels)
    return labels.astype(np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int32)


def are_masks(labels: np.ndarray, image_shape: tuple[int, ...]) -> bool:
    """Returns whether labels are integers [n, H, W], and images [n, H, W, C]."""
    pixels = len(image_shape) == 3 and labels.ndim == 3 and labels.shape[1:] == image_shape[:2]
    return pixels and np.issubdtype(labels.dtype, np.integer)


def has_label(labels: Any, each: bool) -> Any:
    """Returns bool [batch], or where `each` token or pixel has its own the shape of the labels: is there a label?

    That is any value but -1 or nan.
    """
    there = labels == labels if np.issubdtype(labels.dtype, np.floating) else labels >= 0
    return there if each or there.ndim == 1 else there.reshape(len(there), -1).any(1)


class Splits(NamedTuple):
    """The sources of a data set; `validation` is None where nothing was held out."""

    train: Source
    validation: Source | None
    test: Source


def subset(source: Source, rows: np.ndarray, split: str = "") -> Source:
    """Returns the examples `rows` of a source, numbered from 0 again, without the answers of teachers."""
    rows = np.asarray(rows)
    before = source.origin or Origin(source.split, len(source), np.arange(len(source)))
    origin, split = before._replace(rows=before.rows[rows]), split or source.split
    labels = None if source.labels is None else source.labels[rows]
    fields = {name: values[rows] for name, values in source.fields.items()}
    changed: dict[str, Any] = dict(split=split, labels=labels, fields=fields, origin=origin, answers={})
    if source.images is not None:
        return dataclasses.replace(source, images=source.images[rows], **changed)
    fetch = functools.partial(_fetch_row, source.fetch, rows)
    return dataclasses.replace(source, fetch=fetch, size=len(rows), **changed)


def _fetch_row(fetch: Fetch, rows: np.ndarray, index: int, view: int | None, seed: int) -> Example:
    return fetch(int(rows[index]), view, seed)
