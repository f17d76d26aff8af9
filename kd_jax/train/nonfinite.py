"""Where a nan comes from, if not from the training itself: variables that were loaded, the data, a frozen network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.step import answered
from kd_jax.train.fit import Fit
from kd_jax.types import Array, Outputs, PyTree, TrainState

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


def require_scores(who: str, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError where a score, {split: {metric: value}}, of `who` is nan: a network's outputs are."""
    for split, values in scores.items():
        if wrong := nan_scores(values):
            raise ValueError(
                f"The {who} answers with NaN on the {split} split: its {', '.join(wrong)} cannot be computed. "
                "Do its inputs have the scale that it was trained with, and its numbers room in its dtype?"
            )


def nan_scores(values: Mapping[str, Any]) -> list[str]:
    """Returns the metrics that are nan (one that was not measured is None)."""
    return sorted(name for name, value in values.items() if isinstance(value, float) and math.isnan(value))


def cause_of(run: Fit, step: int) -> str:
    """Says what else than the training made `step` end in a nan, by asking data and frozen networks again; "" if none.

    Every process must call it.
    """
    number = max(i for i, start in enumerate(run.bounds[:-1]) if start < step)
    stage = run.scheme.stages[number]
    for role, variables in run.state.frozen.items():
        if wrong := _wrong_arrays(variables):
            return f"It comes from the {role}, which is frozen: {wrong}."

    def count(state: TrainState, raw: Mapping[str, Array], key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        seen, answers = answered(run.scheme, stage, state, raw, key)
        said: dict[str, Outputs] = {name: outputs for phase in answers for name, outputs in phase.items()}
        data = {**{name: x for name, x in seen.items() if name not in ("label", "target")}}  # nan there is "none"
        return _rows_lost(data, len(raw["index"])), _rows_lost(said, len(raw["index"]))

    batch = next(iter(run.batches(stage.data, step - 1 - run.bounds[number], 1)))
    data, networks = jax.device_get(jax.jit(count)(run.state, batch, run.keys.view))
    for name, rows in data.items():
        if rows:
            return f"It comes from the data: batch.{name} holds {KIND} in {rows} of {len(batch['index'])} examples."
    for name, rows in networks.items():
        if rows:
            return (
                f"It comes from the {name}, which is frozen: its answers hold {KIND} in {rows} of "
                f"{len(batch['index'])} examples, its parameters and the data none."
            )
    return ""


def _rows_lost(trees: Mapping[str, PyTree], size: int) -> dict[str, Array]:
    """{name: in how many of the `size` examples a float array of the tree has a number lost}."""
    counts = {}
    for name, tree in trees.items():
        rows = [x.reshape(size, -1) for x in jax.tree.leaves(tree) if _is_float(x) and x.shape[:1] == (size,)]
        lost = [_lost(x).any(axis=1) for x in rows]
        counts[name] = jnp.sum(jnp.stack(lost).any(axis=0)) if lost else jnp.int32(0)
    return counts


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _lost(x: Any) -> Any:
    return (x != x) | (x == math.inf)
