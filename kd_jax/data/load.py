"""`load(config.data)`: the splits of a data set by its name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from kd_jax.data import arrays, several_environments, splits
from kd_jax.data.images import arrow, cifar, folder, idx, prepared, shards
from kd_jax.data.source import Source, Splits, subset
from kd_jax.data.text import corpus, pairs, pronunciations, topk
from kd_jax.files import path_of
from kd_jax.ranges import BELOW_ONE, COUNT, NOT_NEGATIVE, SHARE, check_numbers
from kd_jax.resolve import near, resolve

TEXTS = {"text": corpus, "pairs": pairs, "pronunciations": pronunciations, "topk": topk}
PICTURES = {"folder": folder, "webdataset": shards, "hf_dataset": arrow}
IMAGES = ("digits", "fashion_mnist", "mnist", "cifar10", "cifar100", "imagenet2012", "arrays")
NAMES = (*IMAGES, *PICTURES, *TEXTS)
# What other tools call the doors.
MEANT = {
    **dict.fromkeys(("imagefolder", "image_folder", "images", "directory", "csv", "jsonl", "files"), "folder"),
    **dict.fromkeys(("wds", "tar", "tars", "shards"), "webdataset"),
    **dict.fromkeys(("hf", "huggingface", "datasets", "arrow", "hf_datasets", "load_from_disk"), "hf_dataset"),
}
CONVERSATIONS = "data.text.conversations.load"
CROSS = "data.text.cross.load"
_RECORDS = (
    *("test", "validation", "split_seed", "length", "tokenizer", "packing", "path", "eval_path"),
    *("template", "chat", "loss_on", "truncation", "prompt_length", "cache"),
)
_TOKENS = ("test", "validation", "split_seed", "length", "directory")
# The fields that say how the data of a name are read; those of "module:function" are what it takes of its config.
READING: dict[str, tuple[str, ...]] = {
    "digits": ("test",),
    "arrays": ("directory",),
    **dict.fromkeys(idx.SETS, ("directory",)),
    **dict.fromkeys(cifar.SETS, ("directory", "download")),
    "imagenet2012": ("directory", "image_size", "test"),
    **dict.fromkeys(PICTURES, ("directory", "image_size", "crop", "channels", "test", "on_error")),
    "text": (*_TOKENS, "tokenizer", "vocabulary", "packing"),
    "pairs": (*_TOKENS, "tokenizer", "vocabulary", "rationale"),
    "pronunciations": _TOKENS,
    "gymnax": (),
    "topk": ("test", "validation", "split_seed", "directory", "tokenizer"),
    CONVERSATIONS: _RECORDS,
    CROSS: (*_RECORDS, "teacher_tokenizer"),
}
# The fields that act on whatever was read, also on the data that are handed over as an object.
SHAPING = (
    *("split_seed", "validation", "train_slice", "limit", "labels", "label_seed", "classes"),
    *("label_noise", "eval_limit"),
)

DEFAULTS: dict[str, Any] = {
    "name": "digits",
    "directory": "",  # "" = $KD_JAX_DATA, ~/tensorflow_datasets, ~/.cache/kd_jax, system package folders
    "download": False,  # CIFAR only
    "split_seed": 0,  # it alone decides which example is in which split
    "validation": 0.0,  # fraction of train, stratified; ignored where the data come with a validation split
    "test": 0.2,  # stratified and fixed, for data without a test split of their own (digits)
    "train_slice": (0, 0),  # rows of the shuffled train split, such as (0, 20000); (a, 0) = from a on
    "limit": 0,  # train on at most N of them, the first; 0 = all
    "labels": 0,  # keep the labels of N training examples, balanced; 0 = all
    "label_seed": 0,  # which N
    "classes": (),  # train on the examples of these classes only, numbered as before; () = all
    "label_noise": 0.0,  # this share of the labels of train is replaced by another class, drawn by label_seed
    "eval_limit": 0,  # evaluate on at most N examples of the validation and N of the test split; 0 = all
    "length": 128,  # tokens a row (text); documents are never in two splits: validation and test are shares of them
    "tokenizer": "character",  # character | bpe (learned from the training split) | a tokenizer.json
    "vocabulary": 1024,  # tokens of bpe
    "packing": "packed",  # packed: several documents a row, one segment each | padded: one a row
    "path": "",  # conversations: a file of records or a folder of them; data.tokenizer is a model's folder
    "eval_path": "",  # of the test split; "" = data.test of the records of `path`
    "teacher_tokenizer": "",  # of data.text.cross.load: the folder of a teacher with another tokenizer
    "template": "",  # a file with another chat template than the tokenizer's own
    "chat": False,  # a plain prompt is what a user says, its completion what an assistant answers, by the template
    "loss_on": "answers",  # of conversations: answers (of every turn) | last | all
    "truncation": "",  # right | left (the side that is cut) | drop; "" = right, and texts go on in further rows
    "prompt_length": 0,  # tokens of a prompt alone, of which longer ones are cut; 0 = half of length
    "cache": "",  # where conversations are kept as tokens; "" = ~/.cache/kd_jax/tokens
    "rationale": "none",  # of pairs: none | first (then the answer) | task (beside the answer, told apart by a prefix)
    "image_size": 0,  # streamed images are cropped and resized to it; 0 = as they are (imagenet2012: 224)
    "crop": "random",  # random (a part in training, the centre in evaluation) | centre | whole: resized as it is
    "channels": 3,  # of pictures in files: 3 (RGB) or 1 (grey)
    "on_error": "raise",  # raise | skip: leave out the pictures that are broken, and say how many
}

RANGES = {
    "validation": BELOW_ONE,
    "test": BELOW_ONE,
    "label_noise": SHARE,
    **dict.fromkeys(("length", "vocabulary"), COUNT),
    **dict.fromkeys(
        ("split_seed", "label_seed", "limit", "labels", "eval_limit", "image_size", "prompt_length"), NOT_NEGATIVE
    ),
}


def load(config: Mapping[str, Any]) -> Splits:
    """Loads the splits of `config.name`: one of NAMES, "tfds:NAME", "gymnax:NAME" or "module:function" (-> Splits).

    In this order: validation is held out of train; train is sliced, limited and cut down to `classes`; labels are
    hidden (-1); some of the others are made wrong.
    Held-out rows depend on `split_seed` alone, so they are the same for every slice, limit and number of labels.
    Missing fields have the value of DEFAULTS. Raises DataNotFound at once where the data are not on this machine, and
    ValueError for an unknown name or field, for one that these data do not have, for a number outside of RANGES, and
    where a split is left empty.
    """
    fields = _fields(config)
    _check_reading(fields)
    return shaped(_open(fields, config), config)


def shaped(whole: Splits, config: Mapping[str, Any]) -> Splits:
    """Applies the fields SHAPING to splits that were read: `load` says in which order.

    Raises ValueError where they do not fit, such as a share to hold out of data with a validation split of their own.
    """
    fields = _fields(config)
    if whole.validation is not None and fields.validation and "validation" not in _reads(fields.name):
        raise ValueError(
            f"data.validation={fields.validation} holds examples out of train, and {whole.train.name} has a validation "
            f"split of its own, of {len(whole.validation)} examples: set data.validation=0."
        )
    whole = arrays.held_out(whole, fields.validation, fields.split_seed)
    train = whole.train
    rows = _rows(len(train), fields)
    if len(rows) < len(train):
        train = subset(train, rows)
    if fields.classes:
        train = _of_classes(train, tuple(fields.classes))
    if fields.labels:
        seeds = (fields.split_seed, fields.label_seed)
        if train.labels is not None and not train.per_token and not _are_classes(train.labels):
            labels = splits.keep_any(train.labels, train.labelled, fields.labels, seeds)
        else:
            labels = splits.keep_labels(_class_labels(train, "labels"), fields.labels, train.num_classes, seeds)
        train = train.with_labels(labels)
    if fields.label_noise:
        train = train.with_labels(
            splits.wrong_labels(
                _class_labels(train, "label_noise"), fields.label_noise, train.num_classes, fields.label_seed
            )
        )
    evaluated = [_few(source, fields) for source in (whole.validation, whole.test)]
    return Splits(train, *evaluated)


def replaced(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `config` that say what is read and how, where they are not the defaults."""
    return {k: config[k] for k, v in DEFAULTS.items() if k not in SHAPING and k in config and not _same(config[k], v)}


