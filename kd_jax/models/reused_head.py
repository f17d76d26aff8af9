"""A student that answers through its teacher's classifier: backbone, projector, the teacher's own head (SimKD)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from kd_jax.models.method_connectors import simkd_projector
from kd_jax.types import Array, Model, Outputs, PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class ReusedHead:
    """logits = head(mean over space of projector(student's map)); the tap "projected" is what the teacher teaches.

    params: {"student", "projector"}, both trained; stats: theirs, and "head", the teacher's, zeros until it is copied
    in. `tap` names the maps of both networks. The student's own head is initialised and never used.
    Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", 2022, arXiv 2203.14001.
    """

    student: Model
    teacher: Model
    tap: str = "final"
    factor: int = 2

    def _projector(self, *inputs: Array) -> tuple[Model, PyTree]:
        """(the projector between the two maps, the shapes of the teacher's parameters)."""
        key, shapes = jax.random.key(0), []
        for model in (self.student, self.teacher):
            params, stats = jax.eval_shape(model.init, key, *inputs)

            def tapped(p: PyTree, s: PyTree, *x: Array, model: Model = model) -> Outputs:
                return model.apply(p, s, *x, train=False, key=key, taps=(self.tap,))[0]

            shapes.append(jax.eval_shape(tapped, params, stats, *inputs).features[self.tap])
        if "head" not in params:
            raise ValueError(f"SimKD reuses the teacher's 'head'; its parameters are {sorted(params)}.")
        return simkd_projector(*shapes, factor=self.factor), params["head"]

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        first, second = jax.random.split(key)
        projector, head = self._projector(*inputs)
        params, stats = self.student.init(first, *inputs)
        projector_input = jax.eval_shape(self._map, params, stats, *inputs)
        more, more_stats = projector.init(second, jnp.zeros(projector_input.shape, projector_input.dtype))
        head = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), head)
        return {"student": params, "projector": more}, {"student": stats, "projector": more_stats, "head": head}

    def _map(self, params: PyTree, stats: PyTree, *inputs: Array) -> Array:
        key = jax.random.key(0)
        return self.student.apply(params, stats, *inputs, train=False, key=key, taps=(self.tap,))[0].features[self.tap]

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        first, second = jax.random.split(key)
        projector, _ = self._projector(*inputs)
        wanted = tuple(t for t in taps if t != "projected")
        student_outputs, student_stats = self.student.apply(
            params["student"], stats["student"], *inputs, train=train, key=first, taps=(*wanted, self.tap)
        )
        projected, projector_stats = projector.apply(
            params["projector"], stats["projector"], student_outputs.features[self.tap], train=train, key=second
        )
        pooled = projected.logits.astype(jnp.promote_types(projected.logits.dtype, jnp.float32)).mean((1, 2))
        head = jax.lax.stop_gradient(stats["head"])
        logits = pooled @ head["kernel"] + jnp.expand_dims(head["bias"], 0)
        stats = {"student": student_stats, "projector": projector_stats, "head": stats["head"]}
        return Outputs(logits, {**student_outputs.features, "projected": projected.logits}), stats
