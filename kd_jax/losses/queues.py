"""Losses against a queue of what networks said in the last batches, and the memories that hold the queues.

A queue is as large as its option says, whatever the number of examples. Arguments are in the order of a Term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.losses._contrast import contrastive_constants
from kd_jax.losses._numerics import row_mask, to_float, unit
from kd_jax.losses.composed import negative_rows
from kd_jax.losses.representation import (
    contrastive_representation_loss,
    queue_similarity_loss,
)
from kd_jax.ranges import Count, Positive
from kd_jax.types import Array, Memory


def similarity_queue(examples: int, *, width: Count[int], rows: Count[int] = 1024) -> Memory:
    """Returns the memory of `queued_similarity_loss`: {"queue": [rows, width]}, 0 at first, the newest rows in front.

    `examples` is the size of the training set: a queue that is no smaller would hold every example, and its own answer
    with it; ValueError.
    """
    _check_rows(rows, examples)

    def update(memory: dict[str, Array], inputs: tuple[Array, ...], context: Mapping[str, Any]) -> dict[str, Array]:
        return {"queue": pushed(memory["queue"], inputs[1])}

    return Memory({"queue": jnp.zeros((rows, width))}, update)


def queued_similarity_loss(
    student: Array, teacher: Array, *, memory: Mapping[str, Array], temperature: Positive[Array | float] = 0.07
) -> Array:
    """Computes queue_similarity_loss against the queue of `similarity_queue`, this batch already in front.

    student, teacher [batch, width]; returns [batch]. ValueError for a queue of fewer rows than the batch, or of another
    width. The label-free distillation of lightly-train (2025): rows of the queue stand for classes. Name the teacher
    among the inputs of the term, with the connector `models.foundation_connectors.toward_teacher`; it is frozen.
    """
    queue = pushed(memory["queue"], jax.lax.stop_gradient(teacher))
    return queue_similarity_loss(student, teacher, queue, temperature=temperature)


def contrastive_queue(
    examples: int,
    *,
    rows: Count[int] = 16384,
    width: Count[int] = 128,
    negatives: Count[int] = 16384,
    temperature: Positive[float] = 0.07,
) -> Memory:
    """Returns the memory of `contrastive_queue_loss`: {student, teacher} [rows, width], labels, constants, a count.

    The first rows are random, without a label; until all are replaced Z is that of each batch, and then that of the
    first batch after, where CRD keeps that of the very first. 2 rows width + rows + 3 numbers, where the banks of
    `composed.contrastive_memory` have 2 examples width and three for each example; ValueError where a queue is not
    smaller than these.
    """
    _check_rows(rows, examples)
    keys = jax.random.split(jax.random.key(0))
    first: dict[str, Array] = {
        side: unit(jax.random.normal(key, (rows, width))) for side, key in zip(_SIDES, keys, strict=True)
    }
    first |= {"label": jnp.full(rows, -1, jnp.int32), "filled": jnp.zeros((), jnp.int32)} | {
        f"{side}_constant": jnp.zeros(()) for side in _SIDES
    }

    def update(memory: dict[str, Array], inputs: tuple[Array, ...], context: Mapping[str, Any]) -> dict[str, Array]:
        labels, (student, teacher) = context["batch"]["label"], inputs
        drawn = against_queue(student, teacher, memory, labels, context["step"], negatives, temperature)
        # Z of random rows would be far too small for embeddings, which all look alike at first.
        constants = {k: jnp.where(memory["filled"] >= rows, x, 0) for k, x in drawn["constants"].items()}
        new = {**constants, "label": _shifted(memory["label"], labels), "filled": memory["filled"] + len(labels)}
        return new | {side: pushed(memory[side], x) for side, x in zip(_SIDES, inputs, strict=True)}

    return Memory(first, update)


def contrastive_queue_loss(
    student: Array,
    teacher: Array,
    *,
    memory: Mapping[str, Array],
    labels: Array,
    step: Array,
    negatives: Count[int] = 16384,
    temperature: Positive[float] = 0.07,
    where: Array | None = None,
) -> Array:
    """Computes contrastive_representation_loss with negatives from a queue in place of a bank of every example.

    student, teacher [batch, width], labels int [batch] (-1: none), where bool [batch]; returns [batch]; ValueError for
    a queue of fewer rows than the batch, or of another width. The positive is what the other network says of the same
    example now (detached), where CRD has an average over epochs. Negatives are drawn with replacement from the rows of
    other classes, as the authors' code does; rows and examples without a label are of no class, so such an example may
    meet itself of an epoch before, by a chance of rows / examples at most. Tian, Krishnan, Isola, "Contrastive
    Representation Distillation" (CRD), 2019, arXiv 1910.10699; the queue is that of He et al., "Momentum Contrast",
    2019, arXiv 1911.05722, without a momentum encoder: the teacher is frozen.
    """
    mask = row_mask(where, student.shape[0], "contrastive_queue_loss")
    labels = jnp.where(mask, jnp.asarray(labels), -1)
    drawn = against_queue(student, teacher, memory, labels, step, negatives, temperature, where=mask)
    options = {k: drawn[k] for k in ("student_bank", "teacher_bank", "index", "negatives")} | drawn["constants"]
    return contrastive_representation_loss(student, teacher, temperature=temperature, where=mask, **options)


_SIDES = ("student", "teacher")


def pushed(queue: Array, rows: Array) -> Array:
    """Returns the queue [n, width] with n2(rows) in front, and as many fewer at its end.

    rows [batch, width]; ValueError where the queue has fewer rows, or another width.
    """
    (rows,) = to_float(rows)
    if rows.ndim != 2 or queue.shape[1:] != rows.shape[1:]:
        raise ValueError(f"a queue {queue.shape} takes rows of width {queue.shape[-1]}, these are {rows.shape}")
    return _shifted(queue, unit(rows))


def _shifted(queue: Array, new: Array) -> Array:
    """`new` in front of the queue, which keeps its length."""
    if len(new) > len(queue):
        raise ValueError(f"a queue of {len(queue)} rows is smaller than a batch of {len(new)}: give it more rows")
    return jnp.concatenate([new.astype(queue.dtype), queue[: len(queue) - len(new)]])


def _check_rows(rows: int, examples: int) -> None:
    if rows >= examples:
        raise ValueError(f"a queue of {rows} rows is no smaller than the {examples} training examples: give it fewer")


def against_queue(
    student: Array,
    teacher: Array,
    memory: Mapping[str, Array],
    labels: Array,
    step: Array,
    number: int,
    temperature: float,
    where: Array | None = None,
) -> dict[str, Any]:
    """Returns the arguments of contrastive_representation_loss: banks of batch and queue, and rows of them.

    They are "student_bank", "teacher_bank" [batch + rows, width], "index" [batch], "negatives" [batch, number], and
    "constants" {"student_constant", "teacher_constant"}. ValueError where shapes do not fit.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"a contrast needs one shape, got student {student.shape} and teacher {teacher.shape}")
    batch = len(labels)
    memory = {name: jnp.asarray(value) for name, value in memory.items()}
    banks = {}
    for side, x in zip(_SIDES, (student, teacher), strict=True):
        pushed(memory[side], x)  # its checks
        new = unit(jax.lax.stop_gradient(to_float(x)[0]))
        banks[side] = jnp.concatenate([jnp.where(row_mask(where, batch, "")[:, None], new, 0), memory[side]])
    order = jnp.argsort(memory["label"], stable=True)
    ordered = memory["label"][order]
    start, stop = (jnp.searchsorted(ordered, labels, side=side) for side in ("left", "right"))
    classes = {"order": order, "start": start, "size": jnp.where(labels < 0, 0, stop - start)}
    index = jnp.arange(batch)
    negatives = batch + negative_rows(step, index, classes, number)
    return {
        "student_bank": banks["student"],
        "teacher_bank": banks["teacher"],
        "index": index,
        "negatives": negatives,
        "constants": contrastive_constants(student, teacher, banks, memory, index, negatives, temperature, where),
    }
