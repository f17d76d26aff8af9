"""The mesh, rules from parameter paths to PartitionSpecs, and the start of several processes.

Every process runs the same jitted program over global arrays with NamedShardings, so a mean, a BatchNorm and a relation
loss see the global batch whatever the mesh.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_jax.models.mesh_axes import BATCH_AXES
from kd_jax.resolve import near, pattern_of
from kd_jax.system import heartbeat, precision
from kd_jax.types import PyTree, Scheme, TrainState

MESSAGE_BYTES = 2000  # of an error that one process tells the others
Rules = Sequence[tuple[str, Any] | str]

# The two halves of a transformer's layers: what makes heads and hidden units, and what sums over them again.
_COLUMNS = r"(^|/)(queries_dense|keys_dense|values_dense|query|key|value|qkv|mlp1|up|gate)/(kernel|bias)$"
_ROWS = r"(^|/)(attention/out|out|mlp2|down)/kernel$"
_EXPERTS = r"(^|/)experts/(up|gate|down)$"
_VOCABULARY = r"(^|/)(embed|words|head)/embedding$"
RULE_SETS: dict[str, tuple[tuple[str, str], ...]] = {
    "fsdp": ((".", "fsdp"),),
    "tensor": ((_COLUMNS, "model@-1"), (_ROWS, "model@-2"), (_EXPERTS, "model@-3"), (_VOCABULARY, "model@-2")),
    "fsdp+tensor": (
        (_COLUMNS, "model@-1+fsdp"),
        (_ROWS, "model@-2+fsdp"),
        (_EXPERTS, "model@-3+fsdp"),
        (_VOCABULARY, "model@-2+fsdp"),
        (".", "fsdp"),
    ),
}


def start_processes(config: Mapping[str, Any]) -> None:
    """Joins the processes of a run (jax.distributed.initialize); does nothing unless config["enabled"].

    On TPU pods, Slurm and Kubernetes JAX knows address, count and id; elsewhere the config gives all three.
    """
    if not config["enabled"] or jax.distributed.is_initialized():
        return
    fields = {k: config[k] for k in ("coordinator_address", "num_processes", "process_id")}
    fields = {k: value for k, value in fields.items() if value not in ("", -1)}
    timeout = config["heartbeat_timeout_seconds"]
    jax.distributed.initialize(**fields, heartbeat_timeout_seconds=timeout + heartbeat.GRACE)
    heartbeat.watch(timeout)


def make_mesh(axes: Mapping[str, int]) -> Mesh:
    """Makes a mesh with these axes in order; size -1 takes the devices that are left.

    Raises ValueError for an unknown axis, and for sizes that the devices do not allow.
    """
    sizes, count = dict(axes), jax.device_count()
    unknown = set(sizes) - {"data", "fsdp", "model"}
    if unknown:
        raise ValueError(f"mesh.axes has {sorted(unknown)}; the axes are 'data', 'fsdp' and 'model'.")
    fixed = math.prod(s for s in sizes.values() if s != -1)
    free = [a for a, s in sizes.items() if s == -1]
    if len(free) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
        raise ValueError(f"mesh.axes = {sizes}: sizes are positive, and at most one is -1 (what is left).")
    if free:
        sizes[free[0]] = max(count // fixed, 1)
    needed = math.prod(sizes.values())
    if needed > count:
        raise ValueError(
            f"mesh.axes = {dict(axes)} needs {needed} devices, there are {count}: {jax.devices()[0].platform}."
        )
    if jax.process_count() > 1 and needed != count:
        raise ValueError(
            f"mesh.axes = {dict(axes)} uses {needed} of {count} devices; with several processes use them all."
        )
    # Auto axes: under the newer Explicit default, Linen dropout, sharded convolutions and f @ f.T fail.
    devices = jax.devices()[:needed]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its rows over the axes data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(tuple(a for a in BATCH_AXES if a in mesh.shape)))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def create_everywhere(create: Callable[[], PyTree], mesh: Mesh) -> PyTree:
    """Runs create() on every device of every process; device_put cannot place keys across processes."""
    return jax.jit(create, out_shardings=replicated(mesh))()


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises ValueError unless the mesh divides the batch evenly; `name` is its name in the message."""
    ways = math.prod(mesh.shape[a] for a in BATCH_AXES if a in mesh.shape)
    if batch_size % ways:
        raise ValueError(
            f"{name} = {batch_size} is not divisible by the {ways} ways that the mesh {dict(mesh.shape)} splits it."
        )


