"""A network that starts at weights that it is told, wherever it is initialised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from kd_jax.types import Array, Model, Outputs, PyTree, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class Started:
    """Wraps `model`, whose first (params, stats) are `first(model, key, shapes)`; `shapes` are those that it needs.

    A connector's builder returns one to start it elsewhere than at random: `connector=lambda student, teacher:
    Started(linear(student, teacher), my_weights)`. ValueError in `init` where parameters are missing, unknown or of
    another shape.
    """

    model: Model
    first: Callable[[Model, Array, Variables], Variables]

    def init(self, key: Array, *inputs: Array) -> Variables:
        wanted = jax.eval_shape(self.model.init, key, *inputs)
        made = self.first(self.model, key, wanted)
        if lines := differing(made, wanted):
            raise ValueError("its first weights are of another network:\n  " + "\n  ".join(lines))
        return jax.tree.map(lambda x, w: jax.numpy.asarray(x, w.dtype), made, wanted)

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        return self.model.apply(params, stats, *inputs, train=train, key=key, taps=taps)


def differing(made: Variables, wanted: Variables) -> list[str]:
    """Returns a line for each value that is missing, unknown or of another shape: "dense/kernel: (3, 4), not (4, 4)".

    Parameters go by their path, what changes without gradients by "stats/" and its path.
    """
    shapes = [
        {
            f"{kind}{jax.tree_util.keystr(path, simple=True, separator='/')}": jax.numpy.shape(x)
            for kind, tree in zip(("", "stats/"), variables, strict=True)
            for path, x in jax.tree.leaves_with_path(tree)
        }
        for variables in (made, wanted)
    ]
    names = sorted(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
    return [f"{name}: {shapes[0].get(name, 'nothing')}, not {shapes[1].get(name, 'nothing')}" for name in names]
