"""How well a network fits the examples it learned from: a student that cannot is too small, or trained too briefly."""

from __future__ import annotations

import dataclasses

import numpy as np

from kd_jax.data.source import subset
from kd_jax.measure.subject import Measure, Measured, Subject
from kd_jax.ranges import Count


def measure(subject: Subject, examples: Count[int] = 2000) -> Measured:
    """Returns the accuracy in evaluation mode on labelled training examples of the student, at most so many.

    Which ones is drawn by the seed; no example is augmented. The teacher may have learned from others. Nothing of a
    teacher whose stored answers are all that is here, or of a set whose labels nobody read.
    """
    source = subject.source("train")
    shown = {"train_accuracy": (f"accuracy on up to {examples:,} training examples", "%")}
    rows = np.flatnonzero(source.labelled) if source.labels is not None else np.zeros(0, int)
    if not len(rows):
        return Measured({}, shown)
    if len(rows) > examples:
        rows = np.sort(np.random.default_rng(subject.seed).choice(rows, examples, replace=False))
    few = dataclasses.replace(subject, sources={**subject.sources, "train": subset(source, rows)})
    logits, labels = few.labelled("train")
    hits = {role: float(np.mean(answers.argmax(-1) == labels)) for role, answers in logits.items()}
    return Measured({role: {"train_accuracy": hit, "examples": len(rows)} for role, hit in hits.items()}, shown)


MEASURE = Measure(measure, needs=("classes",), cheap=True)
