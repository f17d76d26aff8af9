"""One of several processes that learn from a folder of pictures and from answers. Arguments: port, processes, index,
folder, workdir."""

import sys

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import numpy as np  # noqa: E402
import several  # noqa: E402
from mistakes import config  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.models.vision.cnn import cnn  # noqa: E402


def main(port: str, count: str, index: str, folder: str, workdir: str) -> None:
    several.join(port, count, index)
    data = kd_jax.from_folder(folder, channels=1, image_size=6)
    logits = {s: np.eye(10, dtype=np.float32)[x.labels] for s, x in data._asdict().items() if x is not None}
    student = cnn(num_classes=10, widths=(2, 4))
    kd_jax.run(
        config(steps=6, mesh__axes__data=-1), workdir, student=student, teacher=kd_jax.from_answers(**logits), data=data
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
