"""Trees into networks: configs/tabular.py by data and student, over seeds, with size and speed.

python -m benchmarks.tabular [--rows letters,mlp ...] [--seeds 5] [--workdir runs/tabular]

A row is one sweep: its seeds, with the teacher and alone (weight 0 of its term), in one program. Scores are those of
the last step on the test set; sizes are bytes of parameters against those of the pickled estimator; the time is that of
1,000 test rows, the median of 20 rounds in turns, one thread each. Finished sweeps are read.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before NumPy starts
    os.environ.setdefault(name, "1")

import jax  # noqa: E402
import numpy as np  # noqa: E402

import kd_jax  # noqa: E402
from benchmarks import common  # noqa: E402
from configs import tabular  # noqa: E402
from kd_jax.data.load import load  # noqa: E402
from kd_jax.models import trees  # noqa: E402
from kd_jax.sweep import run as sweep  # noqa: E402
from kd_jax.sweep.spec import Spec  # noqa: E402

ROWS = (
    *("letters,mlp", "letters,soft_tree", "letters,mlp,forest", "income,mlp", "income,mlp,xgboost"),
    *("diamonds,mlp", "diamonds,soft_tree"),
)


def configured(row: str, directory: str) -> tuple[Any, str]:
    """Returns the config of a row, and the term of its teacher."""
    config = tabular.get_config(row)
    config.baseline, config.report = False, False
    if directory:
        config.data.directory = directory
    return config, "distance" if "distance" in config.terms else "kd"


def measure(row: str, directory: str, seeds: int, root: Path) -> dict[str, Any]:
    """Returns the scores of a row's networks, and what they cost."""
    config, term = configured(row, directory)
    place, field = root / row.replace(",", "-"), f"terms.{term}.weight"
    weight = config.terms[term].weight
    if not (place / sweep.RESULTS).exists():
        sweep.run(config, Spec({"seed": tuple(range(seeds)), field: (0.0, weight)}, {}), place)
    results = json.loads((place / sweep.RESULTS).read_text())
    data = load(config.data)
    learned = load({**config.data, "labels": 0}).train
    teacher = trees.ensemble(learned.num_classes, learned, **config.teacher.model.kwargs)
    x, labels = data.test.in_memory()
    standardised = ((x - np.array(data.train.mean)) / np.array(data.train.std)).astype(np.float32)
    regress = labels.dtype.kind == "f"

    def score(answers: np.ndarray) -> float:
        wrong = (np.asarray(answers).reshape(len(labels)) - labels) ** 2 if regress else None
        return float(np.sqrt(wrong.mean())) if regress else 100 * float(np.mean(answers == labels))

    said = teacher.fn(standardised)
    scores: dict[bool, list[float]] = {False: [], True: []}
    for run in results["runs"]:
        scores[run["point"][field] != 0.0].append(run["test"] if regress else 100 * run["test"])
    student = kd_jax.load(f"{results['runs'][-1]['export']}/student")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(student.params))
    estimator = trees.fitted(teacher)
    few = 1000
    times = common.alternate(
        {"student": lambda: student.predict(x[:few]), "teacher": lambda: teacher.fn(standardised[:few])}, seconds=4.0
    )
    stored = len(pickle.dumps(estimator))
    return {
        "data, student": row.replace(",", ", "),
        "metric": "RMSE" if regress else "accuracy",
        "teacher": f"{score(said if regress else said.argmax(1)):.{3 if regress else 2}f}",
        "alone": spread(scores[False], regress),
        "distilled": spread(scores[True], regress),
        "parameters": f"{parameters:,}",
        "smaller in bytes": f"{stored / (4 * parameters):.0f}x",
        "faster": f"{times['teacher'] / times['student']:.1f}x",
    }


def spread(values: list[float], regress: bool) -> str:
    return f"{np.mean(values):.{3 if regress else 2}f} ± {np.std(values, ddof=1):.{3 if regress else 2}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", default=ROWS)
    parser.add_argument("--directory", nargs="*", default=[], help="name=file of data that are not in their package")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", default="runs/tabular")
    args = parser.parse_args()
    root, start = Path(args.workdir), time.monotonic()
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    files = dict(pair.split("=", 1) for pair in args.directory)
    made = []
    for row in args.rows:
        made.append(measure(row, files.get(row.split(",")[0], ""), args.seeds, root))
        print(made[-1], flush=True)
        common.write("tabular", made, seeds=args.seeds, seconds=round(time.monotonic() - start))


if __name__ == "__main__":
    main()
