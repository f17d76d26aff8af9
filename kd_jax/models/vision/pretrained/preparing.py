"""How a published vision network wants its images, from the files of its checkpoint.

A preparation is dict(size, crop, mean, std, class_names): the image is resized so that its shorter side is size / crop,
its centre of `size` x `size` is taken, and the network sees (x / 255 - mean) / std. `class_names` are () where no file
has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PREPROCESSOR = "preprocessor_config.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = {"size": 224, "crop": 0.875, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
# Of the training images; as RepDistiller and mdistiller have them for CIFAR-100, and torchdistill for CIFAR-10.
CIFAR = {
    100: {"size": 32, "crop": 1.0, "mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)},
    10: {"size": 32, "crop": 1.0, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
}
LARGE = 384  # from this size on ConvNeXts are shown whole images


def prepared_by(folder: Path, config: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the preparation of a checkpoint: of its preprocessor_config.json, of timm's pretrained_cfg, or `default`.

    ValueError for a file that is no JSON or of a size that is no square.
    """
    made = {**default, **_size_of(config)}
    if (folder / PREPROCESSOR).is_file():
        made |= _hugging_face(_read(folder / PREPROCESSOR), made)
    elif "pretrained_cfg" in config:
        made |= _timm(config["pretrained_cfg"])
    return {**made, "class_names": class_names(config)}


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of classes that config.json has, in their order; () where it has none, or LABEL_0 and so on."""
    labels = config.get("id2label") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or tuple(config.get("label_names") or ())
    return () if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def written(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a preparation as the preprocessor_config.json that `transformers` reads."""
    size = int(prepared["size"])
    return {
        "image_processor_type": "ViTImageProcessor" if prepared.get("crop", 1.0) == 1 else "CLIPImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": list(prepared["mean"]),
        "image_std": list(prepared["std"]),
        **_written_size(size, prepared.get("crop", 1.0)),
    }


def _written_size(size: int, crop: float) -> dict[str, Any]:
    if crop == 1:
        return {"size": {"height": size, "width": size}}
    square = {"height": size, "width": size}
    return {"size": {"shortest_edge": round(size / crop)}, "do_center_crop": True, "crop_size": square}


def _hugging_face(fields: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    resized = _side(fields.get("size", default["size"]))
    size, crop = resized, 1.0
    if fields.get("do_center_crop") and "crop_size" in fields:
        size = _side(fields["crop_size"])
        crop = size / resized
    elif fields.get("crop_pct") and resized < LARGE:
        crop = float(fields["crop_pct"])
    mean, std = (tuple(fields.get(f"image_{kind}") or default[kind]) for kind in ("mean", "std"))
    if not fields.get("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    if fields.get("include_top"):  # EfficientNet's processor divides by image_std twice
        std = tuple(s * s for s in std)
    # There x * rescale_factor - offset is normalised, here x / 255 is.
    scale, offset = 255 * fields.get("rescale_factor", 1 / 255), float(bool(fields.get("rescale_offset")))
    mean = tuple((m + offset) / scale for m in mean)
    return {"size": size, "crop": crop, "mean": mean, "std": tuple(s / scale for s in std)}


def _timm(fields: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {"size": fields["input_size"][-1]} if "input_size" in fields else {}
    crop = {"crop": float(fields["crop_pct"])} if fields.get("crop_pct") else {}
    return {**sizes, **crop, **{kind: tuple(fields[kind]) for kind in ("mean", "std") if kind in fields}}


def _size_of(config: Mapping[str, Any]) -> dict[str, int]:
    size = config.get("image_size") or config.get("vision_config", {}).get("image_size")
    return {"size": _side(size)} if size else {}


def _side(size: Any) -> int:
    """The side of a size as files have it: a number, a pair, or a dict."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    sides = {*size} if isinstance(size, (list, tuple)) else {size}
    if len(sides) != 1 or None in sides:
        raise ValueError(f"images of size {size}: only squares are read.")
    return int(sides.pop())


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as e:
        raise ValueError(f"{file} is not readable: {e}") from e
