"""Files that a crash never leaves half written, checksums of those that lie there, and paths as a user writes them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Writes beside and renames, so that a reader sees the old file or the new one, never half of one."""
    scratch = path.with_name(path.name + ".tmp")
    with open(scratch, "w") as f:
        json.dump(value, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(scratch, path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns what a run wrote in a file; None where it is missing or cannot be read, and is to be made again."""
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError:
        print(f"{path} cannot be read: it is made again from the checkpoints.")
        return None


def read_utf8(path: Path) -> str:
    """Returns the text of a user's file; raises ValueError, with its name, where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"{path} is no text in UTF-8: byte {e.start} is {e.object[e.start]:#04x}.") from e


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digests(folder: Path, without: str) -> dict[str, str]:
    """Returns {path inside the folder: SHA-256} of all files but those of the name `without`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != without)
    with ThreadPoolExecutor() as threads:  # hashing and reading leave Python's lock alone
        return {p.relative_to(folder).as_posix(): d for p, d in zip(files, threads.map(digest, files), strict=True)}


def differing(expected: dict[str, str], actual: dict[str, str]) -> str:
    """Returns how many of the files that were expected are missing or have other bytes, "" for none."""
    wrong = [name for name in expected if actual.get(name) != expected[name]]
    return f"{len(wrong)} of {len(expected)} files are missing or changed ({wrong[0]})" if wrong else ""


def path_of(text: str | Path, field: str) -> Path:
    """Returns the path that a user wrote, with ~ expanded; `field` is what the message calls it.

    Raises ValueError for an address such as gs://bucket/run, which is no path of a file system.
    """
    if not isinstance(text, str | os.PathLike):
        raise ValueError(f"{field}={text!r} is no path.")
    if scheme := re.match(r"([a-zA-Z][\w+.-]+)://", str(text)):
        raise ValueError(
            f"{field}={str(text)!r}: {scheme[0]} is not supported. Mount it as a folder (Cloud Storage by gcsfuse), or "
            "copy from and to a folder of this machine."
        )
    return Path(text).expanduser()


class DiskFull(OSError):
    """No space is left where a run writes."""


@contextlib.contextmanager
def told_of_full_disk() -> Generator[None]:
    """Raises a DiskFull of one line where a full disk is at the root of an error, whatever libraries made of it."""
    full = os.strerror(errno.ENOSPC)
    try:
        yield
    except Exception as e:
        root: BaseException | None = e
        while root is not None and full not in str(root):
            root = root.__cause__ or root.__context__
        if root is None:
            raise
        raise DiskFull(
            f"{full}. Nothing saved is lost: make room, and the same command goes on from the last checkpoint."
        ) from e
