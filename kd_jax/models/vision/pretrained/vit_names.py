"""Vision transformers of other libraries as parameters of models.vision.vit, and back, by one table of names a family.

A table maps paths here to names there, "{}" is the number of a block. A path is that of a module ("block{}/norm1",
whose kernel or scale is called weight there) or of one array ("class_token"). There, a Linear is [out, in] and a
convolution [out, in, height, width].
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from kd_jax.models.vision.pretrained.conv_names import Arrays, Table, gathered, inside, outside
from kd_jax.models.vision.pretrained.preparing import IMAGENET
from kd_jax.models.vision.vit import ViT
from kd_jax.models.vision.vit_parts import ACTIVATIONS, LETTERS
from kd_jax.resolve import near
from kd_jax.types import PyTree

# Preparations of whole images: transformers and timm show them so to the networks where no file says otherwise.
WHOLE = IMAGENET | {"crop": 1.0}
HALF = WHOLE | {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# The options of ViT by their names in most config.json (ours: theirs).
FIELDS = {
    "patch": "patch_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "image_size": "image_size",
    "epsilon": "layer_norm_eps",
}
JOINED: dict[str, str] = dict(zip(LETTERS, ("queries", "keys", "values"), strict=True))


def read(arrays: Arrays, table: Table, module: nn.Module, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the parameters of `module` from arrays there; `ignore` are patterns of names that it does not use.

    ValueError lists what is missing, unexpected or of another shape.
    """
    shapes: dict[str, Any] = traverse_util.flatten_dict(
        jax.eval_shape(separate, _shapes(arrays, table, module)), sep="/"
    )
    params = gathered(arrays, shapes, lambda path: _name(path, table), _inside, ignore)
    return joined(traverse_util.unflatten_dict(params, sep="/"), module)


def write(params: PyTree, table: Table) -> dict[str, np.ndarray]:
    """Returns the parameters as arrays under the names and in the shapes of `table`; the inverse of `read`."""
    flat = traverse_util.flatten_dict(separate(jax.tree.map(np.asarray, params)), sep="/")
    return {_name(path, table): outside(value, path) for path, value in flat.items()}


def separate(params: PyTree) -> dict[str, Any]:
    """Returns the parameters with queries, keys and values as modules of their own, for arrays and for shapes."""
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    result = {}
    for path, value in flat.items():
        module, _, leaf = path.rpartition("/")
        root = module.removesuffix("/qkv")
        if module.endswith("/qkv"):
            pieces = zip(JOINED.values(), jnp.split(value, 3, -1), strict=True)
            result |= {f"{root}/{part}/{leaf}": piece for part, piece in pieces}
        elif leaf.startswith("biases_"):
            pieces = zip(leaf.removeprefix("biases_"), value, strict=True)
            result |= {f"{root}/{JOINED[letter]}/bias": piece for letter, piece in pieces}
        else:
            result[path] = value
    return traverse_util.unflatten_dict(result, sep="/")


def joined(params: PyTree, module: nn.Module) -> dict[str, Any]:
    """Returns the parameters with queries, keys and values of every block in one; the inverse of `separate`."""
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    for root in sorted({path.rpartition("/queries/")[0] for path in flat if "/attention/queries/" in path}):
        for leaf in ("kernel", "bias"):
            parts = {letter: flat.pop(f"{root}/{part}/{leaf}", None) for letter, part in JOINED.items()}
            there = "".join(letter for letter, value in parts.items() if value is not None)
            values = [parts[letter] for letter in there]
            if there == LETTERS:
                flat[f"{root}/qkv/{leaf}"] = np.concatenate(values, -1)
            elif there:
                flat[f"{root}/biases_{there}"] = np.stack(values)
    return traverse_util.unflatten_dict(flat, sep="/")


