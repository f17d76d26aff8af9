"""python launch.py --config=configs/cifar_resnet.py:digits [--workdir=DIR] [--config.train.batch_size=128 ...]"""

import os
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/<file>.py[:variant,...]; any field as --config.<field>="
)
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where the run lives; the same command resumes it. Default: runs/<config>-<hash>."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: options look like --config.seed=1.")
    # Here, since JAX reads its environment when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from kd_jax import train, workdir

    file, _, variant = next(a.partition("=")[2] for a in sys.argv if a.startswith("--config=")).partition(":")
    name = "-".join([Path(file).stem, *variant.replace("+", "-").split(",")]).strip("-")
    directory = WORKDIR.value or f"runs/{name}-{workdir.fingerprint(CONFIG.value)}"
    try:
        train.run(CONFIG.value, directory)
    except (ValueError, FileNotFoundError, FloatingPointError) as e:
        if os.environ.get("KD_JAX_TRACEBACK"):
            raise
        sys.exit(f"\n{type(e).__name__}: {e}\n(KD_JAX_TRACEBACK=1 shows where.)")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
