"""Losses for outputs with positions: segmentation and detection.

Maps are [batch, height, width, channels]; boxes [..., 4] are (x1, y1, x2, y2).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kd_jax.losses._numerics import (
    absolute,
    einsum,
    expected,
    kl,
    log_probs,
    mean_rest,
    of_all,
    possible,
    require_maps,
    require_same_shape,
    squared,
    sum_rest,
    to_float,
    unit,
)
from kd_jax.losses.needs import static_options
from kd_jax.ranges import Count, Portion, Positive

Array = jax.Array


def channel_wise_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 4.0) -> Array:
    """Computes T^2 times the mean over channels of KL(p_t, p_s), p = softmax over the positions of a channel at T.

    Maps [batch, height, width, channels] of one shape, ValueError otherwise; returns [batch].
    Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction" (CWD), 2020, arXiv 2011.13256.
    """
    s, t = to_float(student, teacher)
    require_maps("channel_wise_loss", s, t)
    require_same_shape("channel_wise_loss", s, t)
    # [batch, channels, positions]; a temperature for each example becomes [batch, 1].
    s, t = (jnp.swapaxes(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 2) for x in (s, t))
    temperature = jnp.asarray(temperature)
    if temperature.ndim:
        temperature = temperature[:, None]
    return jnp.mean(squared(temperature, s) * kl(log_probs(t, temperature), log_probs(s, temperature)), axis=1)


def _affinity(x: Array, scale: float) -> Array:
    """Computes the cosines [batch, regions, regions] of the max-pooled regions of a map; norms are detached."""
    patch = tuple(max(int(size * scale), 1) for size in x.shape[1:3])
    # The last window may hang over the edge (ceil_mode).
    pads = [(0, -size % width) for size, width in zip(x.shape[1:3], patch, strict=True)]
    window = (1, *patch, 1)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, [(0, 0), *pads, (0, 0)])
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    norm = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)))
    x = jnp.where(norm > 0, x / (norm + 1e-8), 0)
    return einsum("bmc,bnc->bmn", x, x)


@static_options("scale")
def pairwise_affinity_loss(student: Array, teacher: Array, *, scale: Portion[float] = 0.5) -> Array:
    """Computes the mean over pairs of regions of (a_s - a_t)^2, a = their cosine, a region = the maxima over a patch.

    A patch has `scale` (static) times the map's height and width; the last may be cut off (ceil). Maps [batch, height,
    width, channels] of one height and width, channels may differ, ValueError otherwise; returns [batch]. Norms are
    detached, as published. Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge Distillation for Semantic
    Segmentation", 2019, arXiv 1903.04197. A dead region has cosine 0 with gradient 0 (published: 1e8).
    """
    s, t = to_float(student, teacher)
    require_maps("pairwise_affinity_loss", s, t)
    if s.shape[1:3] != t.shape[1:3]:
        raise ValueError(
            f"pairwise_affinity_loss: maps must have one height and width, got student {s.shape} and teacher {t.shape}"
        )
    return mean_rest((_affinity(s, scale) - _affinity(t, scale)) ** 2)


def pixel_wise_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 1.0) -> Array:
    """Computes -T^2 sum_c p_t log p_s, averaged over the positions.

    Logits [batch, ..., classes] of one shape, ValueError otherwise; returns [batch].
    Liu et al., 2019, arXiv 1903.04197. The authors' code sums over the batch where we average, and has T = 1.
    """
    s, t = to_float(student, teacher)
    require_same_shape("pixel_wise_loss", s, t)
    values = squared(temperature, s) * -expected(jnp.exp(log_probs(t, temperature)), log_probs(s, temperature))
    return mean_rest(values)


def localization_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 10.0) -> Array:
    """Computes T^2 KL(p_t, p_s) / bins, p the distributions over the bins of one side of a box.

    Logits [..., bins] of one shape, ValueError otherwise; returns [...] (one value a box side).
    Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng, "Localization Distillation for Dense Object Detection" (LD), 2021,
    arXiv 2102.12252. As the authors' code, the mean over the bins, not the sum.
    """
    s, t = to_float(student, teacher)
    require_same_shape("localization_loss", s, t)
    divergence = kl(log_probs(t, temperature), log_probs(s, temperature))
    return squared(temperature, s) * divergence / s.shape[-1] * of_all(possible(s, t), s)


def _require_boxes(what: str, boxes: Array, targets: Array) -> tuple[Array, Array]:
    boxes, targets = to_float(boxes, targets)
    require_same_shape(what, boxes, targets)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{what}: boxes are [..., 4] (x1, y1, x2, y2), got {boxes.shape}")
    return boxes, targets


def _overlap(boxes: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Computes the areas of the intersection and the union, and the sides [..., 2] of the smallest box around both."""
    low, high = jnp.maximum(boxes[..., :2], targets[..., :2]), jnp.minimum(boxes[..., 2:], targets[..., 2:])
    shared = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    areas = [jnp.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (boxes, targets)]
    around = jnp.maximum(boxes[..., 2:], targets[..., 2:]) - jnp.minimum(boxes[..., :2], targets[..., :2])
    return shared, areas[0] + areas[1] - shared, jnp.maximum(around, 0)


