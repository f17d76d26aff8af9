"""Checkpoints: saved asynchronously, the last n and the best, verified by checksums; damaged ones are set aside.

A checkpoint holds the arrays of a TrainState (without `frozen`) and a JSON record. No other file imports orbax.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from kd_jax.files import digest, write_json
from kd_jax.system import parallel
from kd_jax.types import PyTree, TrainState

logging.getLogger("absl").setLevel(logging.WARNING)
MANIFEST = "checksums.json"
ARRAYS, RECORD = "state", "record"


def _checksums(directory: Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(directory)): digest(p) for p in files}


def _saved(state: TrainState) -> dict[str, PyTree]:
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "frozen"}
    return {k: v for k, v in fields.items() if jax.tree.leaves(v)}  # Orbax refuses empty trees


@dataclasses.dataclass
class _Keep(preservation_policy.PreservationPolicy):
    """Preserves the last n checkpoints, and the best steps of the run or of each run that shares it."""

    last: int
    best: Collection[int] = ()

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        newest = {c.step for c in checkpoints[-self.last :]}
        return [c.step in newest or c.step in self.best for c in checkpoints]


class Checkpoints:
    """The checkpoints of one run in `directory`; `report(message)` tells of damaged ones."""

    def __init__(self, directory: Path, keep: int, report: Callable[[str], None] = print):
        self.directory, self.report = Path(directory).absolute(), report
        self._keep = _Keep(max(keep, 1))
        self._open()
        self._sealer: threading.Thread | None = None

    def _open(self) -> None:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=(ARRAYS, RECORD))

    def save(self, state: TrainState, record: dict[str, Any], best: Collection[int]) -> None:
        """Starts to save under `int(state.step)` and returns at once; `wait` or the next save finishes it.

        The checkpoints of the steps `best` stay beside the last `keep` ones. A step that is saved is not saved again.
        """
        step = int(jax.device_get(state.step))
        if step in self._manager.all_steps():
            return
        self.wait()
        self._keep.best = best
        args = ocp.args.Composite(**{ARRAYS: ocp.args.StandardSave(_saved(state)), RECORD: ocp.args.JsonSave(record)})
        self._manager.save(step, args=args, force=True)
        self._sealer = threading.Thread(target=self._seal, args=(step,), daemon=False)
        self._sealer.start()

    def _seal(self, step: int) -> None:
        """Waits until the checkpoint is whole and writes the checksums of its files, against bits that flip later."""
        self._manager.wait_until_finished()
        directory = self.directory / str(step)
        if parallel.is_lead() and directory.exists():
            write_json(directory / MANIFEST, _checksums(directory))

    def wait(self) -> None:
        """Blocks until every save that was started is on disk; raises the error of one that failed."""
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def damage(self, step: int) -> str:
        """Returns what is wrong with the files of this checkpoint, "" where no damage shows."""
        directory = self.directory / str(step)
        manifest = directory / MANIFEST
        if not manifest.exists():
            return ""  # killed between the last file and the seal: Orbax's own rename says that it is whole
        try:
            expected = json.loads(manifest.read_text())
        except ValueError:
            return f"{MANIFEST} is not readable"
        checksums = _checksums(directory)
        changed = [f for f in expected if checksums.get(f) != expected[f]]
        return f"{len(changed)} of {len(expected)} files are missing or changed ({changed[0]})" if changed else ""

    def record(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(**{RECORD: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[RECORD]

    def restore(self, step: int, template: TrainState) -> TrainState:
        """Returns the state of `step` with shapes, shardings and `frozen` of `template`."""
        saved = _saved(template)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        args = ocp.args.Composite(**{ARRAYS: ocp.args.StandardRestore(abstract)})
        return template.replace(**self._manager.restore(step, args=args)[ARRAYS])

    def restore_newest(self, template: Callable[[int], TrainState]) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns (state, record) of the newest checkpoint that is whole; None where there is no checkpoint.

        `template(step)` is a state of that step's shapes and shardings. A damaged checkpoint is reported and moved to
        `damaged/`, and the one before it is tried. Raises RuntimeError when all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            # All processes take the same one: what is broken for one of them is set aside by all.
            problem, restored = parallel.first_said(self.damage(step) if parallel.is_lead() else ""), None
            if not problem:
                try:
                    restored = self.restore(step, template(step)), self.record(step)
                except Exception as e:  # Orbax and TensorStore raise many kinds for unreadable files
                    problem = str(e).splitlines()[0] if str(e) else type(e).__name__
                problem = parallel.first_said(problem)
            if restored is not None and not problem:
                return restored
            if parallel.is_lead():
                self.report(f"Checkpoint {step} in {self.directory} is damaged: {problem}. Using the one before it.")
            self._set_aside(step)
        if steps:
            raise RuntimeError(
                f"All checkpoints in {self.directory} ({steps}) are damaged; they were moved to "
                f"{self.directory.parent}/damaged. Run again to start from the beginning."
            )
        return None

    def _set_aside(self, step: int) -> None:
        if parallel.is_lead():
            target = self.directory.parent / "damaged" / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            shutil.move(self.directory / str(step), target)
        parallel.first_said("")  # the others look into the directory again when it is gone
        self._manager.close()
        self._open()

    def close(self) -> None:
        self.wait()
        self._manager.close()


def save_tree(directory: Path, tree: PyTree) -> None:
    """Writes a tree of arrays (an exported model) in place of an old one, and waits until it is on disk."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(directory).absolute(), tree, force=True)


def load_tree(directory: Path, template: PyTree) -> PyTree:
    """Reads a tree of arrays shaped and typed like `template`.

    A leaf whose template has a sharding is read shard by shard, each process its own: no host or device ever holds
    more. A leaf without one becomes a NumPy array.
    Raises ValueError that names the leaves that are missing, extra or of another shape.
    """
    directory = Path(directory).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = checkpointer.metadata(directory).item_metadata.tree
        except Exception as e:
            raise ValueError(f"{directory} is not a readable kd_jax model export: {type(e).__name__}: {e}") from e
        have, want = _leaves(stored), _leaves(template)
        wrong = [f"{p} is not in the file" for p in want if p not in have]
        wrong += [f"{p} is in the file only" for p in have if p not in want]
        wrong += [
            f"{p} has shape {have[p]} in the file, {want[p]} in the model"
            for p in want
            if p in have and have[p] != want[p]
        ]
        if wrong:
            raise ValueError(
                f"{directory} does not hold this model ({len(wrong)} differences): {'; '.join(wrong[:5])}."
            )

        def target(x: Any) -> Any:  # never the file's sharding: what one topology wrote is read on any other
            placed = isinstance(getattr(getattr(x, "sharding", None), "mesh", None), jax.sharding.Mesh)
            return x if placed else np.empty(x.shape, x.dtype)

        return checkpointer.restore(directory, jax.tree.map(target, template))


def _leaves(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}


def check_export(folder: Path) -> None:
    """Raises ValueError where there is no exported model in a folder."""
    if not folder.is_dir():
        raise ValueError(f"There is no exported model at {folder}.")
