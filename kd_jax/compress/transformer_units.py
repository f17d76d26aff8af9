"""What can be taken out of a transformer: attention heads with their KV groups, FFN units, layers, embedding channels.

`sizes_of` says how many there are, `target` how many are left, `smaller` is the network of those sizes, and `sliced`
the arrays of the units that stay. All layers of the smaller network are alike, so that config.json can say it.
Networks: models/language/decoder.py and bert.py; of models/vision/vit.py FFN units and layers alone. unit_scores.py
says which units matter, heads.py which ones stay, transformers.py makes a step of a chain of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from kd_jax.compress.families import DECODER, UNITS, axes_of, family_of
from kd_jax.models.language.decoder import Decoder
from kd_jax.models.vision.vit import ViT
from kd_jax.resolve import near
from kd_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many units a transformer has; a head is `head_width` wide."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    head_width: int


def sizes_of(module: nn.Module) -> Sizes:
    """Returns how many units a transformer has."""
    if isinstance(module, Decoder):
        o = module.options
        return Sizes(o.depth, o.width, o.heads, o.kv_heads, o.hidden, o.head_width)
    family_of(module)
    m: Any = module
    if isinstance(module, ViT):
        hidden = module.hidden or int(module.width * module.mlp_ratio)
        return Sizes(m.depth, m.width, m.heads, m.heads, hidden, m.width // m.heads)
    return Sizes(m.depth, m.width, m.heads, m.heads, m.hidden, m.head_width or m.width // m.heads)


def target(module: nn.Module, units: Mapping[str, int | float]) -> Sizes:
    """Returns the sizes of the smaller network; `units` {unit: how many stay, or which share}, those that are named.

    Where `kv_heads` is not named, it stays if it divides `heads`, which then lose as many in every KV group, and else
    whole groups go. ValueError for units that do not exist, more than there are, and numbers that KV groups do not
    divide.
    """
    now = sizes_of(module)
    if not units:
        raise ValueError(f"prune: nothing is named; expected how many stay of {', '.join(UNITS)}.")
    there = family_of(module).units
    for name in units:
        if name not in there:
            raise ValueError(f"prune: a {type(module).__name__} has no {name!r} to prune. {near(name, there)}")
    counts = {name: _count(now, name, value) for name, value in units.items()}
    if "kv_heads" in counts and "heads" not in counts:
        raise ValueError(f"prune: kv_heads={units['kv_heads']} needs heads, of which there are {now.heads}.")
    left = dataclasses.replace(now, **counts)
    if "heads" in counts:
        left = dataclasses.replace(left, kv_heads=_groups(now, left.heads, counts.get("kv_heads")))
    _check_layers(module, now, left)
    return left


def _count(now: Sizes, name: str, value: int | float) -> int:
    """How many units stay of a number, or of a share below 1."""
    there = getattr(now, name)
    if isinstance(value, float) and 0 < value < 1:
        return max(1, round(value * there))
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= there:
        raise ValueError(
            f"prune: {name}={value!r} are to stay; expected 1 to {there}, for there are {there}, or a share below 1."
        )
    return value


def _groups(now: Sizes, heads: int, wanted: int | None) -> int:
    """The number of KV groups of `heads` heads; every group loses as many."""
    size = now.heads // now.kv_heads
    if wanted is None:
        if heads % now.kv_heads == 0:
            return now.kv_heads
        if heads % size == 0:
            return heads // size
        raise ValueError(
            f"prune: heads={heads} is not divided by the KV groups: expected a multiple of kv_heads={now.kv_heads}, so "
            f"that every group loses as many, or of {size}, so that whole groups go."
        )
    if heads % wanted or heads // wanted > size:
        raise ValueError(
            f"prune: heads={heads} with kv_heads={wanted}: expected at most {size} heads in each KV group, and as many "
            f"in all of them."
        )
    return wanted


def _check_layers(module: nn.Module, now: Sizes, left: Sizes) -> None:
    if not isinstance(module, Decoder):
        return
    o = module.options
    if left.layers < now.layers and len(set(o.windows)) > 1:
        raise ValueError(f"prune: layers with windows={o.windows} are not alike, so none of them can be left out.")
    if left.width < now.width and o.scale_embedding:
        raise ValueError("prune: scale_embedding multiplies by sqrt(width), so the width of this decoder has to stay.")


def smaller(module: nn.Module, left: Sizes) -> nn.Module:
    """Returns the module of these sizes; all else is that of `module`."""
    if isinstance(module, Decoder):
        fields = {"depth": left.layers, **{n: getattr(left, n) for n in ("width", "heads", "kv_heads", "hidden")}}
        options = dataclasses.replace(module.options, **fields, head_width=left.head_width)
        return module.clone(options=options)
    if isinstance(module, ViT):
        return module.clone(depth=left.layers, hidden=left.hidden)
    family_of(module)
    head_width = 0 if left.heads * left.head_width == left.width else left.head_width
    return module.clone(
        depth=left.layers, width=left.width, heads=left.heads, hidden=left.hidden, head_width=head_width
    )


def sliced(module: nn.Module, params: PyTree, staying: Mapping[str, Array]) -> PyTree:
    """Returns the parameters of the smaller network, whose arrays are slices of those of `module`.

    `staying` (heads.staying) holds the numbers of the units that stay: "layers" [n], "width" [n], and of every layer
    of `module` "heads", "kv_heads" and "hidden" [layers, n].
    """
    family, scanned = family_of(module), _is_scanned(module)
    head_width = sizes_of(module).head_width
    outside, inside = stacked(module, params)
    left: dict[str, Array] = {}
    for path, value in outside.items():
        for axis, unit in enumerate(axes_of(family, path)):
            value = jnp.take(value, staying["width"], axis=axis) if unit == "width" else value
        left[path] = value
    layers = staying["layers"]
    for path, value in inside.items():
        value = value[layers]
        for axis, unit in enumerate(axes_of(family, path)):
            if unit == "width":
                value = jnp.take(value, staying["width"], axis=axis + 1)
            elif unit:
                columns = staying[unit][layers]
                if unit in ("heads", "kv_heads"):
                    columns = (columns[:, :, None] * head_width + jnp.arange(head_width)[None, None]).reshape(
                        len(columns), -1
                    )
                value = jax.vmap(lambda x, i, axis=axis: jnp.take(x, i, axis=axis))(value, columns)
        if scanned:
            left[f"{family.layer}s/{path}"] = value
        else:
            left |= {f"{family.layer}{i}/{path}": value[i] for i in range(value.shape[0])}
    return traverse_util.unflatten_dict(left, sep="/")


def stacked(module: nn.Module, params: PyTree) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns ({path: array} outside the layers, {path inside a layer: array of all layers [layers, ...]})."""
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    name = family_of(module).layer
    if _is_scanned(module):
        prefix = f"{name}s/"
        inside = {path.removeprefix(prefix): x for path, x in flat.items() if path.startswith(prefix)}
        return {path: x for path, x in flat.items() if not path.startswith(prefix)}, inside
    outside, numbered = {}, {}
    for path, value in flat.items():
        match = re.match(rf"{name}(\d+)/(.*)", path)
        if match is None:
            outside[path] = value
        else:
            numbered.setdefault(match[2], {})[int(match[1])] = value
    return outside, {path: jnp.stack([by[i] for i in sorted(by)]) for path, by in numbered.items()}


def unscanned(module: nn.Module, params: PyTree) -> tuple[nn.Module, PyTree]:
    """Returns the same network with every layer a module of its own and nothing computed again: it can be watched."""
    if not isinstance(module, Decoder):
        return module, params
    plain = module.clone(options=dataclasses.replace(module.options, scan=False, remat=""))
    if not module.options.scan:
        return plain, params
    outside, inside = stacked(module, params)
    depth = module.options.depth
    flat = outside | {f"{DECODER.layer}{i}/{path}": x[i] for path, x in inside.items() for i in range(depth)}
    return plain, traverse_util.unflatten_dict(flat, sep="/")


def changed(now: Sizes, left: Sizes) -> tuple[str, ...]:
    """Returns the units of which some go; KV groups are named where several heads share one."""
    names = [name for name in UNITS if name != "kv_heads" or now.kv_heads < now.heads]
    return tuple(name for name in names if getattr(left, name) < getattr(now, name))


def _is_scanned(module: nn.Module) -> bool:
    return isinstance(module, Decoder) and module.options.scan
