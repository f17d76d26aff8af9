"""One of several processes that train together on localhost.

Arguments: port, processes, index, directory, seconds a step, heartbeat timeout, step at which the last one raises.
"""

import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import several  # noqa: E402
import toy  # noqa: E402
from killable import SETTINGS, SOURCES, scheme, slowly  # noqa: E402

from kd_jax import loop  # noqa: E402


def main(
    port: str, count: str, index: str, directory: str, pause: str = "0", heartbeat: str = "30", fails_at: str = ""
) -> None:
    several.join(port, count, index, heartbeat)
    slowly(float(pause), int(fails_at) if fails_at and int(index) == int(count) - 1 else -1)
    loop.fit(scheme(), SOURCES, SETTINGS, Path(directory), toy.mesh(jax.device_count()), "toy")


if __name__ == "__main__":
    main(*sys.argv[1:])
