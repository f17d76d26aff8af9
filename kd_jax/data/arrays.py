"""Data that are arrays: those of the user, an .npz file, and the digits that scikit-learn ships."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data import splits
from kd_jax.data.source import DataNotFound, Source, Splits, are_masks, subset
from kd_jax.resolve import near

Pair = tuple[np.ndarray, np.ndarray]

DIGITS_MEAN, DIGITS_STD = (0.3053,), (0.3759,)  # of the uint8 images / 255; a test recomputes them
NO_CLASS = 255  # of a pixel, in files of masks
DIGITS_TEST_SEED = 0  # the test images are the same in every run


def in_memory(
    name: str,
    split: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    fields: Mapping[str, np.ndarray] | None = None,
    levels: Mapping[str, tuple[str, ...]] | None = None,
) -> Source:
    """Returns a source from checked arrays; integers [n] are classes, all other labels stay as they are."""
    images, labels = np.asarray(images), np.asarray(labels)
    where = f"{name}/{split}"
    if not len(images):
        raise ValueError(f"{where} has no examples")
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"{where}: images are uint8 in 0..255 or floats, got {images.dtype}")
        images = images.astype(np.float32)
        _require_finite(where, "images" if images.ndim == 4 else "features", images)
    if images.ndim not in (2, 4):
        raise ValueError(f"{where}: expected images [n, H, W, C] or features [n, d], got shape {images.shape}")
    _check_labels(where, labels, images.shape, len(class_names))
    if not (np.isfinite([*mean, *std]).all() and min(std, default=1) > 0):
        raise ValueError(f"{where}: mean and std are finite and std is above 0, got {tuple(mean)} and {tuple(std)}")
    if not len(mean) == len(std) == images.shape[-1]:
        raise ValueError(f"{where}: mean and std need {images.shape[-1]} values each, got {len(mean)} and {len(std)}")
    return Source(
        name=name,
        split=split,
        num_classes=len(class_names),
        class_names=tuple(class_names),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        image_shape=images.shape[1:],
        labels=labels,
        images=np.ascontiguousarray(images),
        fields=dict(fields or {}),
        levels=dict(levels or {}),
    )


def _check_labels(where: str, labels: np.ndarray, shape: tuple[int, ...], classes: int) -> None:
    """Raises ValueError unless images of this shape have one label each, and classes are 0..classes - 1, or -1."""
    count, numbers = shape[0], labels.ndim == 1 and labels.dtype.kind in "iu"
    if labels.shape[:1] != (count,):
        raise ValueError(f"{where}: {count} images need labels [{count}, ...], got {labels.shape}")
    if labels.dtype.kind not in "iufb":
        raise ValueError(f"{where}: labels are integers or floats, got {labels.dtype}")
    if (numbers or are_masks(labels, shape[1:])) and not (-1 <= labels.min() and labels.max() < classes):
        raise ValueError(f"{where}: labels are 0..{classes - 1} (-1 = none), got {labels.min()}..{labels.max()}")
    if labels.dtype.kind == "f" and np.isinf(labels).any():
        raise ValueError(f"{where}: labels are numbers, or nan for none, and some are infinite")


def _require_finite(where: str, what: str, values: np.ndarray) -> None:
    """Raises ValueError that says how many examples hold NaN or infinity, and which is the first."""
    wrong = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{where}: {len(wrong)} of {len(values)} {what} hold values that are not finite (NaN or infinity), the "
            f"first is number {wrong[0]}"
        )


def from_arrays(
    *,
    train: Pair,
    test: Pair,
    validation: float | Pair = 0.0,
    unlabelled: np.ndarray | None = None,
    names: Sequence[str] | int | None = None,
    fields: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    split_seed: int = 0,
    name: str = "arrays",
) -> Splits:
    """Returns splits of (x, y) pairs: x uint8 or float [n, H, W, C], or features [n, d]; y [n, ...].

    Labels y are integers [n] for classes, [n, H, W] for masks, 0 or 1 [n, labels], floats [n] or [n, values], or what
    another task takes; -1, or nan among floats, is no label, and y = None leaves a whole split without. `validation` is
    a pair, or the fraction of `train` to hold out. `unlabelled` images join train without a label. `names` are those of
    the classes or outputs, or how many there are (default: the largest integer + 1; the last axis of y; 1). `fields`
    are further arrays by split and name, {"train": {"age": [n]}, "test": ...}, for the rows of the pairs. `mean` and
    `std` are taken from the training images, per channel, unless given. ValueError where shapes or types do not fit.
    """
    pairs = {"train": train, "test": test}
    pairs |= {} if isinstance(validation, (int, float)) else {"validation": validation}
    _check_pairs(name, pairs, fields or {})
    train, test, validation = (_with_labels(pair, train[1]) for pair in (train, test, validation))
    x, y = train
    if not len(x):
        raise ValueError(f"{name}/train has no examples")
    _check_alike(name, "test", test[0], x)
    if isinstance(validation, tuple):
        _check_alike(name, "validation", validation[0], x)
    if unlabelled is not None:
        if (fields or {}).get("train"):
            raise ValueError(f"{name}: fields of train and `unlabelled` do not go together: give -1 or nan as labels")
        x, y = _joined(name, x, y, unlabelled)
    names = outputs_of(y, x.shape[1:]) if names is None else names
    class_names = tuple(map(str, range(names))) if isinstance(names, int) else tuple(names)
    if not class_names:
        raise ValueError(f"{name}: no example of train has a label, so `names` must tell the classes")
    mean, std = _statistics(x, mean, std)

    def make(split: str, images: np.ndarray, labels: np.ndarray) -> Source:
        of_split = (fields or {}).get(split)
        return in_memory(name, split, images, labels, class_names=class_names, mean=mean, std=std, fields=of_split)

    held = make("validation", *validation) if isinstance(validation, tuple) else None
    splits_of_pairs = Splits(make("train", x, y), held, make("test", *test))
    return splits_of_pairs if held else held_out(splits_of_pairs, validation, split_seed)


def _joined(name: str, x: np.ndarray, y: np.ndarray, unlabelled: Any) -> Pair:
    """The examples with those that have no label behind them."""
    if isinstance(unlabelled, tuple):
        raise ValueError(f"{name}: unlabelled are images alone, an array, not a tuple")
    more = np.asarray(unlabelled)
    _check_alike(name, "unlabelled", more, x)
    return (
        np.concatenate([x, more.astype(x.dtype, casting="same_kind")]),
        np.concatenate([y, _no_labels(len(more), y)]),
    )


def _check_pairs(name: str, pairs: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a split that is no pair, and for fields of a split that is not given as one."""
    for split, pair in pairs.items():
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            what = f"an array {pair.shape}" if isinstance(pair, np.ndarray) else f"a {type(pair).__name__}"
            raise ValueError(f"{name}/{split} is a pair (x, y), where y = None is no labels, not {what}")
    for split in fields:
        if split not in pairs:
            raise ValueError(f"{name}: fields of {split!r}, of which there are no arrays. {near(split, pairs)}")


