"""Published methods made of several losses of this library, with arguments in the order of a Term: inputs, targets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses._contrast import contrastive_constants
from kd_jax.losses._numerics import (
    absolute,
    adaptive_average_pool,
    flatten,
    log_probs,
    pool_to_smaller,
    require_maps,
    require_same_shape,
    scalar_like,
    to_float,
    unit,
)
from kd_jax.losses.feature import (
    class_attention_loss,
    feature_hint_loss,
    hierarchical_context_loss,
    overhaul_loss,
    relu_margin,
    softmax_regression_loss,
)
from kd_jax.losses.needs import reads_every_logit
from kd_jax.losses.representation import (
    contrastive_representation_loss,
    update_memory_bank,
)
from kd_jax.losses.response import (
    dkd_loss,
    kd_loss,
    learned_temperature,
    nkd_loss,
    standardize_logits,
    topk_kd_loss,
    wsld_loss,
)
from kd_jax.ranges import Count, NotNegative, Positive, Share
from kd_jax.types import Array, Memory


def _teacher_labels_where_none(loss: Callable[..., Array]) -> Callable[..., Array]:
    """Returns the loss with the teacher's predicted class as the label where there is none (-1), for transfer sets."""

    @functools.wraps(loss)
    def with_labels(student: Array, teacher: Array, labels: Array, **options: Any) -> Array:
        return loss(student, teacher, jnp.where(labels >= 0, labels, teacher.argmax(-1)), **options)

    return with_labels


dkd_transfer_loss = _teacher_labels_where_none(dkd_loss)
nkd_transfer_loss = _teacher_labels_where_none(nkd_loss)
wsld_transfer_loss = _teacher_labels_where_none(wsld_loss)


@reads_every_logit
def standardized_kd_loss(student: Array, teacher: Array, *, temperature: Positive[Array | float] = 2.0) -> Array:
    """Computes kd_loss of standardised logits [..., classes]; returns [...]. Sun et al., 2024, arXiv 2403.01427."""
    return kd_loss(standardize_logits(student), standardize_logits(teacher), temperature=temperature)


def several_temperatures_kd_loss(
    student: Array, teacher: Array, *, temperatures: Sequence[float] = (3.0, 4.0, 5.0)
) -> Array:
    """Computes the sum over T of kd_loss. Logits [..., classes] of one shape; returns [...]. Jin et al., CVPR 2023."""
    first, *rest = (kd_loss(student, teacher, temperature=t) for t in temperatures)
    return sum(rest, first)


def curriculum_kd_loss(
    student: Array,
    raw: Array,
    teacher: Array,
    *,
    start: Positive[float] = 1.0,
    end: Positive[float] = 20.0,
    strength: NotNegative[Array | float] = 1.0,
) -> Array:
    """Computes kd_loss at T = learned_temperature(raw); `raw`, a number, is trained to make the loss larger.

    Logits [batch, classes]; returns [batch]. The connector `learned_scalar` holds `raw`. CTKD, arXiv 2211.16231.
    """
    return kd_loss(student, teacher, temperature=learned_temperature(raw, start=start, end=end, strength=strength))


def review_kd_loss(*maps: Array) -> Array:
    """Computes the sum over stages of hierarchical_context_loss(fused student map, teacher map).

    maps: n fused maps, then n teacher maps. Returns [batch]. Chen et al., "Distilling Knowledge via Knowledge Review",
    2021, arXiv 2104.09044.
    """
    maps = tuple(m[:, None, None, :] if m.ndim == 2 else m for m in maps)  # an embedding is a 1 x 1 map
    half = len(maps) // 2
    first, *rest = (hierarchical_context_loss(s, t) for s, t in zip(maps[:half], maps[half:], strict=True))
    return sum(rest, first)


def top_classes_loss(
    student: Array, teacher: Array, *, k: Count[int] = 5, temperature: Positive[Array | float] = 4.0
) -> Array:
    """Computes topk_kd_loss with the teacher's k most likely classes, all others in one bucket, both sides at T.

    Logits [..., classes] of one shape, ValueError otherwise; returns [...]. k is cut off at the number of classes. It
    is the loss on a cache that holds k classes.
    """
    require_same_shape("top_classes_loss", student, teacher)
    (teacher,) = to_float(teacher)
    log_p, ids = jax.lax.top_k(log_probs(teacher, temperature), min(k, teacher.shape[-1]))
    return topk_kd_loss(student, log_p, ids, temperature=temperature, teacher_temperature=temperature)