def giou_loss(boxes: Array, targets: Array) -> Array:
    """Computes 1 - I / U + (C - U) / C; I, U areas of intersection and union, C of the smallest box around both.

    Boxes [..., 4] of one shape, ValueError otherwise; returns [...]. U and C are at least 1e-6. Rezatofighi, Tsoi,
    Gwak, Sadeghian, Reid, Savarese, "Generalized Intersection over Union", 2019, arXiv 1902.09630.
    """
    shared, union, around = _overlap(*_require_boxes("giou_loss", boxes, targets))
    union, around = jnp.maximum(union, 1e-6), jnp.maximum(jnp.prod(around, axis=-1), 1e-6)
    return 1 - shared / union + (around - union) / around


def diou_loss(boxes: Array, targets: Array) -> Array:
    """Computes 1 - I / U + |distance of the centres|^2 / |diagonal of the smallest box around both|^2.

    Boxes [..., 4] of one shape, ValueError otherwise; returns [...]. 1e-6 is added to U and to the diagonal. Zheng,
    Wang, Liu, Li, Ye, Ren, "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", 2019, arXiv
    1911.08287.
    """
    boxes, targets = _require_boxes("diou_loss", boxes, targets)
    shared, union, around = _overlap(boxes, targets)
    centres = [(x[..., :2] + x[..., 2:]) / 2 for x in (boxes, targets)]
    apart = jnp.sum((centres[0] - centres[1]) ** 2, axis=-1)
    return 1 - shared / (union + 1e-6) + apart / (jnp.sum(around**2, axis=-1) + 1e-6)


def box_distances(logits: Array) -> Array:
    """Computes sum_i i softmax(z)_i: the side's distance, in bins, of the distribution that localization_loss compares.

    Logits [..., bins]; returns [...]. Temperature 1. Li et al., "Generalized Focal Loss", 2020, arXiv 2006.04388.
    """
    (z,) = to_float(logits)
    return einsum("...b,b->...", jax.nn.softmax(z, axis=-1), jnp.arange(z.shape[-1], dtype=z.dtype))


def box_masks(boxes: Array, *, where: Array, size: tuple[int, int], image: tuple[float, float]) -> tuple[Array, Array]:
    """Returns (foreground, background) [batch, H, W] weights of the cells of a map, for `focal_feature_loss`.

    Foreground: the largest 1 / (rows columns) of the boxes that reach the cell, on rows and columns floor(low) to
    ceil(high) inclusive, those beyond the map counted too. Background: 1 / their number on cells in no box, or 0.
    boxes [batch, n, 4] in units of an `image` (height, width), where bool [batch, n] those that exist, `size` (H, W) of
    the map. ValueError on other shapes. Yang et al., "Focal and Global Knowledge Distillation for Detectors" (FGD),
    2021, arXiv 2111.11837.
    """
    (boxes,) = to_float(boxes)
    where = jnp.asarray(where).astype(bool)
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or where.shape != boxes.shape[:2]:
        raise ValueError(f"box_masks: boxes [batch, n, 4] need where [batch, n], got {boxes.shape} and {where.shape}")
    boxes = jnp.where(where[..., None], boxes, 0)
    scale = jnp.asarray([size[1] / image[1], size[0] / image[0]], boxes.dtype)[None, None]
    low, high = jnp.floor(boxes[..., :2] * scale), jnp.ceil(boxes[..., 2:] * scale)
    weight = jnp.where(where, 1 / jnp.prod(high - low + 1, axis=-1), 0)
    columns, rows = (jnp.arange(n, dtype=boxes.dtype)[None, None] for n in (size[1], size[0]))
    in_x = (columns >= low[..., :1]) & (columns <= high[..., :1])
    in_y = (rows >= low[..., 1:]) & (rows <= high[..., 1:])
    inside = in_y[..., :, None] & in_x[..., None, :]
    foreground = jnp.max(jnp.where(inside, weight[..., None, None], 0), axis=1, initial=0)
    outside = (foreground == 0).astype(boxes.dtype)
    return foreground, outside / jnp.maximum(jnp.sum(outside, axis=(1, 2), keepdims=True), 1)


