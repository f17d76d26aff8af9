"""The folder of an exported network as files: their checksums, and where exports lie near a path that is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_jax.files import differing, digest, digests, write_json

SHA256 = "SHA256"  # as sha256sum writes and checks it
CARD = "README.md"  # what may be written into an export later, and is none of its files: kd_jax/card.py
MODEL = "model.json"  # what the network is: kd_jax/train/about.py


def seal(folder: Path, info: Mapping[str, Any] | None = None) -> None:
    """Writes `info` with the checksums of all files of an export into its model.json, then all checksums into SHA256.

    `sha256sum -c SHA256` checks them as well.
    """
    files = digests(folder, SHA256)
    if info is not None:
        write_json(folder / MODEL, {**info, "sha256": files})
        files[MODEL] = digest(folder / MODEL)
    lines = "".join(f"{value}  {name}\n" for name, value in files.items())
    scratch = folder / f"{SHA256}.tmp"
    scratch.write_text(lines)
    scratch.replace(folder / SHA256)


def check_export(folder: Path) -> None:
    """Raises ValueError unless `folder` is an export whose files are those that its SHA256 lists.

    A path that is no export is answered with those that lie near it.
    """
    folder = Path(folder)
    check_place(folder)
    lines = (line.partition("  ") for line in (folder / SHA256).read_text(errors="replace").splitlines())
    expected = {name.removeprefix("./"): value for value, _, name in lines}
    problem = differing(expected, digests(folder, SHA256)) if expected else f"{SHA256} is empty"
    if problem:
        raise ValueError(f"The exported model {folder} is damaged: {problem}. Copy or export it again.")


def read_info(folder: Path) -> dict[str, Any]:
    """Returns the model.json of an export, once its files are those that were written; ValueError where it has none."""
    check_export(folder)
    if not (folder / MODEL).is_file():
        raise ValueError(
            f"The exported model {folder} has no {MODEL}, which says what network it is: it was written by an older "
            "version. Train it again, or read its arrays with kd_jax.system.checkpoint.load_tree."
        )
    return json.loads((folder / MODEL).read_text())


def check_place(folder: Path) -> None:
    """Raises ValueError, with the exports that lie near, where `folder` is none; reads none of its arrays."""
    if (folder / SHA256).is_file():
        return
    if (folder / "_METADATA").is_file():
        raise ValueError(
            f"The exported model {folder} has no {SHA256}: it was not written to its end, or before there were "
            f"checksums. If you trust it: (cd {folder} && find . -type f ! -name {SHA256} -exec sha256sum {{}} + > "
            f"{SHA256})"
        )
    near = ", ".join(map(str, _exports_near(folder)))
    hint = f"Near it lie: {near}." if near else "A finished run has them under <workdir>/<name>/export/."
    raise ValueError(f"There is no exported model at {folder}. {hint}")


def _exports_near(folder: Path, limit: int = 6) -> list[Path]:
    """The exports below a folder; above it, or beside where it would be, where there are none below."""
    below = ["/".join(["*"] * depth) for depth in range(1, 5)]
    beside = below[:3]
    for place, patterns in ((folder, below), *((parent, ["", *beside]) for parent in [*folder.parents][:2])):
        inside = (place.glob(f"{pattern}/{SHA256}".lstrip("/")) for pattern in patterns)
        if place.is_dir() and (folders := [*itertools.islice(itertools.chain(*inside), limit)]):
            return sorted(path.parent for path in folders)
    return []
