"""Where the export lies that a user means by the path of a run, of a training, or of the export itself."""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from kd_jax.config.fields import teachers_of
from kd_jax.system.exports import MODEL, SHA256, check_place
from kd_jax.train.fit import DONE

WHICH = ("best", "last")


def find_export(path: Path, which: str = "") -> Path:
    """Returns the folder of an export: `path` itself, or the student's of a workdir, or that of a training's folder.

    Raises ValueError that says what lies there instead: an unfinished run, a sweep, several members, nothing.
    """
    if which and which not in WHICH:
        raise ValueError(f"which is {' or '.join(map(repr, WHICH))}, not {which!r}.")
    if (path / SHA256).is_file() or (path / "_METADATA").is_file():
        check_place(path)
        return path
    for training in (path / "student", path):
        if (training / "export").is_dir() and (training / DONE).is_file():
            return _of_steps(training / "export", which)
    for training in (path / "student", path):
        if (training / "checkpoints").is_dir() or (training / "metrics.jsonl").is_file():
            raise ValueError(f"The run in {path} is not finished: the command that began it goes on with it.")
    if (path / "config.json").is_file() and not (path / "sweep.json").is_file():
        raise ValueError(f"The run in {path} is not finished: the command that began it goes on with it.")
    if (path / "sweep.json").is_file():
        raise ValueError(_of_sweep(path))
    return _of_steps(path, which)


def name_exports(config: ConfigDict) -> None:
    """Puts the export in the place of the folder of a run or training, wherever the config names one as a checkpoint.

    Of teachers and the student, `checkpoint` and `initial.name`; raises ValueError as `find_export` does.
    """
    for fields in (config.student, *teachers_of(config).values()):
        if fields.get("checkpoint"):
            fields.checkpoint = _export_in(fields.checkpoint)
        if "/" in fields.initial.name:
            fields.initial.name = _export_in(fields.initial.name)


def _export_in(path: str) -> str:
    place = Path(path).expanduser()
    export = find_export(place) if place.is_dir() else place
    return path if export == place else str(export)


def _of_sweep(path: Path) -> str:
    runs = json.loads((path / "sweep.json").read_text())["runs"]
    some = ", ".join(str(run["export"]) for run in runs[:3] if "export" in run)
    return f"{path} holds the {len(runs)} students of a sweep. Load one of them: {some}, ..."


def _of_steps(folder: Path, which: str) -> Path:
    """An export below a folder with last/ and maybe best/, or with the exports of one step by role."""
    steps = [name for name in WHICH if (folder / name).is_dir()]
    if which and which not in steps and steps:
        raise ValueError(f"{folder} has no {which!r} step: nothing was held out for validation. There is: {steps[0]}.")
    if steps:
        return _of_roles(folder / (which or steps[0]))
    if members := [p for p in folder.glob("*") if p.name.isdigit() and any(p.rglob(SHA256))]:
        first = min(members, key=lambda p: int(p.name))
        raise ValueError(f"{folder} holds the exports of {len(members)} members. Load one of them, such as {first}.")
    return _of_roles(folder)


def _of_roles(folder: Path) -> Path:
    """The main export among those of one step."""
    roles = sorted(p.parent for p in folder.glob(f"*/{SHA256}")) if folder.is_dir() else []
    if not roles:
        check_place(folder)
    mains = [p for p in roles if (p / MODEL).is_file() and json.loads((p / MODEL).read_text()).get("main")]
    if len(roles) > 1 and len(mains) != 1:
        raise ValueError(f"{folder} holds {len(roles)} networks. Load one of them: {', '.join(map(str, roles))}.")
    return (mains or roles)[0]