def _spec(rule: Any, shape: tuple[int, ...], mesh: Mesh, path: str) -> PartitionSpec:
    """Returns the PartitionSpec that a rule gives a parameter of this shape.

    A tuple is the PartitionSpec itself. A string names mesh axes: "model@-1+fsdp" puts model on the last dimension and
    fsdp on the largest of the others that it divides; an axis that divides no dimension is left out.
    """
    if isinstance(rule, str):
        return _spec_by_axes(rule, shape, mesh, path)
    spec = PartitionSpec(*(tuple(a) if isinstance(a, list) else a for a in rule))
    if len(spec) > len(shape):
        raise ValueError(f"Sharding rule {tuple(rule)} has {len(spec)} axes, parameter {path!r} has shape {shape}.")
    for size, axes in zip(shape, spec, strict=False):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        missing = [a for a in names if a not in mesh.shape]
        if missing:
            raise ValueError(f"A sharding rule names mesh axes {missing}; the mesh has {tuple(mesh.shape)}.")
        if size % math.prod(mesh.shape[a] for a in names):
            raise ValueError(
                f"Sharding rule {tuple(rule)} does not divide parameter {path!r} of shape {shape} on "
                f"{dict(mesh.shape)}."
            )
    return spec


def _spec_by_axes(rule: str, shape: tuple[int, ...], mesh: Mesh, path: str) -> PartitionSpec:
    axes: list[str | None] = [None] * len(shape)
    for axis in rule.split("+"):
        name, at, dimension = axis.partition("@")
        if name not in mesh.shape:
            raise ValueError(f"A sharding rule names mesh axis {name!r}; the mesh has {tuple(mesh.shape)}.")
        fits = [i for i, n in enumerate(shape) if axes[i] is None and n and n % mesh.shape[name] == 0]
        if at and not re.fullmatch(r"-?\d+", dimension):
            raise ValueError(f"Sharding rule {rule!r} of {path!r}: after @ stands a dimension, as in 'model@-1'.")
        if at:
            fits = [i for i in fits if i in (int(dimension), int(dimension) + len(shape))]
        best = max(fits, key=lambda i: shape[i], default=None)
        if best is not None:
            axes[best] = name
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def _path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _expanded(rules: Rules) -> list[tuple[str, Any, str]]:
    """Returns [(regex, spec, origin)]: the rules, with the name of a rule set replaced by its rules.

    The origin is the regex that the user wrote, or the name of the set.
    """
    expanded = []
    for rule in rules:
        if not isinstance(rule, str):
            expanded.append((*rule, rule[0]))
        elif rule in RULE_SETS:
            expanded += [(pattern, spec, rule) for pattern, spec in RULE_SETS[rule]]
        else:
            raise ValueError(f"A sharding rule is (path regex, spec) or a name. {near(rule, RULE_SETS)}")
    return expanded


