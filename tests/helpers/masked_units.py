"""A transformer whose units are masked, not removed: what the smaller network has to agree with."""

import contextlib
import re

import jax.numpy as jnp
import numpy as np

from kd_jax.compress.families import family_of
from kd_jax.compress.transformer_units import sizes_of
from kd_jax.models.intercept import first_input, intercepted


def ones_at(count, staying):
    mask = np.zeros(count, np.float32)
    mask[np.asarray(staying)] = 1
    return jnp.asarray(mask)


@contextlib.contextmanager
def masked(module, staying):
    """Runs `module` without the units that do not stay; its norms count the channels that stay alone."""
    family, now = family_of(module), sizes_of(module)
    width = ones_at(now.width, staying["width"])
    stretch = np.sqrt(now.width / len(staying["width"]))

    def mask(layer, /, *args, **kwargs):
        number = re.match(rf"{family.layer}(\d+)", layer.path)
        inside = re.sub(rf"^{family.layer}\d+/", "", layer.path)
        if re.fullmatch(rf"{family.layer}\d+", layer.path) and int(number[1]) not in np.asarray(staying["layers"]):
            return first_input(layer, args)
        whole = len(staying["width"]) == now.width
        if not whole and re.fullmatch(rf"({family.layer}\d+/)?(transform_|post_)?norm\d?", layer.path):
            return over_channels(layer, first_input(layer, args), width, stretch)
        if inside == family.heads_read:
            heads = ones_at(now.heads, staying["heads"][int(number[1])])
            args = (first_input(layer, args) * jnp.repeat(heads, now.head_width).reshape(1, 1, -1), *args[1:])
        if inside == family.hidden_read:
            hidden = ones_at(now.hidden, staying["hidden"][int(number[1])])
            args = (first_input(layer, args) * hidden.reshape(1, 1, -1), *args[1:])
        if not whole and layer.path == "head" and first_input(layer, args).ndim == 2:
            args = (first_input(layer, args) * width.reshape(1, -1), *args[1:])
        return layer.call(*args, **kwargs)

    with intercepted(mask):
        yield


def over_channels(layer, x, width, stretch):
    """A norm over the channels that stay: their mean is taken off, and all of them count as if there were no others."""
    width = width.reshape((1,) * (x.ndim - 1) + (-1,))
    x, bias = x * width, layer.parameter("bias")
    if bias is None:
        return layer.call(x * stretch) / stretch * width
    bias = bias.reshape(width.shape)
    x = (x - x.sum(-1, keepdims=True) / width.sum()) * width
    return ((layer.call(x * stretch) - bias) / stretch + bias) * width
