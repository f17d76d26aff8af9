"""results["chain"]: every network of a chain of compression, as the file that ships, its score and its latency."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.compress.packed import SUFFIX, write_packed
from kd_jax.core.evaluate import scored_by
from kd_jax.core.network import next_tokens_of
from kd_jax.system.cost import Forward, costs
from kd_jax.tasks.units import MISSING, name_of, score_text
from kd_jax.train.about import TOKENIZER, architecture
from kd_jax.train.jobs import Job
from kd_jax.train.student import Student, load
from kd_jax.types import Headline, Variables

FOLDER = "chain"


def chain_of(
    job: Job,
    finished: Mapping[str, Any],
    scores: Mapping[str, Any],
    teacher: Variables,
    directory: Path,
    measure: bool = True,
) -> list[dict[str, Any]]:
    """Returns what results["chain"] holds, and writes `directory`/chain/<number>_<step>.safetensors for each network.

    `teacher` are its (params, stats). First it, then the network after every step: {step, accuracy {mean, spread},
    parameters, bytes_on_disk, smaller, share_of_teacher, latency_ms, latency_spread_ms, file}. "accuracy" is the task's
    headline on the test split with its standard error over the examples, of the step that validation chose;
    "bytes_on_disk" is the size of the packed file, header and description included, the teacher's in float32;
    "smaller" is the teacher's over it; latencies are of JAX's program on this device, by batch size, None unless they
    are to be measured.
    """
    which = "best" if "best" in finished else "last"
    headline, test = scored_by(job.scheme).headline, finished[which]["test"]
    students = {role: load(job.directory / "export" / which / role) for role, _ in job.scheme.chain}
    networks = {"teacher": _of_teacher(teacher, scores, job, next(iter(students.values()))), **students}
    labels = {"teacher": "teacher", **dict(job.scheme.chain)}
    values = {"teacher": scores["test"], **{role: test[role] for role in students}}
    files, sizes = {}, {}
    for number, (role, network) in enumerate(networks.items()):
        files[role] = directory / FOLDER / f"{number}_{_slug(labels[role])}{SUFFIX}"
        texts = {TOKENIZER: network.tokenizer} if network.tokenizer else {}
        info = network.info
        sizes[role] = write_packed(files[role], info, network.model, network.params, network.stats, texts)
    # Of the file, whose weights are rounded once and for all, not of the network that rounds them in every call.
    cost = costs({role: _forward(load(file), job) for role, file in files.items()}) if measure else {}
    entries: list[dict[str, Any]] = []
    for role, network in networks.items():
        score, latencies = values[role][headline.metric], cost.get(role, {})
        entry = {
            "step": labels[role],
            "accuracy": {"mean": score, "spread": values[role].get(headline.error)},
            "parameters": sum(x.size for x in jax.tree.leaves(network.params)),
            "bytes_on_disk": sizes[role],
            "smaller": sizes["teacher"] / sizes[role],
            "share_of_teacher": _share(headline, score, values["teacher"][headline.metric]),
            "latency_ms": latencies.get("latency_ms"),
            "latency_spread_ms": latencies.get("latency_spread_ms"),
            "file": files[role].relative_to(directory).as_posix(),
        }
        entries.append(entry)
    return entries


def _of_teacher(variables: Variables, scores: Mapping[str, Any], job: Job, like: Student) -> Student:
    """The teacher as what its packed file says: it reads what the networks of its chain read."""
    model = job.scheme.roles["teacher"].model
    scored = {split: {"teacher": scores[split]} for split in ("validation", "test") if split in scores}
    info = {**like.info, "architecture": architecture(model, job.facts.origins), "role": "teacher"}
    info |= {"which": "last", "scores": {"step": None, **scored}, "entry": "teacher", "entries": ["teacher"]}
    return Student(info, model, *variables, {}, "teacher", like.tokenizer)


def _share(headline: Headline, score: float | None, teacher: float | None) -> float | None:
    """How much of the teacher's score is left: a ratio of shares, of perplexities, or of what else is measured."""
    if score is None or teacher is None:
        return None
    if headline.unit == "nats":
        return math.exp(headline.sign * (score - teacher))
    return score / teacher if headline.sign > 0 else teacher / score


def chain_section(entries: list[dict[str, Any]], headline: Headline) -> dict[str, Any]:
    """Returns the chain as a table of the report."""
    columns = [
        *("Step", f"{name_of(headline).capitalize()} (test)", "Of the teacher's"),
        *("Parameters", "Bytes", "Smaller", "ms"),
    ]
    rows = []
    for e in entries:
        share, latency = e["share_of_teacher"], e["latency_ms"]
        rows.append(
            [
                e["step"],
                score_text(headline, {headline.metric: e["accuracy"]["mean"]}),
                MISSING if share is None else f"{100 * share:.1f}%",
                f"{e['parameters']:,}",
                f"{e['bytes_on_disk']:,}",
                f"{e['smaller']:.1f}x",
                MISSING if latency is None else f"{latency['1']:.2f}",
            ]
        )
    lead = (
        "After every step. Bytes are those of the whole packed file in chain/, which kd_jax.load reads; ms is one "
        "example in JAX on this device, where integers are made floats again."
    )
    return {"kind": "table", "title": "The chain", "lead": lead, "columns": columns, "rows": rows}


def _forward(network: Student, job: Job) -> Forward:
    raw = job.sources["test"]
    assert raw is not None  # only validation may be left out
    one = {name: value for name, value in raw.batch(1).items() if "/" not in name}
    prepared = one if job.scheme.prepare is None else job.scheme.prepare(one, jax.random.key(0), False)

    def inputs(batch: int) -> tuple[Any, ...]:
        repeated = {name: jnp.repeat(value, batch, axis=0) for name, value in prepared.items()}
        return tuple(repeated[path.removeprefix("batch.")] for path in network.info["inputs"])

    answer = next_tokens_of(network.entry, network.model) if raw.per_token else None
    return Forward(network.model, network.params, network.stats, inputs, answer)


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
