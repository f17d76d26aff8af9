"""One of several processes that train together on localhost.

Arguments: port, processes, index, directory, seconds a step, heartbeat timeout, "" or the step at which it raises.
"""

import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import toy  # noqa: E402
from killable import SETTINGS, SOURCES, scheme, slowly  # noqa: E402

from kd_jax import loop, parallel  # noqa: E402


def main(
    port: str, count: str, index: str, directory: str, pause: str = "0", heartbeat: str = "30", fails_at: str = ""
) -> None:
    if int(count) > 1:
        parallel.start_processes(
            dict(
                enabled=True,
                coordinator_address=f"127.0.0.1:{port}",
                num_processes=int(count),
                process_id=int(index),
                heartbeat_timeout_seconds=int(heartbeat),
            )
        )
    slowly(float(pause), int(fails_at or -1))
    loop.fit(scheme(), SOURCES, SETTINGS, Path(directory), toy.mesh(jax.device_count()), "toy")


if __name__ == "__main__":
    main(*sys.argv[1:])
