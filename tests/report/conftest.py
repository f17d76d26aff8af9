from __future__ import annotations

import math

import numpy as np
import pytest

from kd_jax.tasks import classify, classify_show
from kd_jax.types import Shown

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def fake_results(classes: int = 10, accuracy=(0.936, 0.917, 0.928), examples: int = 6) -> dict:
    """A results.json as train.py writes it, with made-up numbers for (teacher, baseline, student)."""
    rng = np.random.default_rng(0)
    names = list(CLASSES[:classes]) if classes <= 10 else [f"class {i}" for i in range(classes)]
    sizes = {
        "teacher": ("resnet56", 855_770, 1.26e8, 3.1, 41.0, 9100.0),
        "baseline": ("resnet20", 272_474, 4.1e7, 1.3, 14.6, 3900.0),
        "student": ("resnet20", 272_474, 4.1e7, 1.3, 14.6, 6200.0),
    }
    models = {}
    for (role, (name, parameters, flops, one, many, seconds)), final in zip(sizes.items(), accuracy, strict=True):
        models[role] = {
            "name": name,
            "parameters": parameters,
            "bytes": 4 * parameters,
            "flops": flops,
            "latency_ms": {"1": one, "128": many},
            "steps": 64_000,
            "train_seconds": seconds,
            "examples_per_second": 64_000 * 128 / seconds,
            "curve": _curve(role, final, rng),
        }
        for which, step, shift in (("last", 64_000, 0.0), ("best", 61_000, 0.001)):
            models[role][which] = {
                "step": step,
                "validation": {"accuracy": final + 0.004 + shift, "nll": 0.31, "ece": 0.03},
                "test": {
                    "accuracy": final + shift / 2,
                    "accuracy_error": math.sqrt(final * (1 - final) / 10_000),
                    "nll": 0.25 + 4 * (0.94 - final),
                    "ece": 0.03 + 0.2 * (0.94 - final),
                    "per_class_accuracy": np.clip(final + rng.normal(0, 0.03, classes), 0, 1).tolist(),
                    "agreement": None if role == "teacher" else (0.951 if role == "student" else 0.923),
                    "kl": None if role == "teacher" else (0.11 if role == "student" else 0.29),
                },
            }
    results = {
        "title": "CIFAR-10: resnet56 teaches resnet20",
        "question": "was it worth it?",
        "config": {"optimizer": {"name": "sgd", "learning_rate": 0.05}, "terms": {"kd": {"temperature": 4.0}}},
        "versions": {"jax": "0.10.2", "flax": "0.12.8", "python": "3.11.9"},
        "git": "3f2c1ab",
        "seed": 0,
        "device": "NVIDIA H200",
        "command": "python launch.py --config=configs/cifar_resnet.py:kd --workdir=/tmp/kd",
        "wall_seconds": 19_400.0,
        "data": {
            "name": "cifar10",
            "noun": "image",
            "num_classes": classes,
            "class_names": names,
            "train": 45_000,
            "labelled": 45_000,
            "transfer": 45_000,
            "validation": 5_000,
            "test": 10_000,
            "image_shape": [32, 32, 3],
        },
        "models": models,
        "headline": classify.task().headline._asdict(),
        "rows": {name: list(row) for name, row in classify.ROWS.items()},
    }
    shown = [_example(rng, classes) for _ in range(examples)]
    results["sections"] = gaps(results)
    if shown:
        results["sections"].append(
            {"kind": "examples", "title": "Dark knowledge", "lead": "What it knows.", "examples": shown, "names": names}
        )
    return results


class Images:
    """As much of a source as class gaps need."""

    def __init__(self, data: dict) -> None:
        self.class_names, self.noun, self.test = data["class_names"], data["noun"], data["test"]

    def __len__(self) -> int:
        return self.test


def gaps(results: dict) -> list[dict]:
    scores = {role: model["last"] for role, model in results["models"].items()}
    return classify_show.class_gaps(Shown({}, {}, scores, Images(results["data"]), {}, 0))


def _curve(role: str, final: float, rng: np.random.Generator) -> list[dict]:
    records = []
    for step in range(500, 64_001, 500):
        rise = 1 - 0.6 * math.exp(-step / 6000) - 0.08 * (step < 32_000) - 0.02 * (step < 48_000)
        ce = 0.05 + 1.6 * math.exp(-step / 9000) + 0.25 * (step < 32_000) + abs(rng.normal(0, 0.02))
        record = {"step": step, "accuracy": final * rise, "ce": ce, "loss": ce}
        if role == "student":
            record["kd"] = 0.4 + 9 * math.exp(-step / 7000) + abs(rng.normal(0, 0.08))
            record["loss"] = 0.1 * ce + 0.9 * record["kd"]
        if step % 1000 == 0:
            record["validation_accuracy"] = final * rise + rng.normal(0, 0.004)
        records.append(record)
    return records


def _example(rng: np.random.Generator, classes: int) -> dict:
    y, x = np.mgrid[:32, :32] / 31.0
    phase = rng.uniform(0, 6.28, 3)
    image = np.stack([0.5 + 0.4 * np.sin(6 * x * rng.uniform(0.3, 1.5) + 5 * y + p) for p in phase], -1)
    label = int(rng.integers(classes))
    teacher = rng.normal(0, 2.2, classes)
    teacher[label] += 7
    student, baseline = teacher + rng.normal(0, 1.2, classes), teacher + rng.normal(0, 3.0, classes)

    def soft(logits, temperature):
        p = np.exp((logits - logits.max()) / temperature)
        return (p / p.sum()).tolist()

    return {
        "image": (255 * np.clip(image, 0, 1)).astype(np.uint8).tolist(),
        "label": label,
        "teacher": soft(teacher, 1.0),
        "student": soft(student, 1.0),
        "baseline": soft(baseline, 1.0),
        "teacher_soft": soft(teacher, 4.0),
        "student_soft": soft(student, 4.0),
        "temperature": 4.0,
    }


@pytest.fixture(scope="session")
def make_results():
    return fake_results


@pytest.fixture(scope="session")
def class_gaps():
    return gaps
