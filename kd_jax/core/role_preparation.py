"""What one network is shown of a stored picture: its scale, mean and standard deviation, its size.

The fields of a role's `preparation` in a config; {} is the default of the role:
like               "data": (x / 255 - mean) / std by the statistics of the data; "raw": the arrays as they lie there
scale, mean, std   (x / scale - mean) / std with these; scale is 255 for uint8, 1 for floats, mean 0, std 1 unless said
size, crop         the middle of size x size (or height and width) of a picture whose shorter side is size / crop
The default of a network that this run trains or loads is "data", of one that says so itself (an attribute `preparation`
of these fields) what it says, of one handed over with its parameters "raw".
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kd_jax.core.paths import Path
from kd_jax.data.augment import normalise
from kd_jax.data.source import Source
from kd_jax.models.adapters import NNXModel
from kd_jax.resolve import near
from kd_jax.types import Array, Model

FIELDS = ("like", "scale", "mean", "std", "size", "crop")
LIKE = ("data", "raw")
_NORMALISING = ("scale", "mean", "std")
_TOLD = ("class_names",)  # what else a checkpoint's preparation says; no picture depends on it
_MOST = 4  # channels whose mean and std are written out


@dataclasses.dataclass(frozen=True)
class RolePreparation:
    """What the network `role` is shown: (x / scale - mean) / std of the picture resized to `size`, of which the
    middle of `crop` is cut out; with `raw` x itself.

    `entries` are the pictures of the batch that it reads in a form of its own, as "<role>:<entry>"; () where what
    everybody is shown is what it is to see. `shape` and `dtype` are those of the stored picture.
    """

    role: str
    shape: tuple[int, ...]
    dtype: str
    raw: bool = False
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    entries: tuple[str, ...] = ()
    why: str = ""  # of a default that a reader should know of

    def __call__(self, image: Array) -> Array:
        """Returns stored pictures [B, ...] as the network sees them: raw and of their size as they are, else float32.

        Resizing is bilinear, over an area where it makes pictures smaller (antialias), as PIL and torchvision do it,
        without their rounding to 8 bits.
        """
        if self.size:
            shape = (len(image), *self.size, image.shape[-1])
            image = jax.image.resize(image.astype(jnp.float32), shape, "bilinear", antialias=True)
        if self.crop:
            top, left = ((n - c) // 2 for n, c in zip(image.shape[1:3], self.crop, strict=True))
            image = image[:, top : top + self.crop[0], left : left + self.crop[1]]
        if self.raw:
            return image
        return normalise(image.astype(jnp.float32) / self.scale, self.mean, self.std)

    def inputs(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Returns the paths of a role with those of pictures that it sees in its own form led there."""
        entries = {f"batch.{entry}": f"batch.{self.entry(entry)}" for entry in self.entries}
        return tuple(entries.get(path, path) for path in paths)

    def entry(self, name: str) -> str:
        """Returns the name of the batch's entry that holds the picture `name` as this network sees it."""
        return f"{self.role}:{name}"

    def seen_shape(self) -> tuple[int, ...]:
        """Returns the shape of one picture as the network sees it; one grey channel becomes as many as `mean` has."""
        channels = max(self.shape[-1], len(self.mean), len(self.std))
        return (*(self.crop or self.size or self.shape[:-1]), channels)

    def as_dict(self) -> dict[str, Any]:
        """Returns what results.json says: scale, mean and std (None where x is shown as stored), size, and in words."""
        numbers_of = {"scale": self.scale, "mean": list(self.mean), "std": list(self.std)}
        shown = dict.fromkeys(numbers_of) if self.raw else numbers_of
        return {**shown, "size": list(self.seen_shape()[:-1]), "resized": list(self.size), "sees": self.text()}

    def text(self) -> str:
        """Returns what the network sees in words, such as "(x/255 - mean)/std, 224 x 224; mean 0.5, std 0.25"."""
        *sides, channels = self.seen_shape()
        size = " x ".join(map(str, sides)) if sides else f"{channels} numbers"
        if self.size and self.crop:
            size += f" cut out of {self.size[0]} x {self.size[1]}"
        if channels != self.shape[-1]:
            size += f", one channel as {channels}"
        if self.raw:
            kind = "uint8, 0..255" if self.dtype == "uint8" and not self.size else "float32"
            return f"the raw arrays, {kind}, {size}" + (f" ({self.why})" if self.why else "")
        return self._formula(size)

    def _formula(self, size: str) -> str:
        x = "x" if self.scale == 1 else f"x/{self.scale:g}"
        if not any(self.mean) and all(s == 1 for s in self.std):
            return f"{x}, {size}"
        told = "; mean {}, std {}".format(*(", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std)))
        return f"({x} - mean)/std, {size}" + (told if max(len(self.mean), len(self.std)) <= _MOST else "")


def declared(model: Model) -> Mapping[str, Any]:
    """Returns the `preparation` that a network says of itself, {} where it says none."""
    owners = [model, getattr(model, "module", None)]
    if isinstance(model, NNXModel):
        owners.append(nnx.eval_shape(lambda: model.build(nnx.Rngs(jax.random.key(0)))))
    said = (getattr(owner, "preparation", None) for owner in owners)
    return next((s for s in said if isinstance(s, Mapping)), {})


def role_preparation(
    role: str,
    fields: Mapping[str, Any],
    model: Model,
    source: Source,
    inputs: Sequence[str],
    views: Collection[str] = (),
    place: str = "",
    why: str = "",
) -> RolePreparation | None:
    """Returns what the network `role`, which reads `inputs`, is shown of the pictures of a source; None without any.

    `fields` are those of its config, at `place` there ("teachers."), `views` the further pictures of the batch.
    Raises ValueError for fields that do not fit, or that no picture is there for.
    """
    where = f"config.{place}{role}.preparation"
    asked = {k: v for k, v in fields.items() if k not in _TOLD}
    _check_fields(where, asked)
    entries = _pictures_of(inputs, views) if source.entry == "image" else ()
    if not entries:
        if not asked or asked == {"like": "raw"}:
            return None
        raise ValueError(f"{where} is of pictures: {source.name} has {source.entry}, and it reads {tuple(inputs)}.")
    said = declared(model) if "like" not in asked else {}
    normalising = asked if {*_NORMALISING} & {*asked} else {k: said[k] for k in _NORMALISING if k in said}
    sized = {k: asked.get(k, said.get(k)) for k in ("size", "crop")}
    made = _numbers(where, role, normalising, asked.get("like", "data"), source)
    made = dataclasses.replace(made, why=why if made.raw and not asked.keys() - {"like"} else "")
    made = _sized(where, made, **sized)
    if dataclasses.replace(made, why="") == _numbers(where, role, {}, "data", source):
        return made
    return dataclasses.replace(made, entries=entries)


def _check_fields(where: str, asked: Mapping[str, Any]) -> None:
    """Raises ValueError for a field that there is not, another `like`, and numbers beside one."""
    for name in asked:
        if name not in FIELDS:
            raise ValueError(f"{where} has no field {name!r}. {near(name, FIELDS)}")
    if asked.get("like", "data") not in LIKE:
        raise ValueError(f"{where}.like is 'data' or 'raw', not {asked['like']!r}.")
    if "like" in asked and {*_NORMALISING} & {*asked}:
        raise ValueError(f"{where}: like={asked['like']!r} says the scale, mean and std; give either.")


def _pictures_of(inputs: Sequence[str], views: Collection[str]) -> tuple[str, ...]:
    """The pictures of the batch that are among the inputs of a role."""
    read = [Path.parse(path) for path in inputs]
    return tuple(p.owner for p in read if p.kind == "batch" and not p.rest and p.owner in ("image", *views))


def _numbers(where: str, role: str, said: Mapping[str, Any], like: str, source: Source) -> RolePreparation:
    """The preparation of numbers that are said, or else as the data or raw, without a size."""
    dtype = "uint8" if _stored_dtype(source) == np.uint8 else "float32"
    usual = 255.0 if dtype == "uint8" else 1.0
    made = RolePreparation(role, tuple(source.image_shape), dtype)
    if not said:
        if like == "raw":
            return dataclasses.replace(made, raw=True)
        return dataclasses.replace(made, scale=usual, mean=source.mean, std=source.std)
    mean, std = (_values(where, source, k, said.get(k, d)) for k, d in (("mean", 0.0), ("std", 1.0)))
    (scale,) = _values(where, source, "scale", said.get("scale", usual))
    if not (scale > 0 and min(std) > 0):
        raise ValueError(f"{where}: scale and std are above 0, not {scale:g} and {std}.")
    if len(mean) > 1 < len(std) and len(mean) != len(std):
        raise ValueError(f"{where}: mean has {len(mean)} values and std {len(std)}; both have one a channel.")
    return dataclasses.replace(made, scale=scale, mean=mean, std=std)


def _stored_dtype(source: Source) -> Any:
    return source.images.dtype if source.images is not None else np.asarray(source.example(0)["image"]).dtype


def _values(where: str, source: Source, name: str, value: Any) -> tuple[float, ...]:
    """One number, or one a channel; any number of channels where the pictures have one."""
    values = tuple(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else (value,)
    if not values or not all(isinstance(v, numbers.Real) and math.isfinite(v) for v in values):
        raise ValueError(f"{where}.{name} is a number, or one a channel, not {value!r}.")
    channels = source.image_shape[-1]
    if name == "scale" and len(values) > 1 or len(values) not in (1, channels) and channels != 1:
        raise ValueError(f"{where}.{name} has {len(values)} values, and {source.name} has {channels} channels.")
    return tuple(map(float, values))


def _sized(where: str, made: RolePreparation, size: Any, crop: Any) -> RolePreparation:
    """With what `size` (the side of a square, or height and width) and `crop` (the share) make of the picture."""
    if size is None and crop is None:
        return made
    if len(made.shape) != 3:
        raise ValueError(f"{where}: size and crop are of pictures [H, W, C]; these have shape {made.shape}.")
    share: float = 1.0 if crop is None else float(crop) if isinstance(crop, (int, float)) else 0.0
    if isinstance(crop, bool) or not 0 < share <= 1:
        raise ValueError(f"{where}.crop is the share of a side that is shown, above 0 and at most 1, not {crop!r}.")
    whole = made.shape[:2]
    sides = whole if size is None else _sides(where, size)
    if len(sides) == 1:  # as torchvision's Resize: the longer side keeps its proportion
        resized = tuple(max(round(sides[0] / share * n / min(whole)), sides[0]) for n in whole)
        sides = sides * 2
    else:
        resized = tuple(round(n / share) for n in sides)
    return dataclasses.replace(
        made, size=() if resized == whole else resized, crop=() if sides == resized else tuple(sides)
    )


def _sides(where: str, value: Any) -> tuple[int, ...]:
    sides = (value,) if isinstance(value, (int, np.integer)) else tuple(value) if isinstance(value, Sequence) else ()
    if len(sides) not in (1, 2) or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sides):
        raise ValueError(f"{where}.size is a number of pixels, or height and width, not {value!r}.")
    return tuple(map(int, sides))