def teacher_head_loss(
    student: Array,
    teacher: Array,
    teacher_logits: Array,
    *,
    head: Mapping[str, Array],
    logit_weight: NotNegative[Array | float] = 1.0,
) -> Array:
    """Computes mean (s - t)^2 + logit_weight * softmax_regression_loss(head(s), teacher logits) (SRRL).

    student, teacher [batch, width], the student already connected; head {"kernel", "bias"} of the teacher; [batch].
    Yang, Martinez, Bulat, Tzimiropoulos, "Knowledge Distillation via Softmax Regression Representation Learning", 2021.
    """
    x, kernel, bias = to_float(student, head["kernel"], head["bias"])
    read = softmax_regression_loss(x @ kernel + jnp.expand_dims(bias, 0), teacher_logits)
    return feature_hint_loss(student, teacher) + scalar_like(logit_weight, read) * read


def class_attention_transfer_loss(
    student: Array,
    student_head: Mapping[str, Array],
    teacher: Array,
    teacher_head: Mapping[str, Array],
    *,
    resolution: Count[int] = 2,
    normalize: bool = True,
) -> Array:
    """Computes class_attention_loss of class activation maps, map @ kernel of the head at every position (CAT-KD).

    Maps [batch, height, width, channels], heads {"kernel"}; returns [batch]. A bias is left out: it would move a whole
    map, and the authors' networks end in a 1 x 1 convolution without one.
    Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, arXiv 2304.12777.
    """
    require_maps("class_attention_transfer_loss", student, teacher)

    def activation_maps(x: Array, head: Mapping[str, Array]) -> Array:
        x, kernel = to_float(x, head["kernel"])
        # Pooling commutes with the head, and is far cheaper on channels than on classes.
        return adaptive_average_pool(x, (resolution, resolution)) @ kernel

    s, t = activation_maps(student, student_head), activation_maps(teacher, teacher_head)
    return class_attention_loss(s, t, resolution=resolution, normalize=normalize)


def pooled_hint_loss(student: Array, teacher: Array) -> Array:
    """Computes feature_hint_loss of two maps, the larger pooled to the size of the smaller: SimKD, arXiv 2203.14001.

    Maps [batch, height, width, channels] with equal channels, ValueError otherwise; returns [batch].
    """
    require_maps("pooled_hint_loss", student, teacher)
    return feature_hint_loss(*pool_to_smaller(*to_float(student, teacher)))


def factor_attention_loss(student: Array, teacher: Array) -> Array:
    """Computes the mean over positions of |n2(flat mean_C s^2) - n2(flat mean_C t^2)| of two factors.

    Maps [batch, height, width, channels]; the larger is pooled to the smaller; returns [batch]. RepDistiller's FT (Kim
    et al., 2018, arXiv 1802.04977), of weight 200; the paper's form is `factor_transfer_loss`.
    """
    require_maps("factor_attention_loss", student, teacher)
    student, teacher = pool_to_smaller(*to_float(student, teacher))
    s, t = (unit(flatten(jnp.mean(x**2, axis=-1))) for x in (student, teacher))
    return jnp.mean(absolute(s - t), axis=1)


def overhaul_norm_loss(student: Array, teacher: Array, *, norm: Mapping[str, Array]) -> Array:
    """Computes overhaul_loss with the margin of the teacher's last BatchNorm, {"scale", "bias"} [channels].

    Pre-activations [batch, height, width, channels] (the student's connected); a larger map is pooled to the smaller;
    returns [batch]. Heo et al., 2019, arXiv 1904.01866.
    """
    require_maps("overhaul_norm_loss", student, teacher)
    student, teacher = pool_to_smaller(*to_float(student, teacher))
    return overhaul_loss(student, teacher, relu_margin(norm["scale"], norm["bias"]))