def _check_alike(name: str, kind: str, images: np.ndarray, train: np.ndarray) -> None:
    """Raises ValueError where images are of another shape, or on another scale, than those of train."""
    if images.shape[1:] != train.shape[1:]:
        raise ValueError(f"{kind} images are {images.shape[1:]}, those of train {train.shape[1:]}")
    if (images.dtype == np.uint8) != (train.dtype == np.uint8):
        raise ValueError(
            f"{name}: {kind} images are {images.dtype}, those of train {train.dtype}: uint8 is divided by 255, floats "
            "are taken as they are"
        )


def outputs_of(labels: np.ndarray, image_shape: tuple[int, ...]) -> int:
    """Returns how many outputs labels ask for: the largest integer of [n] or of masks + 1, else the last axis' length.

    ValueError for masks as files have them, where 255 is no class.
    """
    if are_masks(labels, image_shape) and labels.dtype == np.uint8 and labels.max(initial=0) == NO_CLASS:
        raise ValueError(
            f"these masks hold {NO_CLASS}, which in files is no class: give int32 with -1 there, or the "
            "names of 256 classes"
        )
    if labels.ndim == 1 or are_masks(labels, image_shape):
        return int(labels.max(initial=-1)) + 1 if labels.dtype.kind in "iu" else 1
    return labels.shape[-1]


def _with_labels(pair: Any, like: Any) -> Any:
    """Returns the pair as arrays, with labels of "none" where y is None; a fraction is returned as it is.

    One truth value an example, or a pixel, is one of two classes.
    """
    if not isinstance(pair, (tuple, list)):
        return pair
    x, y = pair
    x, labels = np.asarray(x), _no_labels(len(x), like) if y is None else np.asarray(y)
    truths = labels.dtype == bool and (labels.ndim == 1 or labels.shape[1:] == x.shape[1:-1])
    return x, labels.astype(np.int32) if truths else labels


