"""A run beside the number that was published for its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.report.cost import number


def against_published(
    published: Mapping[str, Any], measured: Mapping[str, str], *, what: str, held_out: float = 0.0
) -> str:
    """Returns the sentence, "" where nothing was published for this recipe.

    `measured` are the scores here as people read them, by role; `what` says what they are of; `held_out` is the share
    of the training images that the published run learned from and this one kept for validation.
    """
    scores = published.get("scores") or {}
    if not scores or "student" not in measured:
        return ""
    others = {"teacher": "teacher", "baseline": "alone"}
    beside = [f"{word} {scores[role]:.2f}" for role, word in others.items() if role in scores]
    here = [f"{word} {measured[role]}" for role, word in others.items() if role in measured]
    words = f"Published {scores['student']:.2f} ({'; '.join([published['step'], published['source'], *beside])}), "
    words += f"here {measured['student']} ({'; '.join([what, *here])})."
    if held_out:
        words += (
            f" Here {100 * held_out:g} % of the training images are held out, there none: "
            "--config.data.validation=0 leaves them in."
        )
    return words


def of_run(results: Mapping[str, Any]) -> str:
    """Returns the sentence on results.json, "" where nothing was published for its recipe."""
    measured, headline = {}, results.get("headline") or {}
    for role, model in (results.get("models") or {}).items():
        value, error = (number(model, "last", "test", name) for name in (headline.get("metric"), headline.get("error")))
        if value is not None:
            measured[role] = f"{100 * value:.2f}" + (f" ± {100 * error:.2f}" if error and role == "student" else "")
    held_out = number(results, "config", "data", "validation") or 0.0
    return against_published(
        results.get("published") or {},
        measured,
        what="last step, ± one standard error of the test set",
        held_out=held_out,
    )
