"""Binding: connectors become roles that the phases call, and names that a path could not reach are refused."""

import dataclasses
import functools

import pytest
import toy

from kd_jax.core.bind import bind
from kd_jax.losses import relation, task
from kd_jax.models import connectors, method_connectors
from kd_jax.schemes import offline
from kd_jax.types import Call, Role, Term

TAPS = ("student.features:hidden",), ("teacher.features:hidden",)
HINT = Term(task.mean_squared_loss, *TAPS, connector=connectors.linear)
PAIR = Term(
    relation.correlation_congruence_loss,
    (*TAPS[0], *TAPS[1]),
    connector=functools.partial(method_connectors.embed_pair, dim=8),
)


def scheme(terms, roles=None):
    return offline.build(toy.parts(roles or toy.roles(), terms))


def test_connectors_become_calls():
    plain = scheme({"hint": HINT, "pair": PAIR})
    bound, inputs = bind(plain, toy.shapes(toy.batch()))
    phase = bound.stages[0].phases[0]
    assert phase.forward[-2:] == (Call("hint/connector", HINT.inputs), Call("pair/connector", PAIR.inputs))
    assert phase.terms["hint"].inputs == ("hint/connector.logits",) and phase.terms["hint"].targets == TAPS[1]
    assert phase.terms["pair"].inputs == ("pair/connector.logits.0", "pair/connector.logits.1")
    assert {bound.roles[name].group for name in ("hint/connector", "pair/connector")} == {"student"}
    assert [x.shape for x in inputs["pair/connector"]] == [(16, 4), (16, 8)]
    again, same = bind(bound, toy.shapes(toy.batch()))
    assert again.stages == bound.stages and same == inputs


def test_stages_that_share_their_phases_still_do():
    plain = scheme({"hint": HINT})
    stage = plain.stages[0]
    other = dataclasses.replace(stage, phases=(dataclasses.replace(stage.phases[0]),))
    bound, _ = bind(dataclasses.replace(plain, stages=(stage, other, stage)), toy.shapes(toy.batch()))
    first, second, third = (stage.phases for stage in bound.stages)
    assert first is third and second is not first


MISTAKES = {
    "a role called as a store": (
        lambda: scheme({"ce": toy.ce()}, toy.roles() | {"memory": Role(toy.net(), group="student")}),
        r"The roles \['memory'\] need other names: batch, extra",
    ),
    "a term whose connector no path reaches": (
        lambda: scheme({"my.hint": HINT}),
        "Term 'my.hint' needs another name",
    ),
    "a metric with a connector": (
        lambda: dataclasses.replace(
            plain := scheme({"ce": toy.ce()}),
            stages=(
                dataclasses.replace(
                    plain.stages[0],
                    phases=(dataclasses.replace(plain.stages[0].phases[0], metrics={"hint": HINT}),),
                ),
            ),
        ),
        "Metric 'hint' has a connector",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    build, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        bind(build(), toy.shapes(toy.batch()))
