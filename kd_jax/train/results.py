"""results.json: everything that a run measured, as plain JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from kd_jax.cache.model import Store
from kd_jax.cache.stored import StoredAnswers
from kd_jax.config import expected
from kd_jax.config.fields import teachers_of
from kd_jax.core.evaluate import scored_by
from kd_jax.core.network import Network, next_tokens_of
from kd_jax.core.paths import calls_in, entry_paths
from kd_jax.data.source import Source, Splits
from kd_jax.models.divided import Divided
from kd_jax.report.forms import check_sections
from kd_jax.resolve import near
from kd_jax.system.cost import Forward, costs
from kd_jax.system.workdir import git_hash, plain, versions
from kd_jax.train.jobs import Job
from kd_jax.train.measuring import measure_all
from kd_jax.train.scheme import sees_data
from kd_jax.types import PyTree, Shown, Task

SCHEMA = 2  # of results.json: another number where a reader must look elsewhere
MOST = 1000  # test examples among which a task chooses what it shows


def curve(path: Path, entry: str) -> list[dict[str, Any]]:
    """Returns the train records of a metrics.jsonl, with the scores of `entry` as "validation_<metric>"."""
    points: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        point = points.setdefault(record["step"], {"step": record["step"]})
        if record["kind"] == "train":
            point |= {k: v for k, v in record.items() if k not in ("kind", "gradient_norm")}
        else:
            scores = {k.removeprefix(f"{entry}/"): v for k, v in record.items() if k.startswith(f"{entry}/")}
            point |= {f"validation_{name}": value for name, value in scores.items() if "/" not in name}
    return [points[step] for step in sorted(points)]


def _scores(scores: Mapping[str, Any], entry: str) -> dict[str, Any]:
    return {
        "step": scores["step"],
        **{split: scores[split][entry] for split in ("validation", "test") if split in scores},
    }


def collect(
    config: ConfigDict,
    finished: Mapping[str, Mapping[str, Any]],
    teacher_scores: Mapping[str, Mapping[str, Any]],
    jobs: Mapping[str, Job],
    networks: Mapping[str, Network],
    splits: Splits,
) -> dict[str, Any]:
    """Returns what report.write_report takes.

    `finished` has the results of the trainings; a loaded teacher has scores only. The model of a training is the first
    entry that its scheme evaluates; "others" has the scores of the rest.
    """
    train, task = jobs["student"].source, scored_by(jobs["student"].scheme)
    names = [*teachers_of(config), *(n for n in ("baseline", "student") if n in finished)]
    costs_of = measured(networks, train, jobs["student"].scheme.prepare) if config.report else {}
    models = {name: model_entry(name, config, finished, teacher_scores, jobs, costs_of.get(name, {})) for name in names}
    if _is_scored(models.get(jobs["student"].scheme.reference or "", {})):
        _say_what_rows_lack(task, models)
    sections = _sections(config, finished, models, networks, jobs["student"], splits) + _inputs_section(models)
    beside = measure_all(config, jobs, networks, costs_of)
    _add_measured(models, jobs["student"], beside["values"])
    return {
        "schema": SCHEMA,
        "title": config.title or _title(models, train.name),
        "task": task.name or config.task.name,
        "headline": task.headline._asdict(),
        "rows": {name: list(row) for name, row in task.rows.items()},
        "published": plain(config.published) if expected.applies(config) else {},
        "config": plain(config),
        "versions": versions(),
        "git": git_hash(),
        "seed": config.seed,
        "finished": max(result["finished"] for result in finished.values()),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "data": data_entry(jobs, splits),
        "models": models,
        "stages": finished["student"]["stages"],
        "sections": sections + beside["sections"],
        "measured_seconds": beside["seconds"],
        "examples": next((s["examples"] for s in sections if s["kind"] == "examples"), []),
    }


def _add_measured(models: dict[str, dict[str, Any]], student: Job, values: Mapping[str, Any]) -> None:
    """Adds to networks what their logits are divided by, and the values of the run's measures."""
    for name, role in student.scheme.roles.items():
        if isinstance(role.model, Divided):
            models[name]["temperature"] = role.model.temperature
    for name, measures in values.items():
        models[name] |= {"measures": measures} if measures else {}


