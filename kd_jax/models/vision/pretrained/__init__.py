"""Published vision networks as models of kd_jax, and networks of kd_jax as folders that `transformers` loads.

    model = LinenModel(of("microsoft/resnet-18"))
    params, stats = load(model, jax.random.key(0), "microsoft/resnet-18")

A path is a folder of Hugging Face or of timm, a state dict (.safetensors, or .pth, which is read without running code),
or a folder with one of these; "package:NAME/PATH" lies in an installed package, an id of the hub in its local cache.

A family is one file of this package; FAMILIES names them all. It has
    MODEL_TYPES                     the `model_type`s of config.json that it reads
    build(config) -> nn.Module      config is config.json, with `num_labels` where another number of classes is asked
    to_flax(arrays, module) -> (params, stats)      stats: {"batch_stats": ...} or {}; ValueError says what does not fit
    to_torch(params, stats, module) -> {name: array}        under the names of transformers
    guess(arrays) -> config or None         of a bare state dict (timm, torchvision, ...) from names and shapes; what
                                    it is called is added to it as "architecture", which `build` may read
    owns(module) -> bool            whether `save` writes such a module by this family
    prepared(config) -> dict        optional: the preparation where no file says it; ImageNet's otherwise
    config_of(module, params) -> config.json        with which transformers computes what the module computes
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from kd_jax.models.adapters import LinenModel
from kd_jax.models.safetensors_io import CONFIG, WEIGHTS
from kd_jax.models.vision.pretrained import (
    cifar,
    clip,
    convnext,
    dinov2,
    dinov3,
    efficientnet,
    resnet,
    siglip,
    swin,
    vit,
)
from kd_jax.models.vision.pretrained.checkpoint import Checkpoint, open_checkpoint
from kd_jax.models.vision.pretrained.preparing import IMAGENET, prepared_by, written
from kd_jax.resolve import near
from kd_jax.types import Array, Model, PyTree

__all__ = ["FAMILIES", "load", "of", "preparation", "save"]

# In the order in which they are asked to guess. Convolutional networks first, then transformers.
FAMILIES: dict[str, ModuleType] = {
    "resnet": resnet,
    "cifar": cifar,
    "convnext": convnext,
    "efficientnet": efficientnet,
    "vit": vit,
    "dinov2": dinov2,
    "dinov3": dinov3,
    "clip": clip,
    "siglip": siglip,
    "swin": swin,
}


def of(path: str | Path, num_classes: int | None = None) -> nn.Module:
    """Returns the Linen module [batch, height, width, channels] -> logits of a checkpoint; `load` has its weights.

    `num_classes` None: as many as the checkpoint has. Another number makes a new head, and says so. ValueError for an
    architecture that no family has, with the near ones.
    """
    family, checkpoint = _read(path)
    module = family.build(checkpoint.config)
    if num_classes is None or num_classes == module.num_classes:
        return _told(module, checkpoint, path)
    print(
        f"{path}: it has {module.num_classes or 'no'} classes, {num_classes} are asked: its head is new and random. "
        "Train it, or distill from its taps alone."
    )
    return _told(family.build({**checkpoint.config, "num_labels": num_classes}), checkpoint, path)


def _told(module: nn.Module, checkpoint: Checkpoint, path: str | Path) -> nn.Module:
    """The module with what its checkpoint says that it is shown, by which kd_jax.run prepares its pictures.

    A network of other channels than the preparation of its family has says nothing: its mean would not fit.
    """
    said = preparation(path)
    first = [array.shape for array in checkpoint.arrays.values() if len(array.shape) == 4]
    if any(shape[1] == len(said["mean"]) for shape in first):
        object.__setattr__(module, "preparation", said)  # beside the fields: Linen's modules are frozen
    return module


def load(model: Model | nn.Module, key: Array, path: str | Path) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of `of(path)` in float32; a head of another number of classes is drawn from `key`.

    It stands in config.<role>.initial. ValueError lists what is missing, unexpected or of another shape.
    """
    family, checkpoint = _read(path)
    module, theirs = _module(model), family.build(checkpoint.config)
    if type(module) is not type(theirs):
        name = type(theirs).__name__
        raise ValueError(f"{path} is a {name}, the model a {type(module).__name__}: make it with of({path!r}).")
    _say_types(path, checkpoint.arrays, key)
    try:
        params, stats = family.to_flax(checkpoint.arrays, theirs)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    if module.num_classes != theirs.num_classes:
        params = _with_new_head(params, module, key, checkpoint)
    return params, stats


