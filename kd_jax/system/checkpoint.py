"""Checkpoints: saved asynchronously, the last n and the best, verified by checksums; damaged ones are set aside.

A checkpoint holds the arrays of a TrainState (without `frozen`) and a JSON record; an export those of one network.
Neither is used without its checksums. No other file imports orbax.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from kd_jax.files import differing, digests, write_json
from kd_jax.system import parallel
from kd_jax.system.exports import check_export, seal
from kd_jax.types import PyTree, TrainState

_absl = logging.getLogger("absl")
_absl.setLevel(logging.WARNING)
# Orbax logs the errors of its threads with their tracebacks, four times each; they are raised as well.
_absl.addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
MANIFEST = "checksums.json"
ARRAYS, RECORD = "state", "record"
BASE = "base"  # of an export: the folder of the arrays that its network reads beside its own
UNSEALED = f"it has no {MANIFEST}, since its save was cut off"


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
        self._failure: Exception | None = None  # of the sealer

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
        directory = self.directory / str(step)
        try:
            self._manager.wait_until_finished()
            if parallel.is_lead() and directory.exists():
                write_json(directory / MANIFEST, digests(directory, MANIFEST))
        except Exception as e:  # raised where it is waited for
            self._failure = e

    def wait(self) -> None:
        """Blocks until every save that was started is on disk; raises the error of one that failed."""
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def damage(self, step: int) -> str:
        """Returns what is wrong with the files of this checkpoint, "" where they are those that were sealed."""
        directory = self.directory / str(step)
        manifest = directory / MANIFEST
        if not manifest.exists():
            return UNSEALED
        try:
            return differing(json.loads(manifest.read_text()), digests(directory, MANIFEST))
        except ValueError:
            return f"{MANIFEST} is not readable"

    def record(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(**{RECORD: ocp.args.JsonRestore()})
        return self._manager.restore(step, args=args)[RECORD]

    def restore(self, step: int, template: TrainState) -> TrainState:
        """Returns the state of `step` with shapes, shardings and `frozen` of `template`; the files are not verified.

        Raises ValueError where it holds another structure.
        """
        saved = _saved(template)
        if differ := _differences(_stored(self.directory / str(step) / ARRAYS), saved):
            raise ValueError(differ)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        args = ocp.args.Composite(**{ARRAYS: ocp.args.StandardRestore(abstract)})
        return template.replace(**self._manager.restore(step, args=args)[ARRAYS])

    def restore_whole(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns (state, record) of a step. All processes must call it.

        Raises ValueError where it is damaged, or of another structure than the template: of another version or
        another scheme.
        """
        if problem := self._damage_for_all(step):
            raise ValueError(
                f"Checkpoint {step} in {self.directory} is damaged: {problem}. To train again, delete "
                f"{self.directory.parent}."
            )
        problem, restored = "", None
        try:
            restored = self.restore(step, template), self.record(step)
        except Exception as e:  # Orbax and TensorStore raise many kinds
            problem = str(e).splitlines()[0] if str(e) else type(e).__name__
        if problem := parallel.first_said(problem):
            raise ValueError(
                f"Checkpoint {step} in {self.directory} is incompatible with this run: its files are whole, and "
                f"{problem.rstrip('.')}. Nothing was changed. Resume with the versions that config.json beside it "
                "names, or choose another --workdir."
            )
        assert restored is not None
        return restored

    def _damage_for_all(self, step: int) -> str:
        """The damage that the lead process sees: what is broken for one is not used by any."""
        return parallel.first_said(self.damage(step) if parallel.is_lead() else "")

    def restore_newest(self, template: Callable[[int], TrainState]) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns (state, record) of the newest checkpoint that is whole; None where there is no checkpoint.

        `template(step)` is a state of that step's shapes and shardings. Damaged checkpoints, and one whose save was
        cut off before its checksums were written, are reported and moved to `damaged/` where an earlier one is whole.
        Raises ValueError, and moves nothing, where all are damaged or the newest whole one is of another structure: a
        supervisor that starts the command again must not begin at step 0.
        """
        problems: dict[int, str] = {}
        for step in reversed(self.steps()):
            if problem := self._damage_for_all(step):
                problems[step] = problem
                continue
            restored = self.restore_whole(step, template(step))
            self._set_aside(problems, f"Using {step}.")
            return restored
        if [*problems.values()] == [UNSEALED]:  # killed while the first one was saved: nothing came before
            self._set_aside(problems, "There is none before it: the run begins anew.")
        elif problems:
            told = "; ".join(f"{step}: {problem}" for step, problem in problems.items())
            raise ValueError(
                f"All checkpoints in {self.directory} are damaged ({told}). To begin at the start, delete that folder."
            )
        return None

    def _set_aside(self, problems: dict[int, str], instead: str) -> None:
        """Moves checkpoints out of the way of new ones of their steps."""
        if not problems:
            return
        for step, problem in problems.items():
            if parallel.is_lead():
                self.report(f"Checkpoint {step} in {self.directory} is damaged: {problem}. {instead}")
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


def save_tree(
    directory: Path,
    tree: PyTree,
    info: Mapping[str, Any] | None = None,
    base: PyTree | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes a tree of arrays (an exported model) and its checksums in place of an old one. All processes call it.

    `info` is what its model.json says, `base` a tree that a network reads beside its own (that of adapters), which
    `load_tree` leaves alone, and `texts` {name: content} are further files.
    """
    directory = Path(directory).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, tree, force=True)
        if base:
            checkpointer.wait_until_finished()
            checkpointer.save(directory / BASE, base, force=True)

    def finish() -> None:
        for name, content in (texts or {}).items():
            (directory / name).write_text(content, encoding="utf-8")
        seal(directory, info)

    parallel.on_lead(finish)


