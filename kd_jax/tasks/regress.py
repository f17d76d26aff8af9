"""Regression: one number or several an example, by squared error."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from kd_jax.tasks.common import comparable, require_labels, require_shape
from kd_jax.types import Array, Headline, Outputs, Run, Task, Term

ROWS = {
    "rmse": ("root mean squared error", ""),
    "mae": ("mean absolute error", ""),
    "r2": ("variance explained (R²)", "%"),
    "distance": ("root mean squared distance from teacher", ""),
}


def task(source: Any = None, unit: str = "") -> Task:
    """Returns the task of float labels [batch] or [batch, values] (nan: not known), outputs [batch, values].

    Headline is the root mean squared error over all known values, in the labels' `unit`.
    """
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        finish=finish,
        headline=Headline("rmse", -1, unit, "rmse_error"),
        rows={name: (label, shown or (unit if name != "r2" else "")) for name, (label, shown) in ROWS.items()},
        watch=watch,
        name="regress",
        predict=values,
        predicts=f"the value of each output{f', in {unit}' if unit else ''}",
    )


def values(outputs: Any) -> Any:
    """Returns the numbers as the labels have them: float32 [batch, values], or [batch] of one value."""
    outputs = outputs.astype(jnp.float32)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def terms(source: Any) -> dict[str, Term]:
    """Returns the mean squared error over the known values of an example."""
    require_labels(source, False, (1, 2), "floats, one or several an example")
    return {"mse": Term(squared_error, ("student.logits",), ("batch.label",), where="batch.labelled")}


def watch(path: str, batch: str) -> dict[str, Term]:
    """Returns the mean absolute error of the output at `path`."""
    return {"mae": Term(absolute_error, (path,), (f"{batch}.label",), where=f"{batch}.labelled")}


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    require_shape(outputs, (*jnp.shape(batch["label"]), 1)[:2], "[batch, values]")


def _errors(prediction: Array, target: Array) -> tuple[Array, Array]:
    """Returns (prediction - target where that is known, else 0; is it known?), float32 [batch, values]."""
    prediction = prediction.astype(jnp.float32)
    target = target.reshape(prediction.shape)
    there = target == target
    return jnp.where(there, prediction - jnp.where(there, target, 0.0), 0.0), there


def _mean(values: Array, there: Array) -> Array:
    return values.sum(1) / jnp.maximum(there.sum(1), 1)


def squared_error(prediction: Array, target: Array) -> Array:
    """Returns mean (prediction - target)^2 over the known values of each example, [batch]."""
    errors, there = _errors(prediction, target)
    return _mean(errors**2, there)


def absolute_error(prediction: Array, target: Array) -> Array:
    """Returns mean |prediction - target| over the known values of each example, [batch]."""
    errors, there = _errors(prediction, target)
    return _mean(jnp.abs(errors), there)


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    """Returns sums over all known values; the moments of an example's mean squared error give the standard error."""
    prediction, mask = run().logits, batch["mask"]
    errors, there = _errors(prediction, batch["label"])
    there = there & mask[:, None]
    example, scored = _mean(jnp.where(there, errors**2, 0.0), there), there.any(1)
    target = jnp.where(there, batch["label"].reshape(prediction.shape), 0.0)
    totals = {
        "squares": (jnp.where(there, errors**2, 0.0).sum(0), there.sum(0)),
        "absolutes": (jnp.where(there, jnp.abs(errors), 0.0).sum(0), there.sum(0)),
        "targets": (target.sum(0), there.sum(0)),
        "target_squares": ((target**2).sum(0), there.sum(0)),
        "example": (jnp.where(scored, example, 0.0).sum(), scored.sum()),
        "example_squares": (jnp.where(scored, example**2, 0.0).sum(), scored.sum()),
    }
    others = comparable(reference, prediction)
    if others is not None:
        apart = ((prediction - others).astype(jnp.float32) ** 2).mean(1)
        totals["distance"] = (jnp.where(mask, apart, 0.0).sum(), mask.sum())
    return totals


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns rmse = sqrt(mean squared error), its error (delta method), mae, R^2 averaged over values, distance."""
    values: dict[str, Any] = dict.fromkeys(("rmse", "rmse_error", "mae", "r2"))
    squares, counts = sums["squares"]
    if (number := float(counts.sum())) > 0:
        mse = float(squares.sum()) / number
        examples = float(sums["example"][1])
        mean, square = (float(sums[name][0]) / examples for name in ("example", "example_squares"))
        variance = max(square - mean * mean, 0.0)
        values["rmse"], values["mae"] = math.sqrt(mse), float(sums["absolutes"][0].sum()) / number
        values["rmse_error"] = math.sqrt(variance / examples) / (2 * math.sqrt(mse)) if mse else 0.0
        spread = sums["target_squares"][0] - sums["targets"][0] ** 2 / counts.clip(1)
        if (spread > 0).all():
            values["r2"] = float((1 - squares / spread).mean())
    if "distance" in sums:
        total, count = sums["distance"]
        values["distance"] = math.sqrt(float(total) / max(float(count), 1.0))
    return values