def _focus(x: Array, temperature: Array | float) -> tuple[Array, Array]:
    """Computes H W softmax over positions of mean_channels |x| / T, and C softmax over channels of mean_positions."""
    size = absolute(x)
    space, channel = size.mean(3) / temperature, size.mean((1, 2)) / temperature
    flat = jax.nn.softmax(space.reshape(len(x), -1), axis=-1) * space[0].size
    return flat.reshape(*space.shape, 1), (jax.nn.softmax(channel, axis=-1) * x.shape[-1])[:, None, None]


def focal_feature_loss(student: Array, teacher: Array, mask: Array, *, temperature: Positive[float] = 0.5) -> Array:
    """Computes sum (s - t)^2 A_space A_channel mask; A = the teacher's attention over positions and over channels.

    A_space = H W softmax(mean_C |t| / T), A_channel = C softmax(mean_HW |t| / T). Maps [batch, height, width, channels]
    of one shape, mask [batch, height, width] one of `box_masks`; returns [batch]; ValueError on other shapes. Yang et
    al. (FGD), 2021, arXiv 2111.11837, one of its terms, without the strides' scales.
    """
    s, t, mask = to_float(student, teacher, mask)
    require_maps("focal_feature_loss", s, t)
    require_same_shape("focal_feature_loss", s, t)
    if mask.shape != s.shape[:3]:
        raise ValueError(f"focal_feature_loss: maps {s.shape} need a mask {s.shape[:3]}, got {mask.shape}")
    space, channel = _focus(t, temperature)
    return sum_rest((s - t) ** 2 * space * channel * mask[..., None])


def focal_attention_loss(student: Array, teacher: Array, *, temperature: Positive[float] = 0.5) -> Array:
    """Computes sum |A_space(s) - A_space(t)| + sum |A_channel(s) - A_channel(t)|, A as in `focal_feature_loss`.

    Maps [batch, height, width, channels] of one height, width and number of channels, ValueError otherwise; returns
    [batch]. Yang et al. (FGD), 2021, arXiv 2111.11837.
    """
    s, t = to_float(student, teacher)
    require_maps("focal_attention_loss", s, t)
    require_same_shape("focal_attention_loss", s, t)
    pairs = zip(_focus(s, temperature), _focus(t, temperature), strict=True)
    return sum((sum_rest(absolute(a - b)) for a, b in pairs), jnp.zeros(len(s), s.dtype))


def intra_class_loss(student: Array, teacher: Array, labels: Array, *, classes: Count[int]) -> Array:
    """Computes the mean over pixels of (cos(s, centre of its class in s) - the same of t)^2.

    The centre is the mean of the image's pixels of that class. Maps [batch, height, width, channels] of one height and
    width, channels may differ; labels int [batch, rows, columns] are resized to them by the nearest; those outside
    0..classes - 1 are ignored: they add 0 and count in the mean, as in public code. Returns [batch]; ValueError on
    other shapes. Wang, Zhou, Jiang, Bai, Xu, "Intra-class Feature Variation Distillation for Semantic Segmentation"
    (IFVD), ECCV 2020.
    """
    s, t = to_float(student, teacher)
    require_maps("intra_class_loss", s, t)
    labels = jnp.asarray(labels)
    if s.shape[1:3] != t.shape[1:3] or labels.ndim != 3 or labels.shape[0] != s.shape[0]:
        raise ValueError(
            f"intra_class_loss: maps must have one height and width and labels [batch, rows, columns], got student "
            f"{s.shape}, teacher {t.shape}, labels {labels.shape}"
        )
    for axis in (1, 2):
        size = s.shape[axis]
        labels = jnp.take(labels, jnp.arange(size) * labels.shape[axis] // size, axis=axis)
    members = jax.nn.one_hot(labels, classes, dtype=s.dtype)

    def closeness(x: Array) -> Array:
        centres = unit(einsum("bhwk,bhwc->bkc", members, x))  # the cosine does not see the number of pixels
        return jnp.sum(unit(x) * einsum("bhwk,bkc->bhwc", members, centres), axis=-1)

    return mean_rest((closeness(s) - closeness(t)) ** 2)