def load_tree(directory: Path, template: PyTree) -> PyTree:
    """Reads a tree of arrays shaped and typed like `template`, once its files are those that were exported.

    A leaf whose template has a sharding is read shard by shard, each process its own: no host or device ever holds
    more. A leaf without one becomes a NumPy array.
    Raises ValueError that names what is damaged, or the leaves that are missing, extra or of another shape.
    """
    check_export(directory)
    directory = Path(directory).absolute()
    if differ := _differences(_stored(directory), template):
        raise ValueError(f"{directory} does not hold this model: {differ}.")

    def target(x: Any) -> Any:  # never the file's sharding: what one topology wrote is read on any other
        placed = isinstance(getattr(getattr(x, "sharding", None), "mesh", None), jax.sharding.Mesh)
        return x if placed else np.empty(x.shape, x.dtype)

    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory, jax.tree.map(target, template))


def read_tree(directory: Path) -> PyTree:
    """Reads a tree of arrays as it was written, as NumPy arrays; the files are not verified."""
    directory = Path(directory).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), _stored(directory)))


def stored_shapes(directory: Path) -> PyTree:
    """Returns the shapes and types of the arrays of an export."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _stored(Path(directory).absolute()))


def _stored(directory: Path) -> PyTree:
    """The shapes of the arrays that lie in a folder. Raises ValueError where it is none of arrays."""
    try:
        return ocp.StandardCheckpointHandler().metadata(directory).tree
    except Exception as e:
        raise ValueError(f"{directory} does not hold arrays that kd_jax reads ({type(e).__name__}: {e})") from e


def _differences(stored: PyTree, template: PyTree) -> str:
    """What is missing, extra or of another shape in the file, "" for nothing."""
    have, want = _leaves(stored), _leaves(template)
    wrong = [f"{p} is not in the file" for p in want if p not in have]
    wrong += [f"{p} is in the file only" for p in have if p not in want]
    wrong += [
        f"{p} has shape {have[p]} in the file, {want[p]} in the model" for p in want if p in have and have[p] != want[p]
    ]
    return f"{len(wrong)} differences: {'; '.join(wrong[:5])}" if wrong else ""


def _leaves(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves}