def split(arrays: Arrays, ending: str, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the arrays with every "...<ending>.weight" and bias cut along axis 0 into those of `parts`."""
    result = {}
    for name, value in arrays.items():
        match = re.fullmatch(rf"(.*){re.escape(ending)}([._](?:weight|bias))", name)
        if match is None or len(value) % len(parts):
            result[name] = value
            continue
        pieces = zip(parts, np.split(np.asarray(value), len(parts)), strict=True)
        result |= {f"{match[1]}{part}.{match[2][1:]}": piece for part, piece in pieces}
    return result


def merge(arrays: Arrays, parts: Sequence[str], ending: str) -> dict[str, np.ndarray]:
    """Returns the arrays with those of `parts` one after the other in "...<ending>"; the inverse of `split`."""
    result = dict(arrays)
    for name in arrays:
        match = re.fullmatch(rf"(.*){re.escape(parts[0])}\.(weight|bias)", name)
        if match:
            result[f"{match[1]}{ending}{match[2]}"] = np.concatenate(
                [result.pop(f"{match[1]}{part}.{match[2]}") for part in parts]
            )
    return result


def options_of(config: Mapping[str, Any], fields: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of ViT that a config.json has under the names `fields` (ours: theirs).

    `defaults` are those of the class in transformers, which leaves them out of nested configs. ValueError for sizes
    that are no squares and an activation that is not known.
    """
    there = {**defaults, **config}
    options = {ours: there[theirs] for ours, theirs in fields.items() if theirs in there}
    for name in ("image_size", "patch"):
        value = options.get(name, 0)
        options[name] = square(value, name)
    if options["activation"] not in ACTIVATIONS:
        raise ValueError(
            f"config.json: activation {options['activation']!r}. {near(options['activation'], ACTIVATIONS)}"
        )
    return options


def square(value: Any, name: str) -> int:
    """Returns the side of a size that is a number or a pair of equal ones; ValueError for other pairs."""
    sides = {*value} if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise ValueError(f"config.json: {name} is {value}: only squares are read.")
    return int(sides.pop())


def same(a: ViT, b: ViT) -> bool:
    """Returns whether two modules compute the same from the same parameters, whatever they do in training."""
    return _essence(a) == _essence(b)


def _essence(module: ViT) -> dict[str, Any]:
    """The fields of a module that its output depends on when it is evaluated, those without an effect at one value."""
    ignored = ("parent", "name", "dtype", "dropout", "drop_path", "mlp_ratio")
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ignored}
    fields["hidden"] = module.hidden or int(module.width * module.mlp_ratio)
    fields["distillation_head"] = bool(module.distillation_token and module.distillation_head and module.num_classes)
    fields["layer_scale"] = bool(module.layer_scale)  # its first value
    return fields | ({} if module.image_size else {"resample": ""})


def config_of(module: nn.Module, fields: Mapping[str, str], model_type: str, architecture: str) -> dict[str, Any]:
    """Returns the config.json of a module: its fields under their names there, and which class they are of."""
    config = {theirs: getattr(module, ours) for ours, theirs in fields.items()}
    if isinstance(module, ViT) and "hidden" in fields and not module.hidden:
        config[fields["hidden"]] = int(module.width * module.mlp_ratio)
    return config | {"model_type": model_type, "architectures": [architecture]}


def sizes_of(module: ViT, params: PyTree) -> dict[str, int]:
    """Returns what the parameters tell of the images that a ViT takes: their channels, and their size."""
    size = module.image_size or _side(params["positions"].shape[1], module)
    return {"num_channels": int(params["patches"]["kernel"].shape[2]), "image_size": size}


def _shapes(arrays: Arrays, table: Table, module: nn.Module) -> PyTree:
    """The shapes of the parameters: for images of the channels, and where the module has none the size, of `arrays`."""
    kernel, size = arrays.get(f"{table['patches']}.weight"), getattr(module, "image_size", 0)
    channels = kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3
    if not size and isinstance(module, ViT):
        positions = arrays.get(table.get("positions", ""))
        size = _side(positions.shape[-2], module) if positions is not None else module.patch
    images = jnp.zeros((1, size, size, channels))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False)["params"])


def _side(positions: int, module: ViT) -> int:
    return math.isqrt(positions - module.class_token - module.distillation_token) * module.patch


def _name(path: str, table: Table) -> str:
    """The name there of the parameter at `path`."""
    numbers = re.findall(r"(?:block|stage|merge)(\d+)", path)
    general = re.sub(r"(block|stage|merge)\d+", r"\1{}", path)
    if general in table:
        return table[general].format(*numbers)
    module, _, leaf = general.rpartition("/")
    if module not in table:
        raise ValueError(f"{path!r} has no name in this family. {near(module or leaf, table)}")
    return f"{table[module].format(*numbers)}.{'bias' if leaf == 'bias' else 'weight'}"


def _inside(value: np.ndarray, path: str, shape: Sequence[int]) -> np.ndarray:
    """An array of theirs in our order of axes; tokens and positions in our number of axes."""
    if path.endswith("/kernel"):
        return inside(value, path)
    sides = ([n for n in axes if n != 1] for axes in (value.shape, shape))
    return value.reshape(shape) if operator.eq(*sides) else value
