"""results.json: everything that a run found out, as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kd_jax.data.batches import batch_shapes
from kd_jax.data.source import Splits
from kd_jax.measure import cost
from kd_jax.plan import Job
from kd_jax.types import Model, PyTree
from kd_jax.workdir import git_hash, plain, versions


def curve(path: Path) -> list[dict[str, Any]]:
    """The train records of a metrics.jsonl, and as "validation_accuracy" what was evaluated at a step."""
    points: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        point = points.setdefault(record["step"], {"step": record["step"]})
        if record["kind"] == "train":
            point |= {k: v for k, v in record.items() if k not in ("kind", "gradient_norm")}
        else:
            point["validation_accuracy"] = record.get("student/accuracy")
    return [points[step] for step in sorted(points)]


def _scores(scores: Mapping[str, Any], role: str) -> dict[str, Any]:
    return {
        "step": scores["step"],
        **{split: scores[split][role] for split in ("validation", "test") if split in scores},
    }


def _infer(model: Model, variables: tuple[PyTree, PyTree], images: jax.Array) -> np.ndarray:
    params, stats = variables
    apply = jax.jit(lambda p, s, x: model.apply(p, s, x, train=False, key=jax.random.key(0))[0].logits)
    return np.asarray(apply(params, stats, images), np.float32)


def examples(
    count: int,
    temperature: float,
    models: Mapping[str, Model],
    variables: Mapping[str, tuple],
    splits: Splits,
    prepare: Any,
) -> list[dict[str, Any]]:
    """The test images (of the first 1,000) of which the teacher is least certain, and what each network says."""
    rows = [splits.test.example(i) for i in range(min(1000, len(splits.test)))]
    batch = {"image": jnp.stack([r["image"] for r in rows])}
    seen = prepare(batch | batch_extras(len(rows)), jax.random.key(0), False)["image"]
    logits = {name: _infer(models[name], variables[name], seen) for name in variables}
    p = np.asarray(jax.nn.softmax(logits["teacher"]))
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(-1)
    found = []
    for i in np.argsort(-entropy, kind="stable")[:count]:
        example = {
            "image": picture(np.asarray(rows[i]["image"])),
            "label": int(rows[i]["label"]),
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


def batch_extras(n: int) -> dict[str, jax.Array]:
    """The other fields of a batch of `n` unlabelled examples."""
    zeros = jnp.zeros((n,), jnp.int32)
    return {"label": zeros - 1, "labelled": zeros > 0, "index": zeros, "view": zeros}


def collect(
    config: ConfigDict,
    finished: Mapping[str, Mapping[str, Any]],
    teacher_scores: Mapping[str, Any],
    jobs: Mapping[str, Job],
    models: Mapping[str, Model],
    variables: Mapping[str, tuple[PyTree, PyTree]],
    splits: Splits,
) -> dict[str, Any]:
    """What report.write_report takes. `finished` has the results of the trainings; a loaded teacher has scores only."""
    prepare, train = jobs["student"].scheme.prepare, jobs["student"].source
    shape = jax.eval_shape(lambda b: prepare(b, jax.random.key(0), False), batch_shapes(train, 1))["image"]
    found: dict[str, Any] = {}
    for name in [n for n in ("teacher", "baseline", "student") if n == "teacher" or n in finished]:
        about = config.teacher.model if name == "teacher" else config.student.model
        entry = {"name": about.name.rpartition(".")[2]}
        entry |= cost(models[name], *variables[name], shape) if config.report else {}
        if name in finished:
            result = finished[name]
            entry |= {"steps": result["steps"], "train_seconds": result["seconds"]}
            entry |= {
                "examples_per_second": result["examples_per_second"],
                "curve": curve(jobs[name].directory / "metrics.jsonl"),
            }
            role = jobs[name].scheme.evaluate[0]
            entry |= {w: _scores(result[w], role) for w in ("last", "best") if w in result}
        else:
            entry["last"] = {"step": None, **teacher_scores}
        found[name] = entry
    temperature = shown_temperature(config.terms)
    labelled = int(train.labelled.sum())
    shown: list[dict[str, Any]] = []
    if config.report and config.examples:
        shown = examples(config.examples, temperature, models, variables, splits, prepare)
    return {
        "title": config.title or f"{found['teacher']['name']} to {found['student']['name']} on {train.name}",
        "config": plain(config), "versions": versions(), "git": git_hash(), "seed": config.seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "data": {
            "name": train.name, "num_classes": train.num_classes, "class_names": list(train.class_names),
            "train": len(train), "labelled": labelled, "transfer": len(train) - labelled,
            "validation": len(splits.validation) if splits.validation else 0, "test": len(splits.test),
            "image_shape": list(train.image_shape),
            "teacher_labelled": int(jobs["teacher"].source.labelled.sum()) if "teacher" in jobs else None,
        },
        "models": found,
        "examples": shown,
    }  # fmt: skip
