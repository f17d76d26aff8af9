"""A tiny run of a variant of a config of schemes, as one of several processes on localhost.

Arguments: port, processes, index, directory, config, variant.
"""

import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import several  # noqa: E402

from kd_jax.train import run as train  # noqa: E402


def main(port: str, count: str, index: str, directory: str, name: str, variant: str) -> None:
    several.join(port, count, index)
    from scheme_checks import config_module  # computes, and processes must have joined before

    config = config_module(name).get_config(f"{variant},tiny")
    config.baseline, config.report = False, False
    config.mesh.axes.data = jax.device_count()
    train.run(config, Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
