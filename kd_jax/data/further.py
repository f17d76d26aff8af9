"""Further splits beside those that the student learns from, for config.splits."""

from __future__ import annotations

from typing import Any

from kd_jax.data.load import load
from kd_jax.data.source import Source, Splits


def labelled(splits: Splits, data: str, **fields: Any) -> dict[str, Source]:
    """Returns {"real": the training examples with all labels}, where config.data hides most of them.

    `data` is config.data.name and `fields` are its other fields, without `labels`.
    """
    if "labels" in fields:
        raise ValueError("data.further.labelled returns all labels: leave `labels` out of config.splits.kwargs.")
    train = load({"name": data, **fields}).train
    if train.image_shape != splits.train.image_shape or train.num_classes != splits.train.num_classes:
        raise ValueError(
            f"config.splits.kwargs name {train.name}, {train.image_shape} of {train.num_classes} classes, and "
            f"config.data {splits.train.name}, {splits.train.image_shape} of {splits.train.num_classes}."
        )
    return {"real": train}
