"""How well a network fits the examples it learned from: a student that cannot is too small, or trained too briefly."""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_jax.data.source import subset
from kd_jax.measure.subject import Measure, Measured, Subject, infer_of
from kd_jax.ranges import Count


def measure(subject: Subject, examples: Count[int] = 2000) -> Measured:
    """Returns the accuracy in evaluation mode on labelled training examples of the student, at most so many.

    Which ones is drawn by the seed; no example is augmented. The teacher may have learned from others. Nothing of a
    teacher whose stored answers are all that is here, or of a set whose labels nobody read.
    """
    source = subject.source("train")
    if source.labels is None:
        return Measured({})
    rows = np.flatnonzero(source.labelled)
    if len(rows) > examples:
        rows = np.sort(np.random.default_rng(subject.seed).choice(rows, examples, replace=False))
    if not len(rows):
        return Measured({})
    few = dataclasses.replace(subject, sources={**subject.sources, "train": subset(source, rows)})
    values = {}
    for role in subject.networks:
        network = subject.network(role)
        if network is not None:
            infer, hits = infer_of(network), []
            for batch in few.batches("train"):
                right = np.asarray(infer(few.prepared(batch))).argmax(-1) == np.asarray(batch["label"])
                hits.append(right[np.asarray(batch["mask"])])
            values[role] = {"train_accuracy": float(np.concatenate(hits).mean()), "examples": len(rows)}
    return Measured(values)


MEASURE = Measure(
    measure,
    rows={"train_accuracy": ("accuracy on up to {examples:,} training examples", "%")},
    needs=("classes",),
    cheap=True,
)
