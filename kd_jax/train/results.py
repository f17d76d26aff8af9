"""results.json: everything that a run found out, as plain JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kd_jax.config.fields import teachers_of
from kd_jax.core.paths import calls_in, lookup, taps_in
from kd_jax.data.source import Source, Splits
from kd_jax.system.cost import cost
from kd_jax.system.workdir import git_hash, plain, versions
from kd_jax.train.jobs import Job
from kd_jax.types import Model, PyTree, Role


def curve(path: Path, entry: str) -> list[dict[str, Any]]:
    """The train records of a metrics.jsonl, and as "validation_accuracy" and "validation_nll" those of `entry`."""
    points: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        point = points.setdefault(record["step"], {"step": record["step"]})
        if record["kind"] == "train":
            point |= {k: v for k, v in record.items() if k not in ("kind", "gradient_norm")}
        else:
            point |= {f"validation_{name}": record.get(f"{entry}/{name}") for name in ("accuracy", "nll")}
    return [points[step] for step in sorted(points)]


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network as the report measures it; `given` holds the inputs that do not come from the batch.

    `cost` was measured before, of a teacher of which only the answers are here.
    """

    model: Model
    params: PyTree
    stats: PyTree
    role: Role
    given: Mapping[str, PyTree]
    path: str  # of the logits that are reported
    cost: Mapping[str, Any] | None = None

    @property
    def variables(self) -> tuple[PyTree, PyTree]:
        return self.params, self.stats

    def inputs(self, batch: Mapping[str, jax.Array]) -> tuple[PyTree, ...]:
        paths = enumerate(self.role.inputs)
        return tuple(self.given[str(i)] if str(i) in self.given else lookup({"batch": batch}, p) for i, p in paths)

    def logits(self, batch: Mapping[str, jax.Array]) -> np.ndarray:
        def infer(params: PyTree, stats: PyTree, *inputs: PyTree) -> jax.Array:
            (name,) = calls_in([self.path])
            taps = taps_in(name, [self.path])
            found = self.model.apply(params, stats, *inputs, train=False, key=jax.random.key(0), taps=taps)[0]
            return lookup({name: found}, self.path)

        return np.asarray(jax.jit(infer)(self.params, self.stats, *self.inputs(batch)), np.float32)


def _scores(scores: Mapping[str, Any], entry: str) -> dict[str, Any]:
    return {
        "step": scores["step"],
        **{split: scores[split][entry] for split in ("validation", "test") if split in scores},
    }


def examples(
    count: int, temperature: float, networks: Mapping[str, Network], splits: Splits, prepare: Any
) -> list[dict[str, Any]]:
    """The test images (of the first 1,000) of which the teacher is least certain, and what each network says."""
    raw = splits.test.batch(min(1000, len(splits.test)))
    seen = prepare(raw, jax.random.key(0), False)
    logits = {name: network.logits(seen) for name, network in networks.items()}
    p = np.asarray(jax.nn.softmax(logits["teacher"]))
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
    found = []
    for i in np.argsort(-entropy, kind="stable")[:count]:
        example = {
            "image": picture(raw["image"][i]),
            "label": int(raw["label"][i]),
            "temperature": temperature,
        }
        example |= {n: np.asarray(jax.nn.softmax(z[i])).tolist() for n, z in logits.items()}
        example |= {f"{n}_soft": np.asarray(jax.nn.softmax(z[i] / temperature)).tolist() for n, z in logits.items()}
        found.append(example)
    return found


