"""A scheme of two stages on toy data, its settings, and the error by which a test ends a run."""

import jax
import optax
import toy

from kd_jax.train import loop
from kd_jax.types import Call, Phase, Scheme, Stage

SOURCES = {"train": toy.source(), "validation": toy.source(21, "validation"), "test": toy.source(30, "test")}
SETTINGS = loop.Settings(batch_size=8, seed=1, log_every=5, eval_every=4, eval_batch_size=16)


def scheme(entered=None):
    """Supervised with SGD for 6 steps, then distilled with Adam for 7, the head drawn anew in between."""
    roles = toy.roles()
    supervised = Phase("student", (Call("student"),), {"ce": toy.ce()}, optax.sgd(0.1, momentum=0.9))
    forward = (Call("student"), Call("teacher", train=False))
    distilled = Phase("student", forward, {"kd": toy.kd()}, optax.adam(1e-2))

    def halve(state):
        if entered is not None:
            entered.append(int(state.step))
        params = jax.tree.map(lambda x: x / 2, state.params["student"]["student"]["head"])
        student = {**state.params["student"]["student"], "head": params}
        return state.replace(params={"student": {"student": student}})

    return Scheme(roles, (Stage(6, (supervised,)), Stage(7, (distilled,), on_enter=halve)), task=toy.TASK)


class Killed(Exception):
    pass
