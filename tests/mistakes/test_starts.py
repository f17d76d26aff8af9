"""Networks that a student cannot start from."""

import numpy as np
from mistakes import Mistake, check, config, each

import kd_jax
from kd_jax.config import scheme_of


def simkd(folder, name, **fields):
    """A student that keeps its teacher's head, in <folder>/<name>."""
    made = config("simkd", **fields)
    made.scheme = scheme_of("simkd")
    for network in (made.student, made.teacher):
        network.model = {"name": "models.vision.cnn.cnn", "kwargs": {"widths": (4, 8)}}
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    pictures = images, np.arange(40, dtype=np.int32) % 4
    return kd_jax.run(made, folder / name, data=kd_jax.from_arrays(train=pictures, test=pictures))


def started(baseline, export):
    def do(folder):
        simkd(folder.parent / "before", "first")
        simkd(folder, "second", baseline=baseline, student__initial__name=str(folder.parent / "before" / export))

    return do


EXPORT = "first/{}/export/last/student"
ROWS = [
    Mistake(
        "a baseline that would start from SimKD's student",
        "is of the network that schemes.reused_head.build makes of the student; the baseline, the plain network",
        started(True, EXPORT.format("student")),
    ),
    Mistake(
        "SimKD's student started from a plain network",
        "does not hold this model: …projector",
        started(False, EXPORT.format("teacher")),
    ),
]


@each(ROWS)
def test_starts(mistake, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    check(mistake, folder, capsys)