def picture(image: np.ndarray) -> list | None:
    """The values 0..255 of a grey or colour image [H, W, C], floats stretched to that range; None for anything else."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        return None
    if image.dtype != np.uint8:
        image = image - image.min()
        image = np.round(255 * image / max(image.max(), 1e-12))
    return image.astype(int).tolist()


def shown_temperature(terms: Mapping[str, Any]) -> float:
    """That of the first term on the logits which has a number for one, else 4: for the picture of dark knowledge."""
    for term in terms.values():
        value = term["kwargs"].get("temperature")
        if isinstance(value, (int, float)) and "student.logits" in term["inputs"]:
            return float(value)
    return 4.0


def collect(
    config: ConfigDict,
    finished: Mapping[str, Mapping[str, Any]],
    teacher_scores: Mapping[str, Mapping[str, Any]],
    jobs: Mapping[str, Job],
    networks: Mapping[str, Network],
    splits: Splits,
) -> dict[str, Any]:
    """What report.write_report takes. `finished` has the results of the trainings; a loaded teacher has scores only.

    Of each training that is the first classifier that its scheme evaluates; "others" has the scores of the rest.
    """
    prepare, train = jobs["student"].scheme.prepare, jobs["student"].source
    found: dict[str, Any] = {}
    teachers = teachers_of(config)
    for name in [*teachers, *(n for n in ("baseline", "student") if n in finished)]:
        about = teachers[name].model if name in teachers else config.student.model
        entry = {"name": about.name.rpartition(".")[2]}
        if config.report:
            entry |= measured(networks[name], train, prepare)
        if name in finished:
            result = finished[name]
            entry |= {"steps": result["steps"], "train_seconds": result["seconds"]}
            entry |= {
                "examples_per_second": result["examples_per_second"],
                "curve": curve(jobs[name].directory / "metrics.jsonl", jobs[name].scheme.evaluate[0]),
            }
            first, *others = jobs[name].scheme.evaluate
            entry |= {w: _scores(result[w], first) for w in ("last", "best") if w in result}
            if others:
                entry["others"] = {
                    o: {w: _scores(result[w], o) for w in ("last", "best") if w in result} for o in others
                }
        else:
            entry["last"] = {"step": None, **teacher_scores[name]}
        found[name] = entry
    temperature = shown_temperature(config.terms)
    labelled = int(train.labelled.sum())
    sections = joined({name: result.get("sections", []) for name, result in finished.items()})
    if sections:
        from kd_jax.report.sections import check as check_section  # here, since Matplotlib takes long to import

        for section in sections:
            check_section(section)
    shown: list[dict[str, Any]] = []
    if config.report and config.examples and "teacher" in networks and train.entry == "image":
        shown = examples(config.examples, temperature, networks, splits, prepare)
    names = " to ".join(found[n]["name"] for n in ("teacher", "student") if n in found)
    return {
        "title": config.title or f"{names} on {train.name}",
        "config": plain(config),
        "versions": versions(),
        "git": git_hash(),
        "seed": config.seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "data": {
            "name": train.name,
            "num_classes": train.num_classes,
            "class_names": list(train.class_names),
            "entry": train.entry,
            "per_token": train.per_token,
            "train": len(train),
            "labelled": labelled,
            "transfer": len(train) - labelled,
            "validation": len(splits.validation) if splits.validation else 0,
            "test": len(splits.test),
            "image_shape": list(train.image_shape),
            "teacher_labelled": int(jobs["teacher"].source.labelled.sum()) if "teacher" in jobs else None,
        },
        "models": found,
        "stages": finished["student"]["stages"],
        "sections": sections,
        "examples": shown,
    }


def joined(found: Mapping[str, list[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The sections of all trainings in one list: those of one title and kind become one, where each line names its
    training."""
    made: dict[tuple[str, str], dict[str, Any]] = {}
    counts = Counter(key for own in found.values() for key in {(s["title"], s["kind"]) for s in own})
    for name, own in found.items():
        for section in own:
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


def measured(network: Network, source: Source, prepare: Any) -> dict[str, Any]:
    """Size, FLOPs and latency of a network on the first example of a source, repeated."""
    if network.cost is not None:
        return dict(network.cost)
    seen = prepare(source.batch(1), jax.random.key(0), False)

    def inputs(batch: int) -> tuple[PyTree, ...]:
        repeated = {name: jnp.repeat(value, batch, axis=0) for name, value in seen.items()}
        return network.inputs(repeated)

    return cost(network.model, network.params, network.stats, inputs)
