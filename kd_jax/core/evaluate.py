"""Evaluation of a classifier or language model on a whole split, alone and against its teacher, as mergeable sums.

The last batch is padded and masked, never dropped; numbers do not depend on the batch size or the mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core import metrics
from kd_jax.core.bind import evaluated_roles
from kd_jax.core.paths import Path, lookup, members, roles_read, taps_in
from kd_jax.core.terms import masked_sum_and_count
from kd_jax.system import precision
from kd_jax.types import Array, PyTree, Role, Scheme, TrainState

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


def token_sums(logits: Array, labels: Array, mask: Array, reference: Array | None) -> Sums:
    """The sums of classifier_sums over all tokens that have a label (>= 0) in rows whose `mask` is True.

    Logits are [B, L, V], labels int [B, L], mask bool [B], reference [B, L, V]. In place of per class accuracy, moments
    over the sequences of their summed nll s and their number of tokens n: the tokens of one are not independent.
    """
    counted = mask[:, None] & (labels >= 0)
    confidence, bin_hits, bin_counts = metrics.calibration_bins(*map(_flat, (logits, labels, counted)))
    nll = metrics.nll(logits, labels)
    s, n = jnp.where(counted, nll, 0.0).sum(1), counted.sum(1, dtype=jnp.float32)
    sums = {
        "accuracy": masked_sum_and_count(metrics.accuracy(logits, labels), counted),
        "nll": masked_sum_and_count(nll, counted),
        "bins/confidence": (confidence, bin_counts),
        "bins/hits": (bin_hits, bin_counts),
        "moments/ss": (jnp.sum(s * s), jnp.sum(s * n)),
        "moments/nn": (jnp.sum(n * n), jnp.sum(n)),
    }
    if reference is not None:
        sums["agreement"] = masked_sum_and_count(metrics.agreement(logits, reference), counted)
        sums["kl"] = masked_sum_and_count(metrics.kl(logits, reference), counted)
    return sums


def _flat(x: Array) -> Array:
    """The first two axes as one."""
    return x.reshape(-1, *x.shape[2:])


def finish(sums: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Sums over a whole split -> accuracy, nll, ece, per_class_accuracy (None for a class that is not there), ...

    Of tokens also their number, perplexity = exp(nll), and nll_error, the standard error of nll with sequences as the
    independent draws: sqrt(sum over sequences of (s - nll n)^2) / tokens.
    """
    results: dict[str, Any] = {}
    for name, (total, count) in sums.items():
        if name.startswith("moments/"):
            continue
        if np.ndim(total) == 0:
            results[name] = float(total) / max(float(count), 1.0)
        elif not name.startswith("bins/"):
            results[name] = [float(t) / float(c) if c else None for t, c in zip(total, count, strict=True)]
    confidence, counts = sums["bins/confidence"]
    results["ece"] = float(metrics.expected_calibration_error(confidence, sums["bins/hits"][0], counts))
    if "moments/ss" in sums:
        (ss, sn), (nn, tokens), nll = sums["moments/ss"], sums["moments/nn"], results["nll"]
        variance = max(float(ss - 2 * nll * sn + nll * nll * nn), 0.0)
        results |= {"perplexity": math.exp(min(nll, 700.0)), "tokens": int(tokens)}
        results["nll_error"] = math.sqrt(variance) / max(float(tokens), 1.0)
    return results


def role_variables(state: TrainState, scheme: Scheme, role: str) -> tuple[PyTree, PyTree]:
    """(params, stats) of a role, wherever the state keeps them."""
    group = scheme.roles[role].group
    if group is not None:
        return state.params[group][role], state.stats[role]
    params, stats = state.frozen[role]
    return precision.restored(params), stats


def extra_inputs(role: Role, extra: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """{position: value} of the inputs that a role reads from TrainState.extra (a graph, a number of bits)."""
    return _inputs_of_kind(role, "extra", extra)


def params_inputs(role: Role, params: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Returns {position: value} of the inputs that a role reads from `params` {role: parameters} (adapters, a base)."""
    return _inputs_of_kind(role, "params", params)


def _inputs_of_kind(role: Role, kind: str, values: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {str(i): lookup({kind: values}, p) for i, p in enumerate(role.inputs) if Path.parse(p).kind == kind}


def classifiers(scheme: Scheme, state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """{entry: logits [B, C] or [B, L, V]} of all that the scheme evaluates, and of its reference, in eval mode.

    `batch` is prepared. Where several are joined by "+", the logarithm of the mean of their probabilities.
    """
    entries = dict.fromkeys((*scheme.evaluate, *([scheme.reference] if scheme.reference else [])))
    paths = [path for entry in entries for path in members(entry)]
    outputs: dict[str, Any] = {}
    for role in evaluated_roles(scheme):
        params, stats = role_variables(state, scheme, role)
        paths_of_role = scheme.roles[role].inputs
        others = {name: role_variables(state, scheme, name)[0] for name in roles_read(paths_of_role)}
        context = {"batch": batch, "extra": state.extra, "params": others}
        inputs = [lookup(context, p) for p in paths_of_role]
        taps = taps_in(role, paths)
        outputs[role] = scheme.roles[role].model.apply(params, stats, *inputs, train=False, key=key, taps=taps)[0]

    def logits(entry: str) -> Array:
        found = [lookup(outputs, path) for path in members(entry)]
        if len(found) == 1:
            return found[0]
        return jax.nn.logsumexp(jnp.stack([jax.nn.log_softmax(z) for z in found]), axis=0) - jnp.log(len(found))

    return {entry: logits(entry) for entry in entries}


def make_eval_step(scheme: Scheme) -> Callable[..., dict[str, Sums]]:
    """(state, batch, key) -> {entry: sums} for all that the scheme evaluates."""

    def eval_step(state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Sums]:
        mask = batch["mask"]
        if scheme.prepare is not None:
            batch = scheme.prepare(batch, key, False)
        found = classifiers(scheme, state, batch, key)
        reference = found[scheme.reference] if scheme.reference else None
        labels, found_sums = batch["label"], {}
        for entry in scheme.evaluate:
            sums = token_sums if labels.ndim == 2 else classifier_sums
            found_sums[entry] = sums(found[entry], labels, mask, None if entry == scheme.reference else reference)
        return found_sums

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
