"""A run on small pictures whose teacher is cached or not. As a program it builds the cache, or trains too, and can be
one of several processes. Arguments: port, processes, index, directory, seconds a chunk, "build" or "train"."""

import sys
import time
from pathlib import Path

import jax
import numpy as np

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import chex  # noqa: E402
import pytest  # noqa: E402
import several  # noqa: E402
import toy  # noqa: E402

from kd_jax.config import base, supervised, term, training  # noqa: E402
from kd_jax.data import answers  # noqa: E402
from kd_jax.data.arrays import from_arrays  # noqa: E402
from kd_jax.system.checkpoint import load_tree  # noqa: E402
from kd_jax.train import run as train  # noqa: E402
from kd_jax.train.finish import exported  # noqa: E402

KD = term("losses.response.kd_loss", ("student.logits",), ("teacher.logits",), kwargs={"temperature": 2.0})
HINT = term("losses.feature.feature_hint_loss", ("student.features:hidden",), ("teacher.features:hidden",), weight=0.1)
TEACHER, STUDENT = toy.Net(4, dropout=0.5), toy.Net(4)


def splits(seed: int = 0):
    """40 pictures of 6 x 6, of which half have a label, 12 for validation and 20 for testing."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (72, 6, 6, 1)).astype(np.uint8), np.arange(72) % toy.CLASSES
    shown = np.where(np.arange(40) < 20, labels[:40], -1)
    parts = {"train": (images[:40], shown), "validation": (images[40:52], labels[40:52])}
    return from_arrays(**parts, test=(images[52:], labels[52:]), names=toy.CLASSES)


def variables(seed: int = 0):
    """Those of a teacher whose answers depend on every pixel."""
    model = toy.LinenModel(TEACHER)
    return jax.tree.map(np.asarray, model.init(jax.random.key(seed), np.zeros((1, 6, 6, 1), np.float32)))


def configure(directory: str = "", mesh: tuple[int, int] = (1, 1), **cache):
    config = base()
    config.train = training(batch_size=16, steps=12, augment=("flip", dict(name="pad_crop", padding=2)))
    config.teacher.train = training(batch_size=16, steps=4, augment=("flip",))
    config.terms = {**supervised(), "kd": KD, "hint": HINT}
    config.teacher.cache.update(dict(directory=directory, **cache))
    config.mesh.axes.data, config.mesh.axes.fsdp = mesh
    config.log_every, config.eval_every, config.eval_batch_size = 4, 6, 16
    config.report, config.baseline = False, False
    return config


def run(config, workdir, seed: int = 0, data=None, **options):
    defaults = dict(student=STUDENT, teacher=TEACHER, teacher_variables=variables(seed), data=data or splits())
    return train.run(config, workdir, **{**defaults, **options})


def trained(directory: str, **changes):
    """A config whose teacher is trained, in 4 steps."""
    config = configure(directory)
    config.teacher.train.update(changes)
    return config


def pretrained(model, key, scale=1.0):
    """For config.teacher.initial."""
    variables = model.init(jax.random.key(0), jax.numpy.zeros((1, 6, 6, 1)))
    return jax.tree.map(lambda x: scale * x, variables)


def halfway(model, key, teacher):
    """For config.student.initial."""
    return jax.tree.map(lambda x: x / 2, teacher)


def student(directory: Path):
    shape = jax.ShapeDtypeStruct((8, 6, 6, 1), np.float32)
    params, stats = jax.eval_shape(toy.LinenModel(STUDENT).init, jax.random.key(0), shape)
    return load_tree(directory / "student" / "export" / "last" / "student", exported(params, stats))


def contents(folder: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in files.items() if name != "lock"}


def assert_equal(directory, results, on_the_fly):
    chex.assert_trees_all_close(student(directory), student(on_the_fly[0]), rtol=1e-4, atol=1e-5)
    ours, theirs = (r["models"]["student"]["last"]["test"] for r in (results, on_the_fly[1]))
    for name in ("accuracy", "nll", "agreement", "kl"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    ours, theirs = (r["models"]["teacher"]["last"]["test"] for r in (results, on_the_fly[1]))
    assert ours["accuracy"] == theirs["accuracy"] and ours["nll"] == pytest.approx(theirs["nll"], rel=1e-5)


def main(port: str, count: str, index: str, directory: str, pause: str, what: str) -> None:
    several.join(port, count, index)
    write = answers.Writer.write

    def slow(self, chunk, values):
        time.sleep(float(pause) / 2)
        write(self, chunk, values)
        print("CHUNK", flush=True)
        time.sleep(float(pause) / 2)

    answers.Writer.write, answers.CHUNK_BYTES = slow, 64  # chunks as small as a batch
    config = configure(f"{directory}/cache", mesh=(jax.device_count(), 1))
    run(config, Path(directory) / "run", until="cache" if what == "build" else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
