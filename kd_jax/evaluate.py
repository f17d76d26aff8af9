"""Evaluation of a classifier on a whole split, alone and against its teacher, as mergeable (sum, count) pairs.

The last batch is padded and masked, never dropped; numbers do not depend on the batch size or the mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from kd_jax import metrics
from kd_jax.terms import lookup, masked_sum_and_count
from kd_jax.types import Array, PyTree, Scheme, TrainState

Sums = dict[str, tuple[Array, Array]]


def classifier_sums(logits: Array, labels: Array, mask: Array, reference: Array | None) -> Sums:
    """Sums over a batch, rows with `mask` False left out: accuracy, nll, per class accuracy, calibration bins and,
    given the teacher's logits, agreement of the argmax and KL(teacher || student) at T = 1.

    Logits are [B, C], labels int [B], mask bool [B], reference [B, C]."""
    hits = metrics.accuracy(logits, labels)
    classes = jax.nn.one_hot(labels, logits.shape[-1]) * mask[:, None]
    confidence, bin_hits, bin_counts = metrics.calibration_bins(logits, labels, mask)
    sums = {
        "accuracy": masked_sum_and_count(hits, mask),
        "nll": masked_sum_and_count(metrics.nll(logits, labels), mask),
        "per_class_accuracy": ((classes * hits[:, None]).sum(0), classes.sum(0)),
        "bins/confidence": (confidence, bin_counts),
        "bins/hits": (bin_hits, bin_counts),
    }
    if reference is not None:
        sums["agreement"] = masked_sum_and_count(metrics.agreement(logits, reference), mask)
        sums["kl"] = masked_sum_and_count(metrics.kl(logits, reference), mask)
    return sums


def finish(sums: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Sums over a whole split -> accuracy, nll, ece, per_class_accuracy (None for a class that is not there), ..."""
    results: dict[str, Any] = {}
    for name, (total, count) in sums.items():
        if np.ndim(total) == 0:
            results[name] = float(total) / max(float(count), 1.0)
        elif not name.startswith("bins/"):
            results[name] = [float(t) / float(c) if c else None for t, c in zip(total, count, strict=True)]
    confidence, counts = sums["bins/confidence"]
    results["ece"] = float(metrics.expected_calibration_error(confidence, sums["bins/hits"][0], counts))
    return results


def role_variables(state: TrainState, scheme: Scheme, role: str) -> tuple[PyTree, PyTree]:
    """(params, stats) of a role, wherever the state keeps them."""
    group = scheme.roles[role].group
    return state.frozen[role] if group is None else (state.params[group][role], state.stats[role])


def make_eval_step(scheme: Scheme) -> Callable[..., dict[str, Sums]]:
    """(state, batch, key) -> {role: sums} for the roles that the scheme evaluates, all in eval mode."""

    def logits_of(state: TrainState, batch: Mapping[str, Array], role: str, key: Array) -> Array:
        params, stats = role_variables(state, scheme, role)
        inputs = [lookup({"batch": batch}, p) for p in scheme.roles[role].inputs]
        return scheme.roles[role].model.apply(params, stats, *inputs, train=False, key=key)[0].logits

    def eval_step(state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Sums]:
        mask = batch["mask"]
        if scheme.prepare is not None:
            batch = scheme.prepare(batch, key, False)
        reference = logits_of(state, batch, scheme.reference, key) if scheme.reference else None
        return {
            role: classifier_sums(
                logits_of(state, batch, role, key),
                batch["label"],
                mask,
                None if role == scheme.reference else reference,
            )
            for role in scheme.evaluate
        }

    return eval_step


def evaluate(
    step: Callable[..., dict[str, Sums]], state: TrainState, batches: Iterable[Mapping[str, Array]], key: Array
) -> dict[str, dict[str, Any]]:
    """{role: {metric: value}} over all batches of a split; sums are merged in float64 on the host."""
    merged: Any = None
    for batch in batches:
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(step(state, batch, key)))
        merged = sums if merged is None else jax.tree.map(np.add, merged, sums)
    if merged is None:
        raise ValueError("There is nothing to evaluate: the split is empty.")
    return {role: finish(sums) for role, sums in merged.items()}
