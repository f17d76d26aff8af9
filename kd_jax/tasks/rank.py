"""Ranking: which of many candidates an example (a user, a query) takes, by scores."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.tasks.common import comparable, means, require_shape, standard_error
from kd_jax.types import Array, Headline, Outputs, Run, Shown, Task, Term

TOP = 10
ROWS = {
    "ndcg": (f"NDCG@{TOP}", "%"),
    "hit_rate": (f"hit rate@{TOP}", "%"),
    "recall": (f"recall@{TOP}", "%"),
    "nll": ("NLL a chosen item", ""),
    "agreement": (f"top {TOP} shared with teacher", "%"),
}
EXAMPLES = 6  # users whose lists a report shows


def task(source: Any = None, groups: Mapping[str, Sequence[str]] | None = None) -> Task:
    """Returns the task of labels int [batch, items]: 1 to be ranked high, 0 a candidate, -1 none; scores of that shape.

    Headline is NDCG@10 = sum over the positives among the 10 best of 1 / log2(place + 1), over that of the best order,
    averaged over examples; of equal scores the lower number comes first. `groups` {field: names} are fields of the data
    with a number for each example, by which the NDCG is measured too.
    """
    groups = dict(groups or {})
    for field in groups:
        if source is not None and field not in source.fields:
            raise ValueError(
                f"config.task.kwargs.groups names {field!r}; the fields of {source.name} are {sorted(source.fields)}."
            )
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=functools.partial(sums, groups=groups),
        finish=finish,
        headline=Headline("ndcg", +1, "%", "ndcg_error"),
        rows=ROWS,
        show=functools.partial(show, groups=groups),
        name="rank",
        predict=top_items,
        predicts=f"the numbers of the {TOP} best items, those that were taken before among them",
    )


def terms(source: Any) -> dict[str, Term]:
    """Returns -log softmax over all items, averaged over an example's positives (Liang et al., 2018, 1802.05814)."""
    if (
        source is not None
        and source.labels is not None
        and (source.labels.ndim != 2 or source.labels.dtype != np.int32)
    ):
        raise ValueError(
            f"The labels of {source.name} are {source.labels.dtype} {source.labels.shape}, and the task takes integers "
            "[examples, items]: 1 chosen, 0 a candidate, -1 none."
        )
    return {"softmax": Term(chosen_nll, ("student.logits",), ("batch.label",), where="batch.labelled")}


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any = None) -> None:
    """Raises ValueError unless the output is [batch, items]."""
    require_shape(outputs, jnp.shape(batch["label"]), "[batch, items]")


def chosen_nll(scores: Array, labels: Array) -> Array:
    """Returns the mean over an example's positives of -log softmax(scores) over its candidates, [batch]; 0 without."""
    there, chosen = labels >= 0, labels > 0
    there = there | ~there.any(1, keepdims=True)  # a softmax over nothing is NaN, in its gradient too
    log_p = jax.nn.log_softmax(scores.astype(jnp.float32), where=there)
    return -jnp.where(chosen, log_p, 0.0).sum(1) / jnp.maximum(chosen.sum(1), 1)


def best(scores: Array, labels: Array) -> Array:
    """Returns the numbers of the TOP best candidates, [batch, TOP]; fewer items are all in order."""
    ranked = jnp.where(labels >= 0, scores.astype(jnp.float32), -jnp.inf)
    return jax.lax.top_k(ranked, min(TOP, scores.shape[1]))[1]


def metrics_of(scores: Array, labels: Array) -> dict[str, Array]:
    """Returns {metric: [batch]} of the lists of the best."""
    hits = (jnp.take_along_axis(labels, best(scores, labels), axis=1) > 0).astype(jnp.float32)
    gains = 1 / jnp.log2(jnp.arange(hits.shape[1]) + 2.0)[None]
    positives = (labels > 0).sum(1)
    ideal = jnp.where(jnp.arange(hits.shape[1])[None] < positives[:, None], gains, 0.0).sum(1)
    hit_count = hits.sum(1)
    return {
        "ndcg": (hits * gains).sum(1) / jnp.maximum(ideal, 1e-6),
        "hit_rate": (hit_count > 0).astype(jnp.float32),
        "recall": hit_count / jnp.maximum(positives, 1),
        "nll": chosen_nll(scores, labels),
    }


