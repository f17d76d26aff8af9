"""The command: launch.py and, from any folder, kd-jax.

launch.py --config=configs/cifar_resnet.py:digits [--workdir=DIR] [--config.train.batch_size=128 ...]
launch.py --list                                    the configs and their variants
launch.py --config=configs/cifar_resnet.py:help     what the variants mean, and the fields that this config changes

kd-jax predict RUN FILES... [--out=FILE.csv]        what the student says of pictures, rows or texts
kd-jax card RUN                                     a model card beside the student
kd-jax export RUN --to=onnx,litert                  the student in other formats

--sweep="seed=0,1,2;terms.kd.weight=0.5,0.9" trains every combination; with ranges, and --trials=20, it searches.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from kd_jax import requirements
from kd_jax.files import DiskFull, path_of
from kd_jax.resolve import place_of

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
CTRL_C, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE  # exit statuses, as shells have them
_begun, _heard = threading.Event(), threading.Event()  # the run; Ctrl-C in it, outside a training


def fail(error: Exception) -> NoReturn:
    """Ends the process with the message alone, and the line of the user's code where one raised it.

    An error of kd_jax itself is raised with its traceback, as all are where KD_JAX_TRACEBACK is set.
    """
    if _heard.is_set():  # Ctrl-C inside the import of an extension comes out as an ImportError
        raise KeyboardInterrupt from error
    place = place_of(error)
    explained = isinstance(error, ERRORS) or place
    if os.environ.get("KD_JAX_TRACEBACK") or not explained or (isinstance(error, BrokenPipeError) and unread()):
        raise error
    where = f" ({place})" if place and place not in str(error) else ""
    message = f"\n{type(error).__name__}: {error}{where}\n(KD_JAX_TRACEBACK=1 shows where.)"
    if isinstance(error, DiskFull):  # every thread that is left with something to write would print a page about it
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(message)


def unread() -> bool:
    """Tells whether nobody reads what the process prints any more, as behind `| head`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if not _begun.is_set():  # imports of extensions that are cut off print pages, or crash
        os.write(2, b"\nEnded by Ctrl-C before anything had begun.\n")
        os._exit(CTRL_C)
    _heard.set()
    signal.default_int_handler(signum, frame)


@contextlib.contextmanager
def second_ends() -> Generator[None]:
    """Ends the process at the second Ctrl-C even inside a compilation, for which Python's own handlers wait.

    Nothing saved is lost by that: a checkpoint counts once it is whole.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not what a shell put into the background
        signal.signal(signal.SIGINT, _interrupt)

    def listen() -> None:
        heard = 0
        while byte := os.read(reader, 1):
            heard += byte[0] == signal.SIGINT
            if heard == 2:
                os.write(2, b"\nEnded at once. The same command goes on from the last checkpoint.\n")
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(CTRL_C)

    threading.Thread(target=listen, name="ctrl-c", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # the thread reads the end of it, and ends


def main() -> None:
    """Reads the command line, executes the config file once, and trains; Ctrl-C ends it with 130."""
    try:
        with second_ends():
            try:
                command()
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt as e:
        print(f"\n{e}" if e.args else "\nEnded by Ctrl-C. The same command goes on where it was.", file=sys.stderr)
        sys.exit(CTRL_C)
    except BrokenPipeError:
        if not unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # at exit Python would fail on what is still buffered
        sys.exit(UNREAD)


def command() -> None:
    """Does what the command line asks for."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it lists accelerators that are not there
    program, *arguments = sys.argv
    if arguments[:1] in (["predict"], ["card"], ["export"]):
        further(*arguments)
        return
    if any(a.startswith(("-help", "--help")) for a in arguments):
        flags.DEFINE_string("config", None, "configs/<file>.py[:variant,...]; any field as --config.<field>=")
        print(__doc__, flags.FLAGS.module_help(sys.modules[__name__]), sep="\n")
        sys.exit()
    try:
        requirements.check()
    except ImportError as e:
        sys.exit(f"\n{e}")
    try:
        name, config, arguments = asked(arguments)
    except Exception as e:
        fail(e)
    chosen = config_flags.DEFINE_config_dict("config", config, sys_argv=[program, *arguments])
    app.run(lambda rest: run(chosen.value, name, rest[1:]), argv=[program, *arguments])


def further(name: str, *arguments: str) -> None:
    """Does what is asked of a finished run: kd-jax predict, kd-jax card, kd-jax export."""
    from kd_jax import card, predict  # here, since a run needs none of them
    from kd_jax.export import __main__ as export

    {"predict": predict, "card": card, "export": export}[name].main(arguments)


def asked(arguments: list[str]) -> tuple[str, ConfigDict, list[str]]:
    """Returns (FILE:VARIANT, its config, the other arguments), or shows what --list or :help asks for and exits.

    Raises ValueError, with what was probably meant, for an unknown file, variant or field.
    """
    from kd_jax.config import files, shown  # here, since JAX reads its environment when it is imported

    if "--list" in arguments:
        print(shown.configs())
        sys.exit()
    name, arguments = files.asked_for(arguments)
    file, _, variant = str(path_of(name, "--config")).partition(":")
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

    _begun.set()
    file, _, variant = name.partition(":")
    title = "-".join([Path(file).stem, *variant.replace("+", "-").split(",")]).strip("-")
    what = [config, SWEEP.value] if SWEEP.value else config
    default = f"runs/{title}-{'sweep-' * bool(SWEEP.value)}{workdir.fingerprint(what)}"
    try:
        directory = path_of(WORKDIR.value or default, "--workdir")
        if SWEEP.value and BUILD_CACHE.value:
            raise ValueError("--build_cache is of one run, and --sweep trains many: build the cache first, without it.")
        if TRIALS.value and SWEEP.value:
            search.run(config, spec.parse(SWEEP.value), directory, TRIALS.value, PRUNER.value)
        elif SWEEP.value:
            sweep.run(config, spec.parse(SWEEP.value), directory)
        elif TRIALS.value or PRUNER.value != "none":
            raise ValueError("--trials and --pruner belong to a --sweep.")
        else:
            train.run(config, directory, until="cache" if BUILD_CACHE.value else "")
    except BrokenPipeError as e:
        if unread():
            print("Nobody reads the output: ended. The same command goes on where it was.", file=sys.stderr)
        fail(e)
    except Exception as e:
        fail(e)
