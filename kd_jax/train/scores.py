"""How good frozen teachers are, by the task of the run that they teach in."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kd_jax.cache.plan import TeacherCache
from kd_jax.cache.stored import has_answers
from kd_jax.core.evaluate import as_scored, evaluate, gather, make_eval_step, scored_by
from kd_jax.core.paths import lookup
from kd_jax.data.answers import manifest_of
from kd_jax.data.batches import batch_shapes, eval_batches
from kd_jax.data.source import Source
from kd_jax.files import read_json, write_json
from kd_jax.system import parallel, precision
from kd_jax.system.workdir import fingerprint, plain
from kd_jax.tasks.units import name_of, unit_of
from kd_jax.train.jobs import Job
from kd_jax.train.nonfinite import require_scores
from kd_jax.train.results import Network
from kd_jax.types import PyTree, Role, Scheme, TrainState

SCORES = "scores.json"
CACHED = "cached answers"  # in place of the teacher's own: the "of" of its scores


def score_teacher(
    job: Job, role: Role, rules: parallel.Rules, mesh: Mesh, as_trained: tuple[PyTree, PyTree] | None = None
) -> dict[str, Any]:
    """Returns {split: {metric: value}} of a frozen teacher, on the data and with the preparation that `job` uses.

    With the variables `as_trained` the scores also say how often the teacher in use (such as one in int8) answers like
    the trained one, and the KL from it. A teacher whose answers are not those of the task (other classes, an embedding)
    is not scored: {}.
    """
    if mismatch(job, role):
        return {}
    frozen = {"teacher": role.initial} | ({"as_trained": as_trained} if as_trained else {})
    roles, other = dict.fromkeys(frozen, role), "as_trained" if as_trained else None
    task = scored_by(job.scheme)
    scheme = Scheme(roles, (), evaluate=("teacher",), reference=other, prepare=job.scheme.prepare, task=task)
    abstract = TrainState(jax.numpy.int32(0), {}, {}, {}, frozen, dict(job.scheme.extra))
    shardings = parallel.state_shardings(abstract, dict.fromkeys(frozen, rules), mesh)
    state = parallel.place(abstract, shardings)
    key = parallel.create_everywhere(lambda: jax.random.key(0), mesh)

    def batches(split: str) -> Iterator[Mapping[str, jax.Array]]:
        sharding = parallel.batch_sharding(mesh)
        return eval_batches(job.sources[split], batch_size=job.settings.eval_batch_size, sharding=sharding)

    with jax.set_mesh(mesh):
        collecting = jax.jit(make_eval_step(scheme, collect_only=True)) if task.reads else None
        collected = {s: gather(collecting, state, batches(s), key)[1]["teacher"] for s in task.reads}
        step = jax.jit(make_eval_step(scheme))
        scores = {
            name: evaluate(step, task, state, batches(name), key, {"teacher": collected})["teacher"]
            for name in ("validation", "test")
            if has_answers(job.sources[name], role)
        }
    if not as_trained:
        return scores
    compared = {"agreement": "agreement_as_trained", "kl": "kl_as_trained"}
    return {split: {compared.get(k, k): v for k, v in values.items()} for split, values in scores.items()}


def score_cached(config: ConfigDict, job: Job, cache: TeacherCache, network: Network, mesh: Mesh) -> dict[str, Any]:
    """Returns the scores of a teacher that is asked no more; `job` has its answers, `network` stands in for it.

    Answers that are stored whole are scored themselves. Where only the largest are stored, or rounded ones, the teacher
    itself is scored, once for each task and set of labels, and SCORES beside the answers keeps that. If it is not on
    this machine, and was never scored so, the scores are those of the stored answers, and "of" says it.
    """
    if cache.store.exact:
        return score_teacher(job, network.role, (), mesh)
    stored = read_json(cache.folder / SCORES) or {}
    asked = {
        "answers": {split: manifest_of(cache.folder / split)["about"] for split in cache.splits},
        "labels": {name: _digest_of_labels(source) for name, source in job.sources.items() if source is not None},
        "task": plain(config.task),
    }
    if (key := fingerprint(asked)) in stored:
        return stored[key]
    if network.whole is None:
        scores = score_teacher(job, network.role, (), mesh)
        return {**scores, "of": CACHED} if scores else {}
    params, stats = network.whole().variables
    role = dataclasses.replace(cache.role, initial=(precision.stored(params, cache.role.dtype), stats))
    sources = {name: source and dataclasses.replace(source, answers={}) for name, source in job.sources.items()}
    scores = score_teacher(dataclasses.replace(job, sources=sources), role, config.mesh.teacher_rules, mesh)
    if parallel.is_lead():
        write_json(cache.folder / SCORES, {**stored, key: scores})
    return scores


def _digest_of_labels(source: Source) -> str:
    """The SHA-256 of the labels that the scores depend on; of a streamed set, where they come with the examples, ""."""
    return "" if source.labels is None else hashlib.sha256(np.ascontiguousarray(source.labels).tobytes()).hexdigest()


def mismatch(job: Job, role: Role) -> str:
    """Returns why the answers of a frozen role cannot be scored as those of the job's task; "" where they can."""
    raw = batch_shapes(job.source, job.settings.batch_size)
    context = {"batch": seen_shapes(job), "extra": job.scheme.extra}
    inputs = [lookup(context, p) for p in role.inputs]
    key = jax.random.key(0)
    variables = jax.eval_shape(role.model.init, key, *inputs)
    outputs = jax.eval_shape(lambda v, *x: role.model.apply(*v, *x, train=False, key=key)[0], variables, *inputs)
    try:
        scored_by(job.scheme).check(outputs, as_scored(raw, [role]))
    except ValueError as e:
        return str(e)
    return ""