def preparation(path: str | Path) -> dict[str, Any]:
    """Returns dict(size, crop, mean, std, class_names) of a checkpoint, as models.vision.pretrained.preparing says.

    From preprocessor_config.json, timm's config.json, or what the networks of its family were trained with.
    """
    family, checkpoint = _read(path)
    default = family.prepared(checkpoint.config) if hasattr(family, "prepared") else IMAGENET
    return prepared_by(checkpoint.folder, checkpoint.config, default)


def save(
    model: Model | nn.Module,
    params: PyTree,
    stats: PyTree,
    folder: str | Path,
    prepared: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Writes a network as config.json and model.safetensors, so that its class in `transformers` loads it.

    `prepared`, as `preparation` returns it, becomes preprocessor_config.json; class names go to id2label. ValueError
    for a network that transformers has no class for.
    """
    module, folder = _module(model), Path(folder)
    names = [name for name, family in FAMILIES.items() if hasattr(family, "owns") and family.owns(module)]
    if not names:
        writing = ", ".join(name for name, family in FAMILIES.items() if hasattr(family, "owns"))
        raise ValueError(f"transformers has no class for this {type(module).__name__}. There is: {writing}.")
    family = FAMILIES[names[0]]
    params, stats = (jax.tree.map(np.asarray, tree) for tree in (params, stats))
    config = dict(family.config_of(module, params))
    if module.num_classes:
        config |= _labels(class_names, module.num_classes)
    arrays = {name: np.asarray(value, order="C") for name, value in family.to_torch(params, stats, module).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if prepared is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(written(prepared), indent=2) + "\n")


def _labels(class_names: Sequence[str], count: int) -> dict[str, dict[str, Any]]:
    """id2label and label2id of a config.json."""
    labels = list(class_names) or [f"LABEL_{i}" for i in range(count)]
    if len(labels) != count:
        raise ValueError(f"{len(labels)} class_names, and the network has {count} classes.")
    return {"id2label": {str(i): n for i, n in enumerate(labels)}, "label2id": {n: i for i, n in enumerate(labels)}}


def is_written(module: Any) -> bool:
    """Tells whether `save` has a class of `transformers` for the network."""
    return any(hasattr(family, "owns") and family.owns(module) for family in FAMILIES.values())


def _read(path: str | Path) -> tuple[ModuleType, Checkpoint]:
    """The family of a checkpoint, and the checkpoint with a config of that family."""
    checkpoint = open_checkpoint(path)
    types = {kind: family for family in FAMILIES.values() for kind in family.MODEL_TYPES}
    kind = checkpoint.config.get("model_type")
    if kind is not None:
        if kind not in types:
            raise ValueError(f"{path}: the model type is {kind!r}. {near(str(kind), types)}")
        return types[kind], checkpoint
    for family in FAMILIES.values():
        if (config := family.guess(checkpoint.arrays)) is not None:
            return family, checkpoint._replace(config={**checkpoint.config, **config})
    names, called = list(checkpoint.arrays), checkpoint.config.get("architecture", "")
    first, families = ", ".join(names[:4]), [*FAMILIES, *types]
    raise ValueError(f"{path}: no family has these {len(names)} names ({first}, ...). {near(called, families)}")


def _module(model: Model | nn.Module) -> Any:
    module = model.module if isinstance(model, LinenModel) else model
    if not isinstance(module, nn.Module) or not hasattr(module, "num_classes"):
        raise ValueError(f"expected a network of models.vision, got {type(module).__name__}")
    return module


def _say_types(path: str | Path, arrays: Mapping[str, np.ndarray], key: Array) -> None:
    """A line where numbers are widened; not while shapes alone are looked at."""
    kinds = {str(arrays[name].dtype) for name in arrays} - {"float32", "int64"}
    if kinds and not isinstance(key, jax.core.Tracer):
        print(f"{path}: its numbers are {' and '.join(sorted(kinds))}; they are read as float32.")


def _with_new_head(params: PyTree, module: nn.Module, key: Array, checkpoint: Checkpoint) -> PyTree:
    """Parameters of `module`: those of the checkpoint, and heads drawn from `key`."""
    size, channels = preparation(checkpoint.path)["size"], checkpoint.config.get("num_channels", 3)
    image = jnp.zeros((1, size, size, channels))
    drawn, _ = jax.jit(LinenModel(module).init)(key, image)
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    drawn: dict[str, Any] = traverse_util.flatten_dict(drawn, sep="/")
    other = [p for p, v in drawn.items() if p not in flat or flat[p].shape != v.shape]
    if beyond := [p for p in other if "head" not in p.split("/")[0]]:
        raise ValueError(f"{checkpoint.path}: a new head leaves {', '.join(beyond)} without values.")
    return traverse_util.unflatten_dict({p: drawn[p] if p in other else flat[p] for p in drawn}, sep="/")