def overhaul_batch_loss(student: Array, teacher: Array) -> Array:
    """Computes overhaul_loss, where the margin of a channel is the mean of the teacher's negative values in the batch.

    Shapes as `overhaul_norm_loss`. For teachers whose last BatchNorm nobody names: Heo et al., 2019, arXiv 1904.01866,
    take the same expectation from its Gaussian.
    """
    require_maps("overhaul_batch_loss", student, teacher)
    student, teacher = pool_to_smaller(*to_float(student, teacher))
    negative = jnp.where(teacher < 0, teacher, 0).sum((0, 1, 2))
    margin = negative / jnp.maximum((teacher < 0).sum((0, 1, 2)), 1).astype(teacher.dtype)
    return overhaul_loss(student, teacher, margin)


def negative_rows(step: Array, index: Array, classes: Mapping[str, Array], number: int) -> Array:
    """Draws row numbers [batch, number] of other classes, with replacement; a function of the step alone.

    So a resumed run draws the same. `classes` are the tables of `class_tables`, `index` int [batch] the rows drawn for.
    """
    start, size = classes["start"][index][:, None], classes["size"][index][:, None]
    rows = classes["order"].shape[0]
    key = jax.random.fold_in(jax.random.key(0), step)
    drawn = jax.random.randint(key, (index.shape[0], number), 0, jnp.maximum(rows - size, 1))
    return classes["order"][jnp.where(drawn >= start, drawn + size, drawn)]


def class_tables(examples: int, labels: np.ndarray | None = None) -> dict[str, Array]:
    """Returns {"order": rows by class, "start", "size": of each row's class in that order}, int32 [examples].

    A row without a label (-1), or any where `labels` is None, is in no class: its negatives come from all rows.
    """
    if labels is None:
        labels = np.full(examples, -1)
    order = np.argsort(labels, kind="stable")
    classes, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    at = np.searchsorted(classes, labels)
    start, size = first[at], np.where(labels < 0, 0, sizes[at])
    return {k: jnp.asarray(v, jnp.int32) for k, v in (("order", order), ("start", start), ("size", size))}


def contrastive_memory_loss(
    student: Array,
    teacher: Array,
    *,
    memory: Mapping[str, Any],
    index: Array,
    step: Array,
    negatives: Count[int] = 16384,
    temperature: Positive[float] = 0.07,
    where: Array | None = None,
) -> Array:
    """Computes contrastive_representation_loss against the banks of `contrastive_memory` (CRD, arXiv 1910.10699).

    student, teacher [batch, width], index int and where bool [batch]; returns [batch]. Negatives are drawn with
    replacement from the examples of other classes, as the authors' code does.
    """
    rows = negative_rows(step, jnp.asarray(index), memory["classes"], negatives)
    options = dict(index=index, negatives=rows, temperature=temperature, where=where)
    constants = contrastive_constants(student, teacher, memory, memory, index, rows, temperature, where)
    return contrastive_representation_loss(
        student, teacher, student_bank=memory["student"], teacher_bank=memory["teacher"], **constants, **options
    )


def contrastive_memory(
    examples: int,
    *,
    labels: np.ndarray | None = None,
    width: Count[int] = 128,
    momentum: Share[float] = 0.5,
    negatives: Count[int] = 16384,
    temperature: Positive[float] = 0.07,
) -> Memory:
    """Returns the memory of `contrastive_memory_loss`: banks {student, teacher} [examples, width], constants, classes.

    `examples` is the size of the training set, `labels` int [examples] are its classes (`class_tables`). The term reads
    its memory at the path "memory".
    """
    edge = (width / 3) ** -0.5
    keys = jax.random.split(jax.random.key(0))
    first: dict[str, Any] = {
        side: jax.random.uniform(key, (examples, width), minval=-edge, maxval=edge)
        for side, key in zip(("student", "teacher"), keys, strict=True)
    } | {"student_constant": jnp.zeros(()), "teacher_constant": jnp.zeros(())}
    first["classes"] = class_tables(examples, labels)

    def update(memory: dict[str, Array], inputs: tuple[Array, ...], context: Mapping[str, Any]) -> dict[str, Array]:
        index, (student, teacher) = context["batch"]["index"], inputs
        rows = negative_rows(context["step"], index, memory["classes"], negatives)
        constants = contrastive_constants(student, teacher, memory, memory, index, rows, temperature)
        banks = {
            side: update_memory_bank(memory[side], anchor, index, momentum=momentum)
            for side, anchor in (("student", student), ("teacher", teacher))
        }
        return {**memory, **constants, **banks}

    return Memory(first, update)
