"""Kinds of transformers: which axes of which parameters are those of heads, FFN units, layers and width."""

from __future__ import annotations

import dataclasses
import re

import flax.linen as nn

from kd_jax.models.language.bert import Encoder
from kd_jax.models.language.decoder import Decoder
from kd_jax.models.vision.vit import ViT

UNITS = ("layers", "width", "heads", "kv_heads", "hidden")


@dataclasses.dataclass(frozen=True)
class Family:
    """How the parameters of a kind of transformer are laid out.

    `axes` holds (pattern of a path inside its layer, unit of each axis or ""); the first that matches counts.
    `heads_read`, `hidden_read` name the module of a layer that reads the heads' answers and the FFN units,
    `norms` is the pattern of the norms whose output the next module reads. A layer is `layer` and a number.
    """

    axes: tuple[tuple[str, tuple[str, ...]], ...]
    heads_read: str
    hidden_read: str
    norms: str
    layer: str = "layer"

    @property
    def units(self) -> tuple[str, ...]:
        """Returns the units that can be taken out."""
        there = {unit for _, axes in self.axes for unit in axes}
        return tuple(unit for unit in UNITS if unit == "layers" or unit in there)


DECODER = Family(
    (
        (r"(embed|head|positions)/embedding", ("", "width")),
        (r"(post_)?norm\d?/(scale|bias)", ("width",)),
        (r"attention/(query|key)_norm/(scale|bias)", ("",)),
        (r"attention/query/kernel", ("width", "heads")),
        (r"attention/query/bias", ("heads",)),
        (r"attention/(key|value)/kernel", ("width", "kv_heads")),
        (r"attention/(key|value)/bias", ("kv_heads",)),
        (r"attention/out/kernel", ("heads", "width")),
        (r"mlp/(up|gate)/kernel", ("width", "hidden")),
        (r"mlp/(up|gate)/bias", ("hidden",)),
        (r"mlp/down/kernel", ("hidden", "width")),
        (r"(attention/out|mlp/down)/bias", ("width",)),
    ),
    heads_read="attention/out",
    hidden_read="mlp/down",
    norms=r"(layer\d+/)?norm\d?",
)
ENCODER = Family(
    (
        (r"(words|positions|types)/embedding", ("", "width")),
        (r"(transform_)?norm\d?/(scale|bias)", ("width",)),
        (r"attention/(queries|keys|values)_dense/kernel", ("width", "heads")),
        (r"attention/(queries|keys|values)_dense/bias", ("heads",)),
        (r"attention/out/kernel", ("heads", "width")),
        (r"mlp1/kernel", ("width", "hidden")),
        (r"mlp1/bias", ("hidden",)),
        (r"mlp2/kernel", ("hidden", "width")),
        (r"(attention/out|mlp2)/bias", ("width",)),
        (r"(pooler|transform)/kernel", ("width", "width")),
        (r"(pooler|transform)/bias", ("width",)),
        (r"head/kernel", ("width", "")),
        (r"head/bias|token_bias", ("",)),
    ),
    heads_read="attention/out",
    hidden_read="mlp2",
    norms=r"(layer\d+/)?(transform_)?norm\d?",
)
VIT = Family(
    (
        (r"(mlp1|gate)/kernel", ("", "hidden")),
        (r"(mlp1|gate)/bias", ("hidden",)),
        (r"mlp2/kernel", ("hidden", "")),
        (r".*", ()),
    ),
    heads_read="attention/out",
    hidden_read="mlp2",
    norms=r"(block\d+/)?norm\d?",
    layer="block",
)


def family_of(module: nn.Module) -> Family:
    """Returns the layout of a decoder, an encoder of text or a ViT; ValueError for units that no rule reaches."""
    if isinstance(module, Decoder):
        if module.cross_attends:
            raise ValueError("prune: a decoder that attends to an encoder has heads that no rule reaches.")
        return DECODER
    if isinstance(module, Encoder):
        if module.bottleneck or module.stack > 1:
            raise ValueError(
                f"prune: an encoder with bottleneck={module.bottleneck} and stack={module.stack} has layers that no "
                "rule reaches; expected bottleneck=0, stack=1."
            )
        return ENCODER
    if isinstance(module, ViT):
        return VIT
    raise ValueError(
        f"prune: heads, hidden, layers and width are units of models.language.decoder.Decoder and "
        f"models.language.bert.Encoder, hidden and layers of models.vision.vit.ViT; no rule reaches those of a "
        f"{type(module).__name__}."
    )


def axes_of(family: Family, path: str) -> tuple[str, ...]:
    """Returns the unit of each axis of a parameter, "" where an axis has none; ValueError where no rule reaches it."""
    for pattern, axes in family.axes:
        if re.fullmatch(pattern, path):
            return axes
    raise ValueError(f"prune: no rule reaches the parameter {path!r}, so the network cannot be made smaller.")
