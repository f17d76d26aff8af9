"""What students write: right sums (configs/reasoning.py) and phoneme error rates (configs/seq2seq.py), by method.

python -m benchmarks.answers [--task reasoning seq2seq] [--methods METHOD ...] [--seeds 3] [--workdir runs/answers]

Greedy answers to test prompts after the last step; nothing was tuned on them and nothing is selected. All students of
a task make the same number of steps with the same optimizer; one teacher serves all methods and seeds. "baseline" is
the student on the data alone: on the chains of the data, on the dictionary. Interrupted runs go on; --finished makes
the table of those that are done.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import jax

from benchmarks import common
from benchmarks.main_table import finished
from configs import reasoning, seq2seq
from kd_jax.train import run as train

TASKS = {"reasoning": reasoning, "seq2seq": seq2seq}
TABLES = {"reasoning": ("Answers", ("exact match",)), "seq2seq": ("Errors", ("phoneme error rate", "words right"))}
WITH_BASELINE = ("chain", "word")


def results_of(task: str, method: str, seed: int, root: Path, run: bool) -> dict[str, Any] | None:
    """Returns {model: its numbers} of a run; None where it is not finished and `run` is False."""
    config = TASKS[task].get_config(method)
    config.update(dict(seed=seed, report=False, baseline=method in WITH_BASELINE))
    if config.teacher.model.name:
        config.teacher.workdir = str(root / task / "teacher")
    directory = root / task / method / str(seed)
    results = finished(directory, config)
    if results is None and run:
        results = train.run(config, directory)
    return results and {name: scores(task, results, name) for name in results["models"]}


def scores(task: str, results: dict[str, Any], name: str) -> dict[str, float]:
    """Returns what the report's table says of a model, in percent, and its test perplexity."""
    title, columns = TABLES[task]
    (table,) = (section for section in results["sections"] if section["title"] == title)
    (cells,) = (cells for cells in table["rows"] if cells[0] in (name, "") or cells[0].startswith(f"{name},"))
    values = dict(zip(table["columns"], cells, strict=True))
    perplexity = results["models"][name]["last"]["test"]["perplexity"]
    return {c: float(values[c].rstrip("%")) for c in columns} | {"perplexity": perplexity}


def row(task: str, name: str, scores: list[dict[str, float]]) -> dict[str, Any]:
    line: dict[str, Any] = {"task": task, "method": name, "seeds": len(scores)}
    for column in scores[0]:
        values = [f[column] for f in scores]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        line[column] = f"{statistics.mean(values):.2f}{spread}"
    return line


def table(task: str, methods: tuple[str, ...], seeds: int, root: Path, run: bool) -> list[dict[str, Any]]:
    scored: dict[str, list[dict[str, float]]] = {"teacher": [], "baseline": []}
    for seed in range(seeds):
        for method in methods:
            models = results_of(task, method, seed, root, run)
            if models is None:
                continue
            scored.setdefault(method, []).append(models["student"])
            if "baseline" in models:
                scored["baseline"].append(models["baseline"])
            if "teacher" in models:
                scored["teacher"] = [models["teacher"]]
    return [row(task, name, models) for name, models in scored.items() if models]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="*", help="of the task; all if it is not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/answers")
    parser.add_argument("--finished", action="store_true", help="train nothing")
    args = parser.parse_args()
    root = Path(args.workdir)
    jax.config.update("jax_compilation_cache_dir", str(root.absolute() / "compiled"))
    rows = []
    for task in args.task:
        rows += table(task, tuple(args.methods or TASKS[task].METHODS), args.seeds, root, not args.finished)
    common.write("answers", rows)


if __name__ == "__main__":
    main()
