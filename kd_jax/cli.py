"""The command: launch.py and, from any folder, kd-jax.

launch.py --config=configs/cifar_resnet.py:digits [--workdir=DIR] [--config.train.batch_size=128 ...]
launch.py --list                                    the configs and their variants
launch.py --config=configs/cifar_resnet.py:help     what the variants mean, and the fields that this config changes

--sweep="seed=0,1,2;terms.kd.weight=0.5,0.9" trains every combination; with ranges, and --trials=20, it searches.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

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
flags.DEFINE_bool("list", False, "Show the configs and their variants.")
ERRORS = (ValueError, OSError, FloatingPointError)  # what a user can put right without reading code


def fail(error: Exception) -> NoReturn:
    """Ends the process with the message alone; with the traceback where KD_JAX_TRACEBACK is set."""
    if os.environ.get("KD_JAX_TRACEBACK"):
        raise error
    sys.exit(f"\n{type(error).__name__}: {error}\n(KD_JAX_TRACEBACK=1 shows where.)")


def main() -> None:
    """Reads the command line, executes the config file once, and trains."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it lists accelerators that are not there
    program, *arguments = sys.argv
    if any(a.startswith(("-help", "--help")) for a in arguments):
        flags.DEFINE_string("config", None, "configs/<file>.py[:variant,...]; any field as --config.<field>=")
        print(__doc__, flags.FLAGS.module_help(sys.modules[__name__]), sep="\n")
        sys.exit()
    try:
        name, config, arguments = asked(arguments)
    except ERRORS as e:
        fail(e)
    chosen = config_flags.DEFINE_config_dict("config", config, sys_argv=[program, *arguments])
    app.run(lambda rest: run(chosen.value, name, rest[1:]), argv=[program, *arguments])


def asked(arguments: list[str]) -> tuple[str, ConfigDict, list[str]]:
    """Returns (FILE:VARIANT, its config, the other arguments), or shows what --list or :help asks for and exits.

    Raises ValueError, with what was probably meant, for an unknown file, variant or field.
    """
    from kd_jax.config import files, shown  # here, since JAX reads its environment when it is imported

    if "--list" in arguments:
        print(shown.configs())
        sys.exit()
    name, arguments = files.asked_for(arguments)
    file, _, variant = name.partition(":")
    path = files.locate(file)
    words = variant.split(",")
    if "help" in words:
        print(shown.help_of(path, ",".join(w for w in words if w != "help")))
        sys.exit()
    config = files.config_of(files.load(path), variant)
    return name, config, files.with_new_fields(config, arguments)


def run(config: ConfigDict, name: str, rest: list[str]) -> None:
    """Trains, sweeps or searches as the flags say."""
    if rest:
        raise app.UsageError(f"Unknown arguments {rest}: options look like --config.seed=1.")
    from kd_jax.sweep import run as sweep
    from kd_jax.sweep import search, spec
    from kd_jax.system import workdir
    from kd_jax.train import run as train

    file, _, variant = name.partition(":")
    title = "-".join([Path(file).stem, *variant.replace("+", "-").split(",")]).strip("-")
    what = [config, SWEEP.value] if SWEEP.value else config
    directory = WORKDIR.value or f"runs/{title}-{'sweep-' * bool(SWEEP.value)}{workdir.fingerprint(what)}"
    try:
        if TRIALS.value and SWEEP.value:
            search.run(config, spec.parse(SWEEP.value), directory, TRIALS.value, PRUNER.value)
        elif SWEEP.value:
            sweep.run(config, spec.parse(SWEEP.value), directory)
        elif TRIALS.value or PRUNER.value != "none":
            raise ValueError("--trials and --pruner belong to a --sweep.")
        else:
            train.run(config, directory, until="cache" if BUILD_CACHE.value else "")
    except ERRORS as e:
        fail(e)
