"""Files that a crash never leaves half written, and checksums of those that lie there."""

from __future__ import annotations

import hashlib
import json
import os
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


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