def _title(models: Mapping[str, Any], data: str) -> str:
    return f"{' to '.join(models[n]['name'] for n in ('teacher', 'student') if n in models)} on {data}"


def _sections(
    config: ConfigDict,
    finished: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Any],
    networks: Mapping[str, Network],
    job: Job,
    splits: Splits,
) -> list[dict[str, Any]]:
    """What the schemes of all trainings, and the task, add to the report."""
    task, sections = scored_by(job.scheme), joined({name: r.get("sections", []) for name, r in finished.items()})
    if config.report and task.show is not None:
        made = task.show(shown(config.examples, models, networks, job, splits))
        sections += check_sections(made, f"show of the task {task.name or config.task.name!r}")
    return sections


def _inputs_section(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each network is shown of a picture, where it is not the same for all."""
    rows = [[name, model["preparation"]["sees"]] for name, model in models.items() if "preparation" in model]
    if len({sees for _, sees in rows}) < 2:
        return []
    lead = "x is a picture as it lies in the data; the preparation of a role in the config says what it is shown."
    return [{"kind": "table", "title": "What each network sees", "lead": lead, "columns": ["", "sees"], "rows": rows}]


def _is_scored(model: Mapping[str, Any]) -> bool:
    """Whether a network has any score: a teacher of other classes has none, and nobody is compared with it."""
    splits = [values for values in model.get("last", {}).values() if isinstance(values, Mapping)]
    return any(value is not None for values in splits for value in values.values())


def _say_what_rows_lack(task: Task, models: Mapping[str, Any]) -> None:
    """Says which rows of the table the task names and no model has; without a teacher some have nothing to measure."""
    splits = [values for model in models.values() for values in model.get("last", {}).values()]
    measured = {name for values in splits if isinstance(values, Mapping) for name in values}
    for name in (name for name in task.rows if name not in measured):
        print(
            f"The task's rows name {name!r}, which it does not measure: that line is left out. {near(name, measured)}"
        )


def model_entry(
    name: str,
    config: ConfigDict,
    finished: Mapping[str, Mapping[str, Any]],
    teacher_scores: Mapping[str, Mapping[str, Any]],
    jobs: Mapping[str, Job],
    cost: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what results.json says of one network: its name, cost, training, scores, and where it lies."""
    teachers = teachers_of(config)
    model = teachers[name].model if name in teachers else config.student.model
    entry: dict[str, Any] = {"name": model.name.rpartition(".")[2], **cost}
    scheme = jobs["baseline" if name == "baseline" else "student"].scheme
    role = scheme.roles.get("student" if name == "baseline" else name)
    if role is not None and role.preparation is not None:
        entry["preparation"] = role.preparation.as_dict()
    store = _store_of(name, jobs["student"])
    if store is not None and not store.exact:
        entry["answers"] = {"k": store.k, "dtype": store.dtype}  # what student and baseline are compared with
    if name not in finished:
        return entry | {"last": {"step": None, **teacher_scores[name]}}
    result, job = finished[name], jobs[name]
    first, *others = job.scheme.evaluate
    (role,) = calls_in(entry_paths(first)[:1])
    root = jobs["student"].directory.parent
    entry |= {
        "steps": result["steps"],
        "train_seconds": result["seconds"],
        "examples_per_second": result["examples_per_second"],
        "curve": curve(job.directory / "metrics.jsonl", first),
        "export": os.path.relpath(job.directory / "export" / "last" / role, root),
    }
    entry |= {w: _scores(result[w], first) for w in ("last", "best") if w in result}
    if others:
        entry["others"] = {o: {w: _scores(result[w], o) for w in ("last", "best") if w in result} for o in others}
    return entry


def _store_of(name: str, job: Job) -> Store | None:
    """How the answers of a teacher are stored; None for one that is asked itself."""
    if name in job.caches:
        return job.caches[name].store
    model = job.scheme.roles[name].model if name in job.scheme.roles else None
    return model.store if isinstance(model, StoredAnswers) else None


def data_entry(jobs: Mapping[str, Job], splits: Splits) -> dict[str, Any]:
    """Returns what results.json says of the student's data."""
    train = jobs["student"].source
    labelled = int(train.labelled.sum())
    return {
        "name": train.name,
        "noun": train.noun,
        "num_classes": train.num_classes,
        "class_names": list(train.class_names),
        "entry": train.entry,
        "per_token": train.per_token,
        "per_pixel": train.per_pixel,
        "train": len(train),
        "labelled": labelled,
        "transfer": len(train) - labelled,
        "student_sees": sees_data(jobs["student"].scheme),
        "validation": len(splits.validation) if splits.validation else 0,
        "test": len(splits.test),
        "image_shape": list(train.image_shape),
        "teacher_labelled": int(jobs["teacher"].source.labelled.sum()) if "teacher" in jobs else None,
    }


def shown(count: int, models: Mapping[str, Any], networks: Mapping[str, Network], job: Job, splits: Splits) -> Shown:
    """Returns the first test examples and what the networks say of them, for Task.show."""
    batch = splits.test.batch(min(MOST, len(splits.test)))
    outputs = {}
    if count:
        prepare = job.scheme.prepare
        prepared = batch if prepare is None else prepare(batch, jax.random.key(0), False)
        outputs = {name: network.outputs(prepared) for name, network in networks.items()}
    scores = {name: model["last"] for name, model in models.items() if "last" in model}
    terms = {n: t for stage in job.scheme.stages for p in stage.phases for n, t in p.terms.items()}
    return Shown(batch, outputs, scores, splits.test, terms, count)


def joined(sections_of: Mapping[str, list[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the sections of all trainings in one list.

    Tables, and texts, of one title become one section, where each line names its training; other kinds stay apart.
    """
    made: dict[tuple[str, str], dict[str, Any]] = {}
    counts = Counter(key for sections in sections_of.values() for key in {(s["title"], s["kind"]) for s in sections})
    for name, sections in sections_of.items():
        for section in sections:
            section, key = dict(section), (section["title"], section["kind"])
            if counts[key] > 1 and section["kind"] == "table":
                section["rows"] = [[f"{name} {row[0]}".strip(), *row[1:]] for row in section["rows"]]
            elif counts[key] > 1 and section["kind"] == "texts":
                section["labels"] = [f"{name}, {label}" for label in section["labels"]]
            elif key in made:
                section["title"] = f"{section['title']} ({name})"
                key = (section["title"], section["kind"])
            before = made.get(key)
            if before is None:
                made[key] = section
                continue
            for field in {"table": ("rows",), "texts": ("texts", "labels")}[section["kind"]]:
                before[field] = [*before[field], *section[field]]
    return list(made.values())


def measured(networks: Mapping[str, Network], source: Source, prepare: Any) -> dict[str, dict[str, Any]]:
    """Measures networks side by side, on the first example of a source, repeated; returns their costs by name.

    Networks of tokens are timed at the likeliest next ones: the logits of a whole batch need not have room.
    A cached teacher that is not on this machine has the cost that was measured with its answers, "latency_apart".
    """
    one = prepare(source.batch(1), jax.random.key(0), False)

    def forward(network: Network) -> Forward:
        def inputs(batch: int) -> tuple[PyTree, ...]:
            repeated = {name: jnp.repeat(value, batch, axis=0) for name, value in one.items()}
            return network.inputs(repeated)

        answer = next_tokens_of(network.path, network.model) if source.per_token else None
        return Forward(network.model, network.params, network.stats, inputs, answer)

    here = {name: n.whole() if n.whole else n for name, n in networks.items() if n.whole or n.cost is None}
    before = {name: {**n.cost, "latency_apart": True} for name, n in networks.items() if name not in here and n.cost}
    return {**before, **costs({name: forward(network) for name, network in here.items()})}
