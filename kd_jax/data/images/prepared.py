"""Data sets that TensorFlow Datasets prepared as array_record files, read without TensorFlow and without network.

`tfds.load` is never called, since offline it tries for minutes; data that are not on disk are reported at once.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data import splits
from kd_jax.data.folders import not_found, places
from kd_jax.data.images import pictures
from kd_jax.data.source import DataNotFound, Example, Source, Splits, subset

MEMORY_BYTES = 512 << 20  # sets up to this size, of images of one size, are decoded once into memory
TEST_SEED = 0

STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def fetch_commands(name: str) -> list[str]:
    """Returns what a user does to get the set, as lines of a message."""
    manual = ["ILSVRC2012_img_{train,val}.tar from image-net.org in ~/tensorflow_datasets/downloads/manual"]
    return (manual if name == "imagenet2012" else []) + [
        "pip install -e '.[tensorflow]'   (TensorFlow, only to prepare) and then, with network:",
        f"tfds build {name.replace(':', '/')} --file_format=array_record",
    ]


def find(name: str, directory: str) -> Path | None:
    """Returns the folder (.../NAME/[CONFIG/]VERSION) of a set's newest version, or None.

    The first place that has the set counts. Raises ValueError where it has several configurations of it.
    """
    base, *rest = re.split("[/:]", name)
    for place in places(directory):
        roots = [place / base / "/".join(rest)]
        roots += [place] if directory else []
        for root in roots:
            infos = [path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}dataset_info.json")]
            versions = [path.parent for path in infos if _name(path) == base]
            if len({path.parent for path in versions}) > 1:
                choices = sorted({f"tfds:{base}/{path.parent.name}" for path in versions})
                raise ValueError(f"{root} holds several configurations of {base}: name one of {', '.join(choices)}")
            if versions:
                return max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    return None


def _name(path: Path) -> str:
    try:
        return str(json.loads(path.read_text()).get("name"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable: {error}") from error


def load(name: str, directory: str, image_size: int = 0, *, test: float = 0.0, all_labels: bool = False) -> Splits:
    """Loads a prepared set with one image and one class label an example.

    The test split is "test", or "validation" if that has no labels (ImageNet), or the fraction `test` of train. Images
    of one size are decoded into memory if they fit into MEMORY_BYTES. Others are streamed: cropped to `image_size`, in
    training at random as a function of (seed, index, view), else in the centre. `all_labels` reads every label of train
    at once, the first time; then they are stored beside the data.
    """
    folder = find(name, directory)
    if folder is None:
        raise not_found(name, places(directory), fetch_commands(name))
    info = _builder(folder).info
    image_size = image_size or (224 if info.name == "imagenet2012" else 0)
    train = _source(folder, info, "train", image_size)
    alone = not {"test", "validation"} & set(info.splits)
    if alone and not test:
        raise ValueError(f"{name} has only the splits {', '.join(info.splits)}: data.test must be above 0")
    if (all_labels or alone) and train.labels is None:
        train = _with_all_labels(train, folder)
    if alone:
        rest, held = splits.hold_out(train.labels, test, TEST_SEED)
        return Splits(subset(train, rest), None, subset(train, held, "test"))
    if "test" in info.splits and info.name != "imagenet2012":  # ImageNet's test labels were never published
        held = _source(folder, info, "validation", image_size) if "validation" in info.splits else None
        return Splits(train, held, _source(folder, info, "test", image_size))
    return Splits(train, None, _source(folder, info, "validation", image_size))


@functools.lru_cache(maxsize=8)
def _builder(folder: Path) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataNotFound(f"{folder} is there, but to read it: pip install tensorflow-datasets") from error
    builder = tfds.builder_from_directory(folder)
    if builder.info.file_format is None or builder.info.file_format.value != "array_record":
        raise DataNotFound(
            f"{folder} was prepared as {builder.info.file_format}, which has no random access. Prepare it again:\n  "
            + "\n  ".join(fetch_commands(builder.info.name))
        )
    return builder


@functools.lru_cache(maxsize=8)
def _records(folder: Path, split: str) -> tuple[Any, str, str]:
    """Returns the records with encoded images, their image key and label key; opens each set once in a process."""
    import tensorflow_datasets as tfds

    builder = _builder(folder)
    image, label = _keys(builder.info)
    return builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()}), image, label


def _keys(info: Any) -> tuple[str, str]:
    image, label = (info.supervised_keys or ("image", "label"))[:2]
    features = info.features
    if image not in features or label not in features or not hasattr(features[label], "names"):
        raise ValueError(f"{info.name} is no set of images with one class label each; its features are {features}")
    return image, label


def _source(folder: Path, info: Any, split: str, image_size: int) -> Source:
    image, label = _keys(info)
    shape, n = tuple(info.features[image].shape), info.splits[split].num_examples
    channels = shape[-1] or 3
    mean, std = STATISTICS.get(info.name, ((0.5,) * channels, (0.5,) * channels))
    shared = {"name": info.name, "split": split, "class_names": tuple(info.features[label].names)}
    shared |= {"num_classes": len(shared["class_names"]), "mean": mean, "std": std}
    if not image_size and None in shape:
        raise ValueError(f"the images of {info.name} differ in size: data.image_size must say what to make of them")
    if not image_size and n * math.prod(shape) <= MEMORY_BYTES:
        fetch = functools.partial(_fetch, folder, split, channels, 0)
        with ThreadPoolExecutor() as pool:
            examples = list(pool.map(lambda index: fetch(index, None, 0), range(n)))
        images = np.stack([example["image"] for example in examples])
        labels = np.asarray([example["label"] for example in examples], np.int32)
        return Source(image_shape=shape, images=images, labels=labels, **shared)
    fetch = functools.partial(_fetch, folder, split, channels, image_size)
    size = (image_size, image_size, channels) if image_size else shape
    return Source(image_shape=size, labels=None, fetch=fetch, size=n, **shared)


def _fetch(
    folder: Path, split: str, channels: int, image_size: int, index: int, view: int | None, seed: int
) -> Example:
    records, image, label = _records(folder, split)
    record = records[index]
    picture = pictures.decode(record[image], channels)
    array = pictures.cut(picture, image_size, "random", index, view, seed)
    return {"image": array, "label": np.int32(record[label])}


def _with_all_labels(train: Source, folder: Path) -> Source:
    """Reads every record once, without decoding its image, and stores the labels beside the data if it may."""
    path = folder / f"kd_jax_{train.split}_labels.npy"
    if path.is_file():
        return train.with_labels(np.load(path))
    logging.info("reading the %d labels of %s once", len(train), folder)
    records, _, label = _records(folder, train.split)
    with ThreadPoolExecutor() as pool:
        labels = np.fromiter(pool.map(lambda index: records[index][label], range(len(train))), np.int32)
    try:
        scratch = path.with_suffix(f".{os.getpid()}.npy")
        np.save(scratch, labels)
        os.replace(scratch, path)
    except OSError as error:
        logging.warning("the labels are read again next time: %s", error)
    return train.with_labels(labels)
