"""Losses against labels and targets, which train a network without a teacher."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from kd_jax.losses._numerics import (
    expected,
    log_probs,
    mean_possible,
    mean_rest,
    over_shards,
    possible,
    require_same_shape,
    scalar_like,
    to_float,
)
from kd_jax.losses.needs import by_token
from kd_jax.ranges import BelowOne, NotNegative

Array = jax.Array


def require_labels(what: str, labels: Array, logits: Array) -> Array:
    """Returns the labels if they are integers of the logits' leading shape; raises ValueError otherwise."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"{what}: labels must be integers of shape {logits.shape[:-1]} for logits {logits.shape}, "
            f"got {labels.dtype} {labels.shape}"
        )
    return labels


def pick_label(values: Array, labels: Array) -> Array:
    """Returns values[..., label]; a label outside the classes (-1: none, masked elsewhere) reads the nearest class."""
    index = jnp.clip(labels, 0, values.shape[-1] - 1)
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _pick_in_shards(log_p: Array, labels: Array, axis_name: str) -> Array:
    """Is pick_label for sharded classes: the shard that has the class gives its value, the others 0."""
    size = log_p.shape[-1]
    index = jnp.clip(labels, 0, size * jax.lax.axis_size(axis_name) - 1) - size * jax.lax.axis_index(axis_name)
    return over_shards(jnp.where((index >= 0) & (index < size), pick_label(log_p, index), 0), axis_name)


@by_token
def cross_entropy_loss(
    logits: Array, labels: Array, *, smoothing: BelowOne[Array | float] = 0.0, axis_name: str | None = None
) -> Array:
    """Computes -sum_c y_c log softmax(logits)_c, with y = (1 - smoothing) label + smoothing / classes.

    logits [..., classes]; labels either integers [...] or probabilities [..., classes]; returns [...]. An integer label
    of -1 (no label) gives a finite value that means nothing: mask it outside. Raises ValueError on other shapes.
    `axis_name` is the mesh axis that shards the classes, inside shard_map; integer labels count over all shards. Label
    smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision",
    2016, arXiv 1512.00567.
    """
    (logits,) = to_float(logits)
    labels = jnp.asarray(labels)
    log_p = log_probs(logits, 1.0, axis_name)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = require_labels("cross_entropy_loss", labels, logits)
        hard = -(pick_label(log_p, labels) if axis_name is None else _pick_in_shards(log_p, labels, axis_name))
    else:
        if labels.shape != logits.shape:
            raise ValueError(
                f"cross_entropy_loss: label probabilities must have the shape of the logits, "
                f"got logits {logits.shape} and labels {labels.shape}"
            )
        hard = -over_shards(expected(labels.astype(log_p.dtype), log_p), axis_name)
    smoothing = scalar_like(smoothing, log_p)
    return (1 - smoothing) * hard - smoothing * _mean_of_classes(log_p, axis_name)


def _mean_of_classes(log_p: Array, axis_name: str | None) -> Array:
    """Computes the mean of log p over the classes that are possible."""
    there = possible(log_p)
    if axis_name is None:
        return mean_possible(log_p, there)
    mean = jax.lax.pmean(jnp.mean(jnp.where(there, log_p, 0), axis=-1), axis_name)
    number = over_shards(jnp.sum(there, axis=-1), axis_name)
    return mean * (log_p.shape[-1] * jax.lax.axis_size(axis_name) / jnp.maximum(number, 1).astype(log_p.dtype))


def mean_squared_loss(prediction: Array, target: Array) -> Array:
    """Computes the mean of (prediction - target)^2 over all but the batch.

    Both [batch, ...] of one shape, ValueError otherwise; returns [batch].
    """
    prediction, target = to_float(prediction, target)
    require_same_shape("mean_squared_loss", prediction, target)
    return mean_rest((prediction - target) ** 2)


def binary_cross_entropy_loss(logits: Array, labels: Array) -> Array:
    """Computes the mean over all but the batch of -y log sigmoid(z) - (1 - y) log sigmoid(-z).

    logits and labels (0, 1 or a probability) [batch, ...] of one shape, ValueError otherwise; returns [batch]. A label
    of -1 or nan is not known and is left out of the mean; where none is known the value is 0.
    """
    logits, labels = to_float(logits, labels)
    require_same_shape("binary_cross_entropy_loss", logits, labels)
    there = (labels >= 0).astype(logits.dtype)  # 0 for nan too
    labels = jnp.where(labels >= 0, labels, 0.0)
    # -inf times 0: a label of 0 or 1 that the network is sure of
    yes = jnp.where(labels != 0, jax.nn.log_sigmoid(jnp.where(labels != 0, logits, 0)), 0)
    no = jnp.where(labels != 1, jax.nn.log_sigmoid(jnp.where(labels != 1, -logits, 0)), 0)
    values = -labels * yes - (1 - labels) * no
    return mean_rest(values * there) / jnp.maximum(mean_rest(there), jnp.finfo(logits.dtype).tiny)


def ctc_loss(
    logits: Array, logit_paddings: Array, labels: Array, label_paddings: Array, *, blank_id: NotNegative[int] = 0
) -> Array:
    """Computes -log of the probability of all alignments of `labels` with the frames (optax.ctc_loss, in float32).

    logits [batch, frames, classes], logit_paddings [batch, frames] (1 on padding), labels int [batch, length],
    label_paddings [batch, length] (1 on padding); returns [batch], not divided by the length. Raises ValueError on
    shapes that do not fit. Graves, Fernandez, Gomez, Schmidhuber, "Connectionist Temporal Classification", ICML 2006.
    Labels that need more frames than there are (one each, and one between two equal neighbours) are impossible: inf,
    as in PyTorch, with gradient 0; optax has about 1e5. A term's `where` leaves such examples out.
    """
    logits, logit_paddings, label_paddings = to_float(logits, logit_paddings, label_paddings)
    labels = jnp.asarray(labels)
    paddings_fit = logit_paddings.shape == logits.shape[:2] and label_paddings.shape == labels.shape
    if not paddings_fit or labels.shape[0] != logits.shape[0]:
        raise ValueError(
            f"ctc_loss: logits {logits.shape} need paddings of shape {logits.shape[:2]}, got {logit_paddings.shape}; "
            f"labels {labels.shape} need paddings of the same shape, got {label_paddings.shape}"
        )
    value = optax.ctc_loss(logits, logit_paddings, labels, label_paddings, blank_id=blank_id)
    counted = label_paddings == 0
    repeated = (labels[:, 1:] == labels[:, :-1]) & counted[:, 1:] & counted[:, :-1]  # a blank stands between them
    needed = counted.sum(1) + repeated.sum(1)
    return jnp.where((logit_paddings == 0).sum(1) < needed, jnp.inf, value)
