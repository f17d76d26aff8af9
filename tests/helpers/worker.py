"""One of several processes that train together on localhost.

Arguments: port, processes, index, directory, seconds a step, heartbeat timeout, step at which the last one raises,
number of students (members of one program).
"""

import sys
from pathlib import Path

import jax
import numpy as np

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import several  # noqa: E402
import toy  # noqa: E402
from killable import SETTINGS, SOURCES, scheme, slowly  # noqa: E402

from kd_jax.core.many import Members, stack  # noqa: E402
from kd_jax.core.terms import hyper_of  # noqa: E402
from kd_jax.train import loop  # noqa: E402
from kd_jax.train.initial import starting_at  # noqa: E402


def main(
    port: str,
    count: str,
    index: str,
    directory: str,
    pause: str = "0",
    heartbeat: str = "30",
    fails_at: str = "",
    students: str = "",
) -> None:
    several.join(port, count, index, heartbeat)
    slowly(float(pause), int(fails_at) if fails_at and int(index) == int(count) - 1 else -1)
    plan, members = scheme(), None
    if students:
        hypers = [[hyper_of(stage) for stage in plan.stages] for _ in range(int(students))]
        members = Members(tuple(range(int(students))), stack(hypers))
        teacher = plan.roles["teacher"].model
        loaded = teacher.init(jax.random.key(99), np.zeros((1, toy.FEATURES), np.float32))  # one for all
        plan = starting_at(plan, "teacher", jax.tree.map(np.asarray, loaded))
    loop.fit(plan, SOURCES, SETTINGS, Path(directory), toy.mesh(jax.device_count()), "toy", members)


if __name__ == "__main__":
    main(*sys.argv[1:])
