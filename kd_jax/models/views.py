"""One network on several views of every example in one batch, as a Model around the Model."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from kd_jax.types import Array, Model, Outputs, PyTree

FURTHER = "further_logits"


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """`model` on the examples [batch, ...] and their further views [batch, views, ...], side by side in one batch.

    `logits` [batch, ...] are those of the examples, the tap "further_logits" [batch, views, ...] those of the further
    views, and any other tap has the views, the example's own first, along axis 1. BatchNorm sees all views together.
    Called without further views it is the model itself, with the same parameters.
    """

    model: Model

    def init(self, key: Array, example: Array, further: Array | None = None) -> tuple[PyTree, PyTree]:
        return self.model.init(key, example)

    def apply(
        self,
        params: PyTree,
        stats: PyTree,
        example: Array,
        further: Array | None = None,
        *,
        train: bool,
        key: Array,
        taps: tuple[str, ...] = (),
    ) -> tuple[Outputs, PyTree]:
        if further is None:
            return self.model.apply(params, stats, example, train=train, key=key, taps=taps)
        if (*further.shape[:1], *further.shape[2:]) != example.shape:
            raise ValueError(
                f"the views of examples {example.shape} have shape [batch, views, ...], not {further.shape}"
            )
        # Views of one example stay neighbours, so that a batch sharded over devices is not moved.
        views = jnp.concatenate([example[:, None], further], axis=1)
        inner = tuple(t for t in taps if t != FURTHER)
        joint = views.reshape(-1, *example.shape[1:])
        outputs, stats = self.model.apply(params, stats, joint, train=train, key=key, taps=inner)

        def apart(x: Array) -> Array:
            return x.reshape(*views.shape[:2], *x.shape[1:])

        features = {tap: apart(value) for tap, value in outputs.features.items()}
        logits = apart(outputs.logits)
        return Outputs(logits[:, 0], {**features, FURTHER: logits[:, 1:]}), stats