def sums(
    run: Run,
    batch: Mapping[str, Array],
    reference: Outputs | None,
    key: Array,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Returns sums over the examples that have a positive, over all and by group."""
    scores, labels = run().logits, batch["label"]
    counted = batch["mask"] & (labels > 0).any(1)
    values = metrics_of(scores, labels)
    totals = {name: (jnp.where(counted, x, 0.0).sum(), counted.sum()) for name, x in values.items()}
    ndcg = values["ndcg"]
    totals["moments/ndcg"] = (jnp.where(counted, ndcg * ndcg, 0.0).sum(), counted.sum())
    for field, names in (groups or {}).items():
        members = jax.nn.one_hot(batch[field], len(names)) * counted[:, None]
        totals[f"ndcg_by_{field}"] = ((members * ndcg[:, None]).sum(0), members.sum(0))
    others = comparable(reference, scores)
    if others is not None:
        mine, theirs = best(scores, labels), best(others, labels)
        shared = (mine[:, :, None] == theirs[:, None]).any(2).mean(1)
        listed = batch["mask"] & (labels >= 0).any(1)
        totals["agreement"] = (jnp.where(listed, shared, 0.0).sum(), listed.sum())
    return totals


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the means over examples, and the standard error of the NDCG."""
    values, count = means(sums), float(sums["ndcg"][1])
    square = float(sums["moments/ndcg"][0]) / count if count else None
    return values | {"ndcg_error": standard_error(values["ndcg"], square, count)}


def show(shown: Shown, groups: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Returns the lists of some examples, and the NDCG by group."""
    return [*lists(shown), *by_group(shown, groups)]


def lists(shown: Shown) -> list[dict[str, Any]]:
    """Returns the section of the best items of the first test examples by each network; the chosen ones are marked."""
    labels, names = np.asarray(shown.batch["label"]), shown.source.class_names
    if not shown.outputs or not len(labels):
        return []
    texts, titles, users = [], [], shown.source.levels.get("user")
    for i in range(min(EXAMPLES, shown.count, len(labels))):
        chosen = np.flatnonzero(labels[i] > 0)
        lines = [f"chosen: {', '.join(str(names[c]) for c in chosen[:3])}"]
        for role, outputs in shown.outputs.items():
            ranked = np.where(labels[i] >= 0, np.asarray(outputs.logits[i], np.float32), -np.inf)
            order = np.argsort(-ranked, kind="stable")[:TOP]
            marked = [f"{'* ' if c in chosen else ''}{names[c]}" for c in order]
            lines.append(f"{role}: {' | '.join(marked)}")
        texts.append("\n".join(lines))
        titles.append(f"user {users[int(shown.batch['user'][i])]}" if users else f"{shown.source.noun} {i}")
    lead = f"The {TOP} best candidates of each network, the best first; * is what was chosen."
    return [{"kind": "texts", "title": "Top lists", "lead": lead, "texts": texts, "labels": titles}]


def by_group(shown: Shown, groups: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Returns a table of the test NDCG of each network for each group."""
    sections = []
    for field, names in groups.items():
        measured = {role: (splits.get("test") or {}).get(f"ndcg_by_{field}") for role, splits in shown.scores.items()}
        tables = {role: values for role, values in measured.items() if values}
        if tables:
            rows = [[name, *(_percent(values[i]) for values in tables.values())] for i, name in enumerate(names)]
            lead = f"NDCG@{TOP} in percent, by {field}: is a group served worse, and does the student make it worse?"
            sections.append(
                {"kind": "table", "title": f"By {field}", "lead": lead, "columns": [field, *tables], "rows": rows}
            )
    return sections


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def top_items(scores: Array) -> Array:
    """Returns the numbers of the TOP best items of each example, the best first, [batch, TOP]."""
    return jax.lax.top_k(jnp.asarray(scores, jnp.float32), min(TOP, scores.shape[1]))[1]
