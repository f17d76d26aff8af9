"""The networks that finished trainings leave: where they lie, whether they are whole, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from kd_jax.core.bind import evaluated_roles
from kd_jax.core.evaluate import extra_inputs, params_inputs
from kd_jax.core.network import Network
from kd_jax.core.paths import lookup
from kd_jax.system import precision
from kd_jax.system.checkpoint import load_tree
from kd_jax.system.exports import check_export, check_place
from kd_jax.train.finish import exported
from kd_jax.train.fit import DONE
from kd_jax.train.jobs import Job
from kd_jax.types import PyTree, Role


def export_of(job: Job, which: str) -> Path:
    """Returns the folder in which a finished job leaves the network of its "last" or "best" step."""
    return job.directory / "export" / which / evaluated_roles(job.scheme)[0]


def check_exports(job: Job, results: Mapping[str, Any]) -> None:
    """Raises ValueError where a network that a finished job has exported is not there any more, or not as it was."""
    roles = [role for role in evaluated_roles(job.scheme) if job.scheme.roles[role].group is not None]
    runs = {f"{i}/": one for i, one in enumerate(results["members"])} if "members" in results else {"": results}
    for prefix, one in runs.items():
        for which in (w for w in ("last", "best") if w in one):
            for role in roles:
                try:
                    check_export(job.directory / "export" / prefix / which / role)
                except ValueError as e:
                    raise ValueError(
                        f"{e} The {job.name} was finished {results['finished']}: take the folder back, or delete "
                        f"{job.directory / DONE}, and the same command makes it again from the checkpoints."
                    ) from e


def load_network(
    export: Path,
    role: Role,
    path: str,
    extra: Mapping[str, Any],
    batch: Mapping[str, Any],
    shardings: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] | None = None,
    frozen: Mapping[str, PyTree] | None = None,
) -> Network:
    """Reads an exported network; raises ValueError when it is missing, damaged or of another model.

    `path` is that of its logits, `batch` has the shapes of a prepared one. `shardings(params, stats)` are where its
    parameters and statistics are read to; without it they become NumPy arrays. `frozen` {role: parameters} are those
    that it reads as an input: adapters are exported without their base.
    """
    check_place(export)
    shapes = [lookup({"batch": batch, "extra": extra, "params": frozen or {}}, p) for p in role.inputs]
    params, stats = jax.eval_shape(role.model.init, jax.random.key(0), *shapes)
    fixed = extra_inputs(role, extra)
    if shardings is not None:
        # Read as what it will be, since a cast afterwards would hold it twice; int8 is made of the floats.
        dtype = role.dtype if role.dtype != precision.INT8 else None
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), params)
        places = shardings(params, stats)
        placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), (params, stats), places)
        params, stats = placed
    tree = load_tree(export, exported(params, stats, jax.eval_shape(lambda: fixed)))
    fixed = {**tree.get("given", fixed), **params_inputs(role, frozen or {})}
    return Network(role.model, tree["params"], tree.get("stats", stats), role, fixed, path)
