"""What a cached teacher costs in a step, and what is lost when less of its answers is kept.

python -m benchmarks.cache                    # cached step / student-only step; limit 1.05
python -m benchmarks.cache --accuracy=digits [--seeds 3] [--workdir runs/cache]     # or language

The steps: digits, ResNet20 to ResNet8, batch 64, each with its batch gathered on the device, timed one after the other
in every round; ratios are those of the medians. The accuracy: the digits task of configs/transfer_sets.py (100 labels),
one teacher, the same pictures for all seeds (config.view_seed), 4 views of an example. Or word-level KD of
configs/language.py:bpe,small. A killed run goes on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from configs import cifar_resnet, language, transfer_sets
from kd_jax.config import supervised
from kd_jax.core.bind import bind, init_state, loaded_variables
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.batches import train_batches
from kd_jax.system.parallel import batch_sharding
from kd_jax.train import run as train
from kd_jax.train import teachers
from kd_jax.train.jobs import make_model

STORES = (
    {"k": 0, "dtype": "float32"},
    {"k": 0, "dtype": "bfloat16"},
    {"k": 0, "dtype": "uint8"},
    *({"k": k, "dtype": "float32"} for k in (1, 2, 3, 5)),
    {"k": 3, "dtype": "uint8"},
)
TOKEN_STORES = (
    *({"k": k, "dtype": "float16"} for k in (0, 1, 2, 5, 20, 50)),
    {"k": 20, "dtype": "uint8"},
)


def steps(rounds: int) -> None:
    mesh, key = common.one_device(), jax.random.key(0)

    def runner(cached: bool, folder: Path, alone: bool = False):
        config = cifar_resnet.get_config("digits,response")
        config.baseline, config.report = False, False
        config.teacher.cache.directory = str(folder) if cached else ""
        config.teacher.cache.views = 4
        if alone:
            config.terms = supervised()
        data = common.load(config.data)
        model = make_model(config.teacher.model, data.train)
        image = np.zeros((1, *data.train.image_shape), np.float32)
        variables = jax.tree.map(np.asarray, jax.jit(model.init)(key, image))  # random ones cost what trained ones do
        jobs, _ = train.checked_jobs(config, folder, mesh, handed={"teacher": variables})
        jobs, *_ = teachers.teach(config, jobs, mesh, {"teacher": variables})
        job = jobs["student"]
        batches = train_batches(
            job.source,
            batch_size=64,
            seed=0,
            num_steps=rounds + 3,
            sharding=batch_sharding(mesh),
            labelled_share=job.settings.labelled_share,
            views=job.settings.views,
        )
        scheme, inputs = bind(job.scheme, train.batch_shapes(job.source, 64))
        create = jax.jit(lambda k, loaded: init_state(scheme, inputs, k, loaded))
        state = create(key, loaded_variables(scheme))
        step, hyper = jax.jit(make_train_step(scheme, scheme.stages[0])), hyper_of(scheme.stages[0])
        return lambda: step(state, next(batches), hyper, key)

    with tempfile.TemporaryDirectory() as folder:
        programs = {
            "cached": runner(True, Path(folder)),
            "student only": runner(False, Path(folder), alone=True),
            "with the teacher": runner(False, Path(folder)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(rounds + 3):
            for name, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program())
                if number >= 3:  # the first ones compile and warm up
                    seconds[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * common.median(s) for name, s in seconds.items()}
    rows = [{"step": n, "ms": f"{v:.2f}", "/ student only": f"{v / ms['student only']:.3f}"} for n, v in ms.items()]
    common.write("cache", rows, limit=1.05, rounds=rounds)


def digits() -> ConfigDict:
    config = transfer_sets.get_config("unlabelled")
    config.teacher.cache.views = 4
    return config


def text() -> ConfigDict:
    config = language.get_config("word,bpe,small")
    config.data.limit = 32 * 300  # rows that the student sees: all logits of more would be gigabytes
    return config


# (configs, what is stored, {metric of the test split: by what it is multiplied})
TASKS = {
    "digits": (digits, STORES, {"accuracy": 100, "agreement": 100}),
    "language": (text, TOKEN_STORES, {"perplexity": 1, "agreement": 100, "kl": 1}),
}


def accuracies(task: str, seeds: int, root: Path) -> None:
    """Trains from every store, and from the teacher itself."""
    configure, stores, metrics = TASKS[task]
    rows = []
    for store in ({}, *stores):
        tests = []
        for seed in range(seeds):
            config = configure()
            config.seed, config.view_seed, config.baseline, config.report = seed, 0, False, False
            config.teacher.workdir = str(root / task / "teacher")
            config.teacher.cache.update({"directory": "auto", **store} if store else {})
            name = "-".join([*(str(value) for value in store.values()), str(seed)])
            tests.append(train.run(config, root / task / name)["models"]["student"]["last"]["test"])
        jobs, _ = train.jobs_of(config, root)
        size = jobs["student"].caches["teacher"].splits["train"].content.row_bytes if store else "no cache"
        row = {"k": "", "dtype": "", **store, "bytes an answer": size}
        if task == "language" and store:
            row["bytes a token"] = round(size / config.data.length)
        for metric, scale in metrics.items():
            row[metric] = common.spread([scale * test[metric] for test in tests])
        rows.append(row)
        common.write("cache_accuracy" if task == "digits" else "cache_language", rows, seeds=seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--accuracy", choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", default="runs/cache")
    args = parser.parse_args()
    if args.accuracy:
        accuracies(args.accuracy, args.seeds, Path(args.workdir))
    else:
        steps(args.rounds)


if __name__ == "__main__":
    main()
