"""Several frozen encoders into one student: their features are standardised before its first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import Path, calls_in, lookup, taps_in
from kd_jax.core.shapes import apply_shapes, init_shapes
from kd_jax.data.batches import batch_shapes, eval_batches
from kd_jax.data.source import Source, subset
from kd_jax.losses.standardization import phi_standardization
from kd_jax.ranges import Count
from kd_jax.resolve import near
from kd_jax.schemes import offline
from kd_jax.system import parallel, precision
from kd_jax.types import Array, Parts, Role, Scheme, TrainState

BATCH = 64  # images that the teachers see at a time


def build(parts: Parts, standardize: Mapping[str, str], examples: Count[int] = 2048) -> Scheme:
    """Builds offline distillation whose terms may read `extra.<name>`, {"mean", "matrix"} of a teacher's features.

    `standardize` is {name: path}, {"phi_clip": "clip.features:final"}; a path is the output or a tap of a frozen
    network, or an entry of the batch that was stored ("batch.clip"). Before the first step the teachers see `examples`
    images of the training split, spread evenly, without augmentation, and PHI-S (losses.standardization) is computed
    from every position of their features; the checkpoints keep it. ValueError for a network that is not frozen, for a
    term that reads none of them, and for an entry of the batch that there is not.
    Ranzinger, Heinrich, Kautz, Molchanov, "AM-RADIO: Agglomerative Vision Foundation Model", 2023, arXiv 2312.06709:
    one head a teacher (a connector of its terms), summary and dense features. Ranzinger et al., "PHI-S", 2024, arXiv
    2410.01680: standardised, all teachers weigh alike. The authors take the images of the first steps.
    """
    scheme = offline.build(parts)
    if not standardize:
        raise ValueError("standardize is empty: it is {name: path}, {'phi_teacher': 'teacher.features:final'}.")
    frozen = {name: role for name, role in parts.roles.items() if role.group is None}
    read = {p.owner for t in parts.terms.values() for p in map(Path.parse, t.options.values()) if p.kind == "extra"}
    for name, path in standardize.items():
        owner = Path.parse(path).call
        if owner and owner not in frozen:
            raise ValueError(f"standardize: {path!r} is of no frozen network. {near(owner, frozen)}")
        if name not in read:
            raise ValueError(f"standardize: no term reads 'extra.{name}.mean' and 'extra.{name}.matrix'.")
    source = parts.sources["train"]
    rows = np.unique(np.linspace(0, len(source) - 1, min(examples, len(source))).round().astype(int))
    asked = {owner: frozen[owner] for owner in calls_in(standardize.values())}
    statistics = _Statistics(parts, asked, dict(standardize), source, rows)
    extra = {name: _unknown(shape[-1]) for name, shape in statistics.shapes().items()}
    stage = dataclasses.replace(scheme.stages[0], on_enter=statistics.standardised)
    return dataclasses.replace(scheme, stages=(stage, *scheme.stages[1:]), extra={**scheme.extra, **extra})


def _unknown(width: int) -> dict[str, Array]:
    return {"mean": jnp.zeros(width), "matrix": jnp.eye(width)}


@dataclasses.dataclass(frozen=True, eq=False)
class _Statistics:
    """What the teachers say of some images of a source."""

    parts: Parts
    roles: Mapping[str, Role]
    paths: Mapping[str, str]
    source: Source
    rows: np.ndarray

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the features by name."""
        raw = batch_shapes(self.source, BATCH)
        batch = jax.eval_shape(lambda b: self.parts.prepare(b, jax.random.key(0), False), raw)
        for name, role in self.roles.items():
            read = {Path.parse(p).owner: p for p in role.inputs if Path.parse(p).kind == "batch"}
            if missing := [path for owner, path in read.items() if owner not in batch]:
                raise ValueError(
                    f"standardize asks the {name} itself before the first step, and it reads {missing[0]!r}, which the "
                    "training images lack: a cache of its answers is not enough."
                )

        def run(role: Role, inputs: tuple, taps: tuple[str, ...]) -> Any:
            return apply_shapes(role.model, init_shapes(role.model, inputs), inputs, False, taps)

        return {name: x.shape for name, x in self._features(batch, lambda name, *args: run(*args)).items()}

    def standardised(self, state: TrainState) -> TrainState:
        """Returns the state with the standardisations in `extra`."""
        frozen = {name: state.frozen[name] for name in self.roles}

        @jax.jit
        def features(frozen: Mapping[str, Any], batch: Mapping[str, Array]) -> dict[str, Array]:
            def run(name: str, role: Role, inputs: tuple, taps: tuple[str, ...]) -> Any:
                params, stats = frozen[name]
                how = dict(train=False, key=jax.random.key(0), taps=taps)  # evaluation mode draws nothing
                return role.model.apply(precision.restored(params), stats, *inputs, **how)[0]

            prepared = self.parts.prepare(batch, jax.random.key(0), False)
            return {name: x.astype(jnp.float32) for name, x in self._features(prepared, run).items()}

        old = {name: state.extra[name] for name in self.paths}
        sharding = parallel.batch_sharding(jax.tree.leaves(old)[0].sharding.mesh)
        values: dict[str, list[np.ndarray]] = {name: [] for name in self.paths}
        some = subset(self.source, self.rows)
        size = -(-BATCH // sharding.mesh.size) * sharding.mesh.size
        for batch in eval_batches(some, batch_size=size, sharding=sharding):
            real = parallel.on_host(batch["mask"])
            for name, x in parallel.on_host(features(frozen, batch)).items():
                values[name].append(x[real].reshape(-1, x.shape[-1]))
        new = {
            name: dict(zip(("mean", "matrix"), _phi(name, self.paths[name], values[name]), strict=True)) for name in old
        }
        placed = parallel.place(new, jax.tree.map(lambda x: x.sharding, old))
        return state.replace(extra={**state.extra, **placed})

    def _features(self, batch: Mapping[str, Any], run: Callable[..., Any]) -> dict[str, Any]:
        """{name: features} of a prepared batch; `run(name, role, inputs, taps)` answers for a role."""
        context: dict[str, Any] = {"batch": batch}
        for name, role in self.roles.items():
            inputs = tuple(lookup({"batch": batch}, p) for p in role.inputs)
            context[name] = run(name, role, inputs, taps_in(name, self.paths.values()))
        return {name: lookup(context, path) for name, path in self.paths.items()}


def _phi(name: str, path: str, values: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    try:
        return phi_standardization(np.concatenate(values))
    except ValueError as e:
        raise ValueError(f"standardize.{name}: {path}: {e}") from e