def _no_labels(count: int, like: Any) -> np.ndarray:
    like = np.zeros(0, np.int32) if like is None else np.asarray(like)
    return np.full((count, *like.shape[1:]), np.nan if like.dtype.kind == "f" else -1, like.dtype)


def _statistics(
    x: np.ndarray, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for what, numbers in (("mean", mean), ("std", std)):
        if numbers is not None and np.ndim(numbers) != 1:
            raise ValueError(f"{what} has one number a channel, such as (0.5,), not {numbers!r}")
    axes = tuple(range(x.ndim - 1))
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    if mean is None:
        mean = tuple(np.mean(x, axis=axes, dtype=np.float64) / scale)
    if std is None:
        with np.errstate(invalid="ignore"):  # infinity among x, which `in_memory` names
            deviation = np.std(x, axis=axes, dtype=np.float64) / scale
        std = tuple(np.where(deviation > 1e-6, deviation, 1.0))  # a constant feature stays 0, not 0/0
    return mean, std


def held_out(whole: Splits, fraction: float, seed: int) -> Splits:
    """Takes a validation split out of train where there is none yet, each class in its proportion if there are classes.

    Without any label, and of labels that are no classes, it is drawn from all examples alike. Raises ValueError where
    one of both would be empty.
    """
    if whole.validation is not None or fraction == 0:
        return whole
    if whole.train.labels is None or whole.train.per_token:
        raise ValueError(f"{whole.train.name}: a stratified validation split needs the labels of train, one an example")
    rest, held = splits.hold_out(splits.strata(whole.train.labels), fraction, seed)
    if not len(rest) or not len(held):
        raise ValueError(
            f"{whole.train.name}: validation={fraction} of {len(whole.train)} examples holds out {len(held)} and "
            f"leaves {len(rest)} to train on"
        )
    return Splits(subset(whole.train, rest), subset(whole.train, held, "validation"), whole.test)


def digits(test: float) -> Splits:
    """Loads 1,797 8x8 grey images of 10 digits (E. Alpaydin, C. Kaynak, UCI 1998) from scikit-learn.

    uint8 = round(value * 255 / 16), as the values are 0..16. A fixed stratified fraction `test` is the test split (0.2:
    360 images). DataNotFound without scikit-learn, ValueError for test=0.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataNotFound("The digits come with scikit-learn, which is missing: pip install scikit-learn") from error
    raw: Any = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int32)
    rest, held = splits.hold_out(labels, test, DIGITS_TEST_SEED)
    if not len(held) or not len(rest):
        raise ValueError(f"digits has no test split of its own: data.test={test} leaves none, or none to train on")
    names = tuple(map(str, range(10)))
    make = functools.partial(in_memory, "digits", class_names=names, mean=DIGITS_MEAN, std=DIGITS_STD)
    return Splits(make("train", images[rest], labels[rest]), None, make("test", images[held], labels[held]))


def from_npz(path: str) -> Splits:
    """Loads an .npz file with train_x, train_y, test_x, test_y and maybe validation_x, validation_y, unlabelled_x.

    Raises DataNotFound where there is no file, ValueError for other names in it.
    """
    if not Path(path).is_file():
        raise DataNotFound(f"data.name='arrays' reads the .npz file data.directory={path!r}, which is not there")
    file = _arrays_of(path)
    names = {f"{split}_{axis}" for split in ("train", "validation", "test") for axis in "xy"} | {"unlabelled_x"}
    missing = {"train_x", "train_y", "test_x", "test_y"} - set(file)
    if missing or set(file) - names or ("validation_x" in file) != ("validation_y" in file):
        raise ValueError(
            f"{path} holds {sorted(file)}; expected train_x, train_y, test_x, test_y and maybe "
            "validation_x, validation_y, unlabelled_x"
        )
    return from_arrays(
        train=(file["train_x"], file["train_y"]),
        test=(file["test_x"], file["test_y"]),
        validation=(file["validation_x"], file["validation_y"]) if "validation_x" in file else 0.0,
        unlabelled=file["unlabelled_x"] if "unlabelled_x" in file else None,
    )


def _arrays_of(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file}
    except Exception as e:  # zipfile, zlib and NumPy raise many kinds
        raise ValueError(
            f"data.directory={path!r} cannot be read as .npz: it is cut off or of another kind ({e})"
        ) from e