def check_teacher(job: Job, name: str, config: ConfigDict, scores: Mapping[str, Any]) -> None:
    """Says how good a teacher is; ValueError below its `min_accuracy` on validation (test, if none was held out)."""
    headline, wanted = scored_by(job.scheme).headline, config.min_accuracy
    split = "validation" if job.sources["validation"] is not None else "test"
    values = scores.get(split, {})
    require_scores(name, scores)
    if values.get(headline.metric) is None:
        why = f"no example of the {split} split has a label"
        if split not in scores:
            why = mismatch(job, job.scheme.roles[name]) or f"it has no answers to the {split} split"
        print(f"{name}: not scored: {why}" + ("" if scores else "; agreement with it is left out"))
        if wanted:
            raise ValueError(f"config.{name}.min_accuracy asks for {wanted}, and the {name} cannot be scored: {why}.")
        return
    of = f", of its {scores['of']}: it is not on this machine" if "of" in scores else ""
    print(f"{name}: {name_of(headline)} {unit_of(headline).text(values[headline.metric])} on the {split} split{of}")
    _tell_chance(job, name, split, values)
    if "agreement_as_trained" in values:
        agreement, kl = (values[f"{k}_as_trained"] for k in ("agreement", "kl"))
        print(f"{name} in {config.dtype}: {100 * agreement:.2f}% of its answers are those of the floats, KL {kl:.2g}")
    if wanted and "accuracy" not in values:
        raise ValueError(f"config.{name}.min_accuracy asks for an accuracy, and the task measures {sorted(values)}.")
    if wanted and values["accuracy"] < wanted:
        raise ValueError(
            f"The {name} has {100 * values['accuracy']:.2f}% on the {split} split, "
            f"config.{name}.min_accuracy asks for {100 * wanted:.2f}%. "
            "Is it the right checkpoint, with the same classes in the same order and the same input scaling?"
        )


def _tell_chance(job: Job, name: str, split: str, values: Mapping[str, Any]) -> None:
    """Says so where a teacher is not better, by two standard errors, than the frequencies of the labels alone."""
    task, source = scored_by(job.scheme), job.sources[split]
    if task.chance is None or source is None or source.labels is None:
        return
    headline, chance = task.headline, task.chance(source.labels)
    if headline.sign * (values[headline.metric] - chance) <= 2 * (values.get(headline.error) or 0.0):
        text = unit_of(headline).text
        print(
            f"{name}: at chance level: {name_of(headline)} {text(values[headline.metric])}, and the frequencies of the "
            f"{split} split's labels alone give {text(chance)}. Is it the right checkpoint, with the same classes in "
            "the same order and the same input scaling?"
        )


def seen_shapes(job: Job) -> Mapping[str, Any]:
    """Returns the shapes of a prepared batch of the job."""
    raw = batch_shapes(job.source, job.settings.batch_size)
    if job.scheme.prepare is None:
        return raw
    return jax.eval_shape(lambda b: job.scheme.prepare(b, jax.random.key(0), False), raw)