def check_seeds(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a seed of the data from which nothing is drawn."""
    fields = _fields(config)
    if fields.label_seed and not (fields.labels or fields.label_noise):
        raise ValueError(
            f"data.label_seed={fields.label_seed} chooses which labels are kept or made wrong, and data.labels and "
            "data.label_noise are 0."
        )
    drawing = ("validation", "limit", "labels", "eval_limit")
    draws = any(getattr(fields, k) for k in drawing) or tuple(fields.train_slice) != (0, 0)
    if fields.split_seed and not draws and "split_seed" not in _reads(fields.name):
        raise ValueError(
            f"data.split_seed={fields.split_seed} decides which example is in which split, and of {fields.name} "
            f"nothing is divided: data.{', data.'.join(drawing)} and data.train_slice are 0."
        )


def _reads(name: str) -> tuple[str, ...]:
    """The fields that reading the data of a name takes."""
    if name.startswith("tfds:"):
        return READING["imagenet2012"]
    if name.startswith("gymnax:"):
        return READING["gymnax"]
    return READING.get(name, tuple(DEFAULTS) if _names_function(name) else ())


def _names_function(name: str) -> bool:
    return ":" in name or "." in name


def _same(value: Any, default: Any) -> bool:
    return tuple(value) == default if isinstance(default, tuple) else value == default


def _check_reading(fields: SimpleNamespace) -> None:
    """Raises ValueError for a field that the data of this name do not read."""
    reads = _reads(fields.name)
    for key, value in DEFAULTS.items():
        if key in ("name", *SHAPING) or key in reads or _same(getattr(fields, key), value) or not reads:
            continue
        having = [name for name, taken in READING.items() if key in taken]
        raise ValueError(
            f"data.{key}={getattr(fields, key)!r} has no effect on {fields.name}: it is of {', '.join(having)}."
        )
    if fields.name in ("text", "pairs") and fields.tokenizer != "bpe" and fields.vocabulary != DEFAULTS["vocabulary"]:
        raise ValueError(
            f"data.vocabulary={fields.vocabulary} is the number of tokens of 'bpe', and data.tokenizer is "
            f"{fields.tokenizer!r}."
        )


def _class_labels(source: Source, field: str) -> np.ndarray:
    if source.labels is None or source.per_token or not _are_classes(source.labels):
        raise ValueError(
            f"{source.name}: data.{field} needs a data set whose labels are all known, one an example: a class"
        )
    return source.labels


def _are_classes(labels: np.ndarray) -> bool:
    return labels.ndim == 1 and labels.dtype == np.int32


def _of_classes(source: Source, classes: tuple[int, ...]) -> Source:
    if not set(classes) <= set(range(source.num_classes)):
        raise ValueError(f"classes={classes}: {source.name} has the classes 0 to {source.num_classes - 1}")
    return subset(source, np.flatnonzero(np.isin(_class_labels(source, "classes"), classes)))


def _few(source: Source | None, fields: SimpleNamespace) -> Source | None:
    if source is None or not 0 < fields.eval_limit < len(source):
        return source
    return subset(source, np.sort(splits.shuffled(len(source), fields.split_seed)[: fields.eval_limit]))


def _fields(config: Mapping[str, Any]) -> SimpleNamespace:
    for key in config:
        near = difflib.get_close_matches(key, DEFAULTS, n=1, cutoff=0.75)
        if key not in DEFAULTS and near:  # others, such as batch_size, are read elsewhere
            raise ValueError(f"data has no field {key!r}; did you mean {near[0]!r}?")
    check_numbers("data", config, RANGES)
    fields = {key: config[key] if key in config else value for key, value in DEFAULTS.items()}
    # Each is a path, or a word such as "bible".
    for name in ("directory", "tokenizer", "teacher_tokenizer", "path", "eval_path", "template", "cache"):
        fields[name] = fields[name] and str(path_of(fields[name], f"data.{name}"))
    return SimpleNamespace(**fields)


def _open(fields: SimpleNamespace, config: Mapping[str, Any]) -> Splits:
    name = fields.name
    if name == "digits":
        return arrays.digits(fields.test)
    if name == "arrays":
        return arrays.from_npz(fields.directory)
    if name in TEXTS or name in PICTURES:
        return {**TEXTS, **PICTURES}[name].load(fields)
    if name in idx.SETS:
        return idx.load(name, fields.directory)
    if name in cifar.SETS:
        return cifar.load(name, fields.directory, download=fields.download)
    if name == "imagenet2012" or name.startswith("tfds:"):
        return _prepared(name.removeprefix("tfds:"), fields)
    if name.startswith("gymnax:"):
        return several_environments.named(name.removeprefix("gymnax:"))
    if not _names_function(name):
        raise ValueError(f"There is no data set {name!r}. {_meant(str(name))}")
    made = resolve(name)(config if ":" in name else vars(fields))  # of this package, with all the defaults
    if not isinstance(made, Splits):
        raise ValueError(f"{name} must return kd_jax.data.source.Splits, it returned {type(made).__name__}")
    return made


def _prepared(name: str, fields: SimpleNamespace) -> Splits:
    all_labels = bool(fields.labels or fields.validation or fields.classes or fields.label_noise)
    return prepared.load(name, fields.directory, fields.image_size, test=fields.test, all_labels=all_labels)


def _meant(name: str) -> str:
    """Which data the user probably meant by a name."""
    if meant := MEANT.get(name.lower().replace("-", "_")):
        return f"Did you mean data.name={meant!r}?"
    return near(name, (*NAMES, "tfds:NAME", "gymnax:NAME", "module:function"))


def _rows(n: int, fields: SimpleNamespace) -> np.ndarray:
    """Returns the sorted rows of train that are used; slices are of a shuffled order: files may be sorted by class."""
    start, stop = fields.train_slice
    stop = stop or n
    if not 0 <= start < stop <= n:
        raise ValueError(f"train_slice={tuple(fields.train_slice)} is not inside the {n} training examples")
    if fields.limit < 0:
        raise ValueError(f"limit={fields.limit} is negative")
    if fields.limit > n:  # no error, since ":tiny" limits whatever data there are
        print(f"data.limit={fields.limit}: there are no more than {n} training examples")
    rows = splits.shuffled(n, fields.split_seed)[start:stop]
    return np.sort(rows[: fields.limit or None])
