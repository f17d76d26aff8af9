"""results["chain"]: every network of a chain of compression, as the file that ships, its score and its latency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.compress.packed import SUFFIX, write_packed
from kd_jax.core.evaluate import scored_by
from kd_jax.system.cost import Forward, costs
from kd_jax.tasks.units import name_of, score_text
from kd_jax.train.about import TOKENIZER, architecture
from kd_jax.train.jobs import Job
from kd_jax.train.results import Network
from kd_jax.train.student import Student, load
from kd_jax.types import Headline

FOLDER = "chain"


def chain_of(
    job: Job, finished: Mapping[str, Any], scores: Mapping[str, Any], teacher: Network, directory: Path
) -> list[dict[str, Any]]:
    """Returns what results["chain"] holds, and writes `directory`/chain/<number>_<step>.safetensors for each network.

    First the teacher, then the network after every step: {step, accuracy {mean, spread}, parameters, bytes_on_disk,
    smaller, share_of_teacher, latency_ms, latency_spread_ms, file}. "accuracy" is the task's headline on the test
    split with its standard error over the examples, of the step that validation chose; "bytes_on_disk" is the size of
    the packed file, header and description included, the teacher's in float32; "smaller" is the teacher's over it;
    latencies are of JAX's program on this device, by batch size.
    """
    which = "best" if "best" in finished else "last"
    headline, test = scored_by(job.scheme).headline, finished[which]["test"]
    students = {role: load(job.directory / "export" / which / role) for role, _ in job.scheme.chain}
    first = next(iter(students.values()))
    spoken = {"architecture": architecture(teacher.model, job.about.origins), "role": "teacher", "which": "last"}
    info = {
        **first.info,
        **spoken,
        "scores": {"step": None, **{s: {"teacher": v} for s, v in scores.items() if s in ("validation", "test")}},
    }
    info |= {"entry": "teacher", "entries": ["teacher"]}
    known = Student(info, teacher.model, teacher.params, teacher.stats, {}, "teacher", first.tokenizer)
    networks = {"teacher": known, **students}
    labels = {"teacher": "teacher", **dict(job.scheme.chain)}
    values = {"teacher": scores["test"], **{role: test[role] for role in students}}
    cost = costs({role: _forward(network, job) for role, network in networks.items()})
    entries: list[dict[str, Any]] = []
    for number, (role, network) in enumerate(networks.items()):
        file = directory / FOLDER / f"{number}_{_slug(labels[role])}{SUFFIX}"
        texts = {TOKENIZER: network.tokenizer} if network.tokenizer else {}
        size = write_packed(file, network.info, network.model, network.params, network.stats, texts)
        score = values[role][headline.metric]
        entry = {
            "step": labels[role],
            "accuracy": {"mean": score, "spread": values[role].get(headline.error)},
            "parameters": cost[role]["parameters"],
            "bytes_on_disk": size,
            "smaller": entries[0]["bytes_on_disk"] / size if entries else 1.0,
            "share_of_teacher": score / entries[0]["accuracy"]["mean"] if entries else 1.0,
            "latency_ms": cost[role]["latency_ms"],
            "latency_spread_ms": cost[role]["latency_spread_ms"],
            "file": file.relative_to(directory).as_posix(),
        }
        entries.append(entry)
    return entries


def chain_section(entries: list[dict[str, Any]], headline: Headline) -> dict[str, Any]:
    """Returns the chain as a table of the report."""
    rows = []
    for e in entries:
        values = {headline.metric: e["accuracy"]["mean"], headline.error: e["accuracy"]["spread"]}
        share, size = f"{100 * e['share_of_teacher']:.1f}%", f"{e['bytes_on_disk']:,}"
        latency = f"{e['latency_ms']['1']:.2f}"
        rows.append(
            [
                e["step"],
                score_text(headline, values),
                share,
                f"{e['parameters']:,}",
                size,
                f"{e['smaller']:.1f}x",
                latency,
            ]
        )
    columns = [
        "Step",
        f"{name_of(headline).capitalize()} (test)",
        "Of the teacher's",
        "Parameters",
        "Bytes",
        "Smaller",
        "ms",
    ]
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

    return Forward(network.model, network.params, network.stats, inputs)


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
