"""Where a nan comes from, if not from the training itself: variables that were loaded, the data, a frozen network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import Path, lookup
from kd_jax.core.step import answered
from kd_jax.core.terms import cleared
from kd_jax.train.fit import Fit
from kd_jax.types import Array, Phase, PyTree, TrainState

KIND = "NaN or infinity"  # -inf is left alone: it is the logit of a class that cannot be


def require_numbers(what: str, variables: PyTree, hint: str = "") -> None:
    """Raises ValueError that names the arrays of `variables`, those of `what`, that hold NaN or infinity."""
    if wrong := _wrong_arrays(variables):
        raise ValueError(f"{what}: {wrong}. {hint or 'Is it from a training that diverged, or a damaged file?'}")


def _wrong_arrays(variables: PyTree) -> str:
    """ "2 of 4 arrays hold NaN or infinity: a, b", or "" where none does."""
    named = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(variables) if _is_float(x)]
    on_host = {i: bool(_lost(x).any()) for i, (_, x) in enumerate(named) if isinstance(x, np.ndarray)}
    rest = {i: x for i, (_, x) in enumerate(named) if i not in on_host}
    on_device = jax.jit(lambda tree: jax.tree.map(lambda x: _lost(x).any(), tree))(rest) if rest else {}
    flags = {**on_host, **jax.device_get(on_device)}
    wrong = [jax.tree_util.keystr(named[i][0], simple=True, separator="/") for i in sorted(flags) if flags[i]]
    if not wrong:
        return ""
    shown = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
    return f"{len(wrong)} of {len(jax.tree.leaves(variables))} arrays hold {KIND}: {shown}"


def require_scores(who: str, scores: Mapping[str, Any]) -> None:
    """Raises ValueError where a score, {split: {metric: value}}, of `who` is nan: a network's outputs are.

    What else the scores hold (of what they are) is no mapping.
    """
    for split, values in scores.items():
        if isinstance(values, Mapping) and (wrong := nan_scores(values)):
            raise ValueError(
                f"The {who} answers with NaN on the {split} split: its {', '.join(wrong)} cannot be computed. "
                "Do its inputs have the scale that it was trained with, and its numbers room in its dtype?"
            )


def nan_scores(values: Mapping[str, Any]) -> list[str]:
    """Returns the metrics that are nan (one that was not measured is None)."""
    return sorted(name for name, value in values.items() if isinstance(value, float) and math.isnan(value))


def cause_of(run: Fit, step: int) -> str:
    """Says which data or frozen networks held NaN in `step`, as far as its terms and networks read and count them.

    "" where none did. The batch is read and answered again; every process must call this.
    """
    number = max(i for i, start in enumerate(run.bounds[:-1]) if start < step)
    stage = run.scheme.stages[number]
    for role, variables in run.state.frozen.items():
        if wrong := _wrong_arrays(variables):
            return f"Of the {role}, which is frozen, {wrong}."

    def count(state: TrainState, raw: Mapping[str, Array], key: Array) -> dict[str, Array]:
        prepared, answers = answered(run.scheme, stage, state, raw, key)
        rows: dict[str, Array] = {}
        for phase, said in zip(stage.phases, answers or [{}] * len(stage.phases), strict=True):
            for who, value in _read(phase, {"batch": prepared, **said}):
                rows[who] = rows.get(who, False) | _rows_lost(value, len(raw["index"]))
        return {who: lost.sum() for who, lost in rows.items()}

    batch = next(iter(run.batches(stage.data, step - 1 - run.bounds[number], 1)))
    counts = jax.device_get(jax.jit(count)(run.state, batch, run.keys.view))
    for who, rows in sorted(counts.items(), key=lambda item: not item[0].startswith("batch.")):
        if rows:
            what = f"{KIND} in {rows} of {len(batch['index'])} examples of that batch"
            of_data = who.startswith("batch.")
            return f"The data hold {what}: {who}." if of_data else f"The {who}, which is frozen, answered with {what}."
    return ""


def _read(phase: Phase, context: Mapping[str, Any]) -> Iterator[tuple[str, PyTree]]:
    """Yields (frozen network or entry of the batch, a value of it that a call or a term of the phase reads)."""
    for call in phase.forward:
        yield from ((_whose(path), lookup(context, path)) for path in call.inputs if _here(path, context))
    for term in phase.terms.values():
        masked = term.where is not None and _here(term.where, context, labels=True)
        for path in (path for path in (*term.inputs, *term.targets) if _here(path, context)):
            value = lookup(context, path)
            yield _whose(path), cleared(value, path, lookup(context, term.where), term.where) if masked else value


def _here(path: str, context: Mapping[str, Any], labels: bool = False) -> bool:
    """Is it in the batch, or of a network that answered? Among labels a nan is none."""
    at = Path.parse(path)
    if at.kind == "batch":
        return labels or at.owner not in ("label", "target")
    return at.call in context


def _whose(path: str) -> str:
    at = Path.parse(path)
    return f"batch.{at.owner}" if at.kind == "batch" else at.call


def _rows_lost(tree: PyTree, size: int) -> Array:
    """Bool [size]: the examples of which a float array of the tree holds NaN or infinity."""
    rows = [x.reshape(size, -1) for x in jax.tree.leaves(tree) if _is_float(x) and x.shape[:1] == (size,)]
    lost = [_lost(x).any(axis=1) for x in rows]
    return jnp.stack(lost).any(axis=0) if lost else jnp.zeros(size, bool)


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _lost(x: Any) -> Any:
    return (x != x) | (x == math.inf)
