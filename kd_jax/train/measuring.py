"""The measures of a finished run: chosen and checked before it starts, made when its networks are there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.cache.stored import has_answers
from kd_jax.config.fields import teachers_of
from kd_jax.core.evaluate import scored_by
from kd_jax.core.network import Network
from kd_jax.measure.choose import NONE, chosen, names_of
from kd_jax.measure.subject import Measure, Subject
from kd_jax.report.forms import check_sections
from kd_jax.tasks.units import MISSING, percent
from kd_jax.train.jobs import Job

TITLE = "What else was measured"


def looked_at(config: ConfigDict) -> bool:
    """Returns whether a finished run looks at its networks: for the report, or for a measure that is named."""
    return config.report or names_of(config.measure) not in ((), (NONE,))


def subject_of(
    config: ConfigDict,
    jobs: Mapping[str, Job],
    networks: Mapping[str, Any],
    costs: Mapping[str, Mapping[str, Any]] | None,
) -> Subject:
    """Returns what is measured: networks by role, on the data that the student sees."""
    job = jobs["student"]
    task, size = scored_by(job.scheme), config.eval_batch_size
    return Subject(networks, job.sources, job.scheme.prepare, task, size, config.seed, costs)


def measures_of(config: ConfigDict, jobs: Mapping[str, Job]) -> dict[str, Measure]:
    """Returns the measures that the run will make; ValueError for one that is named and does not fit the run."""
    scheme, test = jobs["student"].scheme, jobs["student"].sources["test"]
    teachers = [
        name for name in teachers_of(config) if name not in scheme.roles or has_answers(test, scheme.roles[name])
    ]
    roles = [*teachers, *(name for name in ("baseline", "student") if name in jobs)]
    subject = subject_of(config, jobs, dict.fromkeys(roles), {} if config.report else None)
    return chosen(config.measure, config.measure_kwargs, subject, config.report)


def measure_all(
    config: ConfigDict,
    jobs: Mapping[str, Job],
    networks: Mapping[str, Network],
    costs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns {"values": {role: {measure: {metric: number}}}, "labels": {(measure, metric): (label, unit)},
    "seconds": {measure: time}, "sections": [...]}.
    """
    made = measures_of(config, jobs)
    subject = subject_of(config, jobs, networks, costs if config.report else None)
    values: dict[str, dict[str, Any]] = {role: {} for role in networks}
    seconds, sections, rows, labels = {}, [], [], {}
    for name, measure in made.items():
        start, options = time.monotonic(), dict(config.measure_kwargs.get(name, {}))
        measured = measure.run(subject, **options)
        seconds[name] = time.monotonic() - start
        for role, metrics in measured.values.items():
            values[role][name] = dict(metrics)
        rows += _rows(name, measured.rows, values)
        labels |= {(name, metric): label for metric, label in measured.rows.items()}
        sections += check_sections(measured.sections, f"the measure {name!r}")
    if rows:
        lead = "On the test set, beside the scores above; config.measure names what is measured, docs/measure.md how."
        columns = ["", *networks]
        sections = [{"kind": "table", "title": TITLE, "lead": lead, "columns": columns, "rows": rows}, *sections]
    return {"values": values, "labels": labels, "seconds": seconds, "sections": sections}


def _rows(name: str, rows: Mapping[str, tuple[str, str]], values: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The lines of the table: a cell for every network, MISSING where it has no such number."""
    lines = []
    for metric, (label, unit) in rows.items():
        cells = [metrics.get(name, {}).get(metric) for metrics in values.values()]
        if any(cell is not None for cell in cells):
            lines.append([label, *(_text(cell, unit) for cell in cells)])
    return lines


def _text(value: Any, unit: str) -> str:
    if value is None:
        return MISSING
    return percent(value) if unit == "%" else f"{value:.4g} {unit}".rstrip()
