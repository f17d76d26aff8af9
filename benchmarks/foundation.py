"""What configs/foundation.py gains on Fashion-MNIST, and what CRD's queue costs and gains on digits: 3 seeds.

python -m benchmarks.foundation [--seeds=3] [--only agglomerative ...] [--workdir=runs/foundation]

Teachers are trained once, and scored with the labels that the student is scored with. "untrained" is the student's
network as it is initialised, "labels" the same network trained on the labels alone. Bytes are those of the memory that
a term keeps in the state. Results: benchmarks/results/foundation.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from kd_jax.config.fields import teachers_of
from kd_jax.train import run as train

VARIANTS = ("agglomerative", "agglomerative_plain", "label_free", "clip", "dino", "untrained")
METRICS = ("knn_accuracy", "probe_accuracy", "recall", "rank", "accuracy")
CRD = {"crd": "contrastive", "crd_queue": "contrastive"}


def configure(variant: str, seed: int, root: Path) -> ConfigDict:
    """The config of a run whose teachers lie in `root`; those of one kind are trained once."""
    if variant in CRD:
        config = importlib.import_module(f"configs.{CRD[variant]}").get_config(variant)
        config.baseline = variant == "crd"
    else:
        config = importlib.import_module("configs.foundation").get_config(
            f"{variant.replace('untrained', 'dino')},fashion"
        )
        config.baseline = variant in ("agglomerative", "clip")
    if variant == "untrained":
        config.train.steps, config.train.optimizer.learning_rate = 1, 1e-9
        config.train.optimizer.warmup = 0.0
    config.seed, config.report = seed, False
    kind = {"agglomerative_plain": "agglomerative", "crd_queue": "crd"}.get(variant, variant)
    for name, teacher in teachers_of(config).items():
        export = root / "teachers" / kind / name / "export" / "last" / "student"
        if export.exists():
            teacher.checkpoint = str(export)
        else:
            teacher.workdir = str(root / "teachers" / kind / name)
    return config


def scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{network: {metric: value}} of the last step on the test split."""
    found = {}
    for name, model in results["models"].items():
        found[name] = model["last"]["test"]
        found |= {other: entry["last"]["test"] for other, entry in model.get("others", {}).items()}
    return found


def memory_bytes(variant: str, root: Path) -> int:
    """The bytes of what the student's terms keep from step to step."""
    job = train.jobs_of(configure(variant, 0, root), root / variant / "0")[0]["student"]
    kept = [
        t.memory.first for s in job.scheme.stages for p in s.phases for t in p.terms.values() if t.memory is not None
    ]
    return sum(x.size * x.dtype.itemsize for x in map(np.asarray, jax.tree.leaves(kept)))


def teach(variant: str, root: Path) -> None:
    """Trains the teachers that are not there yet, by a run whose student makes one step."""
    config = configure(variant, 0, root)
    if any(teacher.workdir for teacher in teachers_of(config).values()):
        config.train.steps, config.baseline = 1, False
        train.run(config, root / "teachers" / variant)


def rows(variant: str, seeds: int, root: Path) -> Iterator[dict[str, Any]]:
    gathered: dict[str, list[Mapping[str, float]]] = {}
    teach(variant, root)
    for seed in range(seeds):
        results = train.run(configure(variant, seed, root), root / variant / str(seed))
        for name, values in scores(results).items():
            gathered.setdefault(name, []).append(values)
    for name, several in gathered.items():
        row: dict[str, Any] = {"variant": variant, "network": name, "seeds": len(several)}
        for metric in METRICS:
            values = [v[metric] for v in several if v.get(metric) is not None]
            if values:
                factor = 1 if metric == "rank" else 100
                row[metric] = round(factor * float(np.mean(values)), 2)
                row[f"{metric}_std"] = round(factor * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, 2)
        if name == "student" and (size := memory_bytes(variant, root)):
            row["memory_bytes"] = size
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*VARIANTS, *CRD], choices=[*VARIANTS, *CRD])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/foundation")
    args = parser.parse_args()
    root, path = Path(args.workdir).absolute(), common.RESULTS / "foundation.json"
    jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
    for variant in args.only:
        made = list(rows(variant, args.seeds, root))
        known = json.loads(path.read_text())["rows"] if path.exists() else []
        common.write("foundation", [*(row for row in known if row["variant"] != variant), *made], seeds=args.seeds)


if __name__ == "__main__":
    main()