def param_shardings(params: PyTree, rules: Rules, mesh: Mesh, role: str) -> PyTree:
    """Returns a NamedSharding for every parameter: that of the first rule whose regex its path contains.

    A parameter that no rule matches is replicated. Raises ValueError for a rule, or a named set of rules, that matches
    no parameter.
    """
    used: set[str] = set()
    flat, rules_of = _expanded(rules), f"The sharding rules of {role!r}: pattern"

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        name = _path(path)
        matches = [(spec, origin) for pattern, spec, origin in flat if pattern_of(pattern, rules_of).search(name)]
        used.update(origin for _, origin in matches)
        return NamedSharding(mesh, _spec(matches[0][0], leaf.shape, mesh, name) if matches else PartitionSpec())

    result = jax.tree_util.tree_map_with_path(sharding, params)
    unused = list(dict.fromkeys(origin for _, _, origin in flat if origin not in used))
    if unused:
        names = [_path(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(f"Sharding rules {unused} match no parameter of {role!r}. It has: {', '.join(names[:20])} ...")
    return result


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Places arrays that every process has in full: each process puts its shards on its devices.

    An array that has the sharding already is returned as it is, not copied.
    """

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree, shardings)


def state_shardings(state: TrainState, rules: Mapping[str, Rules], mesh: Mesh) -> TrainState:
    """Returns the shardings of a whole TrainState (of shapes); an optimizer's copies of a parameter follow it."""
    whole = replicated(mesh)

    def everywhere(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda _: whole, tree)

    params = {
        group: {role: param_shardings(p, rules.get(role, ()), mesh, role) for role, p in roles.items()}
        for group, roles in state.params.items()
    }
    frozen = {
        role: (
            precision.shardings(p, lambda p, r=role: param_shardings(p, rules.get(r, ()), mesh, r), whole),
            everywhere(s),
        )
        for role, (p, s) in state.frozen.items()
    }

    def like_params(group: str, opt: PyTree) -> PyTree:
        of_parameters = {
            (_path(path), leaf.shape): sharding
            for (path, leaf), sharding in zip(
                jax.tree_util.tree_leaves_with_path(state.params[group]), jax.tree.leaves(params[group]), strict=True
            )
        }

        def find(path: tuple, leaf: Any) -> NamedSharding:
            names = _path(path).split("/")
            for start in range(len(names)):
                match = of_parameters.get(("/".join(names[start:]), leaf.shape))
                if match is not None:
                    return match
            return whole

        return jax.tree_util.tree_map_with_path(find, opt)

    opt = {group: like_params(group, o) for group, o in state.opt.items()}
    return TrainState(whole, params, everywhere(state.stats), opt, frozen, everywhere(state.extra))


def check_roles(rules: Mapping[str, Rules], scheme: Scheme) -> None:
    """Raises ValueError for sharding rules of a role that the scheme does not have."""
    unknown = [r for r in rules if r not in scheme.roles]
    if unknown:
        raise ValueError(f"Sharding rules for {unknown}, but the roles are {sorted(scheme.roles)}.")


def is_lead() -> bool:
    """Returns True in the one process that writes logs and reports."""
    return jax.process_index() == 0


def on_lead(work: Callable[[], None]) -> None:
    """Runs work() in the lead process while the others wait; an OSError or ValueError of it is raised in all.

    An error in one process alone would leave the others waiting in the next collective.
    """
    failed: OSError | ValueError | None = None
    if is_lead():
        try:
            work()
        except (OSError, ValueError) as e:
            failed = e
    text = first_said("" if failed is None else str(failed))
    if failed is not None:
        raise failed
    if text:
        raise ValueError(f"Process 0: {text}")


def first_said(text: str) -> str:
    """Returns the first text of any process that is not "", cut to MESSAGE_BYTES. All processes must call it."""
    if jax.process_count() == 1:
        return text
    cut = text.encode()[:MESSAGE_BYTES]
    said = np.asarray(multihost_utils.process_allgather(np.frombuffer(cut.ljust(MESSAGE_BYTES, b"\0"), np.uint8)))
    texts = (bytes(row).rstrip(b"\0").decode(errors="replace") for row in said)
    return next((text for text in texts if text), "")


def on_host(tree: PyTree) -> PyTree:
    """Returns a tree's arrays as NumPy arrays, whole in every process. All processes must call it."""
    return jax.tree.map(
        lambda x: np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)), tree
    )
