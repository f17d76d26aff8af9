"""python launch.py --config=configs/cifar_resnet.py:digits [--workdir=DIR] [--config.train.batch_size=128 ...]

--sweep="seed=0,1,2;terms.kd.weight=0.5,0.9" trains every combination; with ranges, and --trials=20, it searches.
"""

import logging
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
SWEEP = flags.DEFINE_string(
    "sweep", "", "'field=value,value;field=log:1e-3..1e-1', or a Python file with a dict SWEEP: kd_jax/sweep/spec.py."
)
TRIALS = flags.DEFINE_integer("trials", 0, "Search the sweep with Optuna in so many trials, in place of all of it.")
PRUNER = flags.DEFINE_string("pruner", "none", "What cuts trials short: none, asha or median (kd_jax/sweep/search.py).")
BUILD_CACHE = flags.DEFINE_bool(
    "build_cache", False, "End when the teachers' answers are in config.teacher.cache.directory; train no student."
)
ERRORS = (ValueError, OSError, FloatingPointError)  # what a user can put right without reading code


def fail(error: Exception) -> None:
    if os.environ.get("KD_JAX_TRACEBACK"):
        raise error
    sys.exit(f"\n{type(error).__name__}: {error}\n(KD_JAX_TRACEBACK=1 shows where.)")


def parse(argv: list[str]) -> list[str]:
    """absl's parsing, after a check that says of an unknown config, variant or field what was probably meant."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it lists accelerators that are not there
    if not any("-help" in argument for argument in argv):
        from kd_jax.config.fields import check_command  # here, since JAX reads its environment when it is imported

        try:
            check_command(argv[1:])
        except ERRORS as e:
            fail(e)
    return app.parse_flags_with_usage(argv)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: options look like --config.seed=1.")
    from kd_jax.sweep import run as sweep
    from kd_jax.sweep import search, spec
    from kd_jax.system import workdir
    from kd_jax.train import run as train

    file, _, variant = flags.FLAGS["config"].config_filename.partition(":")
    name = "-".join([Path(file).stem, *variant.replace("+", "-").split(",")]).strip("-")
    about = [CONFIG.value, SWEEP.value] if SWEEP.value else CONFIG.value
    directory = WORKDIR.value or f"runs/{name}-{'sweep-' * bool(SWEEP.value)}{workdir.fingerprint(about)}"
    try:
        if TRIALS.value and SWEEP.value:
            search.run(CONFIG.value, spec.parse(SWEEP.value), directory, TRIALS.value, PRUNER.value)
        elif SWEEP.value:
            sweep.run(CONFIG.value, spec.parse(SWEEP.value), directory)
        elif TRIALS.value or PRUNER.value != "none":
            raise ValueError("--trials and --pruner belong to a --sweep.")
        else:
            train.run(CONFIG.value, directory, until="cache" if BUILD_CACHE.value else "")
    except ERRORS as e:
        fail(e)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
