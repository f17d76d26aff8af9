"""The folder of a run: its config with versions and git hash, the check that a resume has the same, and its lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from kd_jax.files import path_of, write_json
from kd_jax.system import parallel

LOCK, CONFIG = "lock", "config.json"
Digests = Mapping[str, Mapping[str, str]]  # {kind of thing: {what it is: digest}}
# The kinds, and the line that tells which ones differ; without {} what differs is a line itself.
THINGS = {
    "variables": "{}: other values",
    "data": "data: the arrays differ ({})",
    "networks": "the network that was given as {} is another",
    "shapes": "the parameters have other names, shapes or types ({})",
    "files": "the files differ to which these point: {}",
    "code": "",
    "types": "",
    "packages": "another version of {}",
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml-collections")


def plain(value: Any) -> Any:
    """Returns a config as JSON holds it: tuples become lists, objects (a user's module) their repr."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # or no two processes would agree on a function


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, {"a.b": value}."""
    if isinstance(value, dict):
        return {
            k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}


def fingerprint(config: Any) -> str:
    """Returns eight hex digits that identify the resolved config."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:8]


def versions() -> dict[str, str]:
    """Returns {package: version} of what a result depends on."""
    return {p: metadata.version(p) for p in PACKAGES}


def git_hash() -> str:
    """Returns the commit of the checkout that the package is in, with "+" if it has changes; "" outside one."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def check_configs(runs: Mapping[Path, Any], digests: Mapping[Path, Digests] | None = None) -> None:
    """Raises ValueError that names what differs between `runs` and those in their folders; in every process.

    `runs` are the configs by folder, `digests` those of what the runs were given beside (kd_jax/train/identify.py).
    """

    def check() -> None:
        fields, things, folders = [], [], []
        for directory, config in runs.items():
            if (old := _claimed(directory)) is not None:
                changed = _changed_fields(old["config"], config)
                other = changed_things(old.get("digests"), (digests or {}).get(directory, {}))
                fields, things = fields + changed, things + other
                folders += [str(directory)] if changed or other else []
        if folders:
            raise ValueError(_refusal(", ".join(folders), fields, things))

    parallel.on_lead(check)


def _claimed(directory: Path) -> dict[str, Any] | None:
    """What config.json says of the run in a folder, None where there is none."""
    path = directory / CONFIG
    if not path.exists():
        return None
    try:
        old = json.loads(path.read_text())
        return {**old, "config": old["config"]}
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is not the config of a run: {e}. Choose another --workdir.") from e


def _changed_fields(old: Any, new: Any) -> list[str]:
    one, other, missing = flatten(old), flatten(plain(new)), "(not there)"
    changed = [k for k in sorted({*one, *other}) if one.get(k, missing) != other.get(k, missing)]
    return [f"  {k}: {one.get(k, missing)!r} -> {other.get(k, missing)!r}" for k in changed]


def _refusal(folders: str, fields: Sequence[str], things: Sequence[str]) -> str:
    differences = "; ".join(dict.fromkeys(things))
    if not fields:
        back = "Take it back to resume or read that run, or choose another --workdir."
        return f"{folders} holds a run that was given something else: {differences}. {back}"
    first = f"Another config was run in {folders}; this one cannot resume it. These fields differ:"
    more = [f"And it was given something else: {differences}."] if differences else []
    last = "Take them back to resume, or choose another --workdir."
    return "\n".join([first, *dict.fromkeys(fields), *more, last])


def changed_things(old: Digests | None, new: Digests) -> list[str]:
    """Returns in words what differs between the digests of two runs; `old` is None in a folder of an older version."""
    if old is None:
        return [f"data, variables and code: {CONFIG} is of an older version, which did not note them"] if new else []
    lines = []
    for kind, words in THINGS.items():
        one, other = old.get(kind, {}), new.get(kind, {})
        changed = [k for k in sorted({*one, *other}) if one.get(k) != other.get(k)]
        if kind == "files":  # what lies elsewhere now cannot be compared; whoever needs it says that it is gone
            changed = [k for k in changed if k in one and k in other]
        if changed:
            lines += [words.format(", ".join(changed))] if "{}" in words else changed
    return lines


def claim(directory: Path, config: Any, digests: Digests | None = None) -> None:
    """Writes config.json into a new run's folder. Raises OSError, in every process, if it cannot be written."""

    def write() -> None:
        path = directory / CONFIG
        if not path.exists():
            directory.mkdir(parents=True, exist_ok=True)
            origin = {"versions": versions(), "git": git_hash(), "devices": jax.device_count()}
            write_json(path, {"config": plain(config), "digests": digests or {}, **origin})
            for unseen in (digests or {}).get("types", ()):
                print(f"{directory.name}: of {unseen} only the type is compared when the folder is used again")

    parallel.on_lead(write)


def now() -> str:
    """Returns the minute, as the files of a run and the lines on the screen say it."""
    return time.strftime("%Y-%m-%d %H:%M")


@contextlib.contextmanager
def locked(directory: Path) -> Generator[None]:
    """Holds `<directory>/lock` while a run works there, so that a second run is refused at once.

    The lead process holds the lock by flock, which the kernel releases however that process ends: no stale lock is left
    (the file stays, and says who came last). On a network file system without locks (NFS mounted with nolock, some
    bucket mounts) it guards one host only. Raises ValueError where another run holds it, OSError where the folder
    cannot be written.
    """
    with contextlib.ExitStack() as held:
        parallel.on_lead(lambda: held.enter_context(_flock(directory)))
        yield


@contextlib.contextmanager
def _flock(directory: Path) -> Generator[None]:
    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as e:
        raise OSError(f"A run cannot write into {directory} ({e.strerror}): choose another --workdir.") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"Another run works in {directory} ({file.read().strip() or 'it does not say which'}). "
                "Wait for it or end it, or choose another --workdir."
            ) from None
        except OSError as e:
            if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            print(f"The file system of {directory} has no locks: nothing keeps a second run out of it.")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            if directory.exists() and os.listdir(directory) == [LOCK]:  # a run that never began leaves nothing
                path.unlink()
                directory.rmdir()


def cache_programs(folder: str) -> None:
    """Sets the folder in which compiled programs are stored for later runs; "" leaves JAX's settings as they are."""
    if not folder:
        return
    jax.config.update("jax_compilation_cache_dir", str(path_of(folder, "compilation_cache").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    compilation_cache.reset_cache()  # it holds on to the folder of the first program
