"""Chains of teacher assistants: who learns from whom in which stage, and under which names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.losses import feature, task
from kd_jax.schemes import assistants, offline
from kd_jax.types import Role, Term

TERMS = {"ce": toy.ce(), "kd": toy.kd()}


def parts(terms=TERMS, names=("large", "small"), steps=8, **sources):
    further = {name: Role(toy.net(width=6), group=name) for name in names}
    return toy.parts(toy.roles() | further, terms, steps, **sources)


def hint(inputs, targets):
    return Term(feature.feature_hint_loss, inputs, targets, connector=lambda *_: toy.net(classes=8))


def test_a_chain_learns_stage_by_stage_and_resumes(tmp_path, monkeypatch):
    scheme = assistants.build(parts(names=("large",), steps=4), ("large",))
    assert [stage.name for stage in scheme.stages] == ["large", "student"]
    for number, group in enumerate(("large", "student")):
        first, last, history = scheme_checks.steps(scheme, stage=number, count=4)
        assert scheme_checks.moved(first, last) == {group}
        assert history[-1]["loss"] < history[0]["loss"]
    scheme_checks.same_on_eight_devices(scheme, last, stage=1, count=4)
    results = scheme_checks.resumes_exactly(scheme, tmp_path, monkeypatch, stop=5)
    assert [stage["step"] for stage in results["stages"]] == [4, 8]
    assert set(results["last"]["test"]) == {"student", "large"}
    (section,) = results["sections"]
    assert [row[:3] for row in section["rows"]] == [["large", "teacher", 4], ["student", "large", 4]]


def test_without_assistants_it_is_offline_distillation():
    ours, theirs = assistants.build(parts()).stages, offline.build(parts()).stages
    assert len(ours) == len(theirs) == 1 and ours[0].steps == theirs[0].steps
    for field in ("group", "forward", "terms", "metrics"):
        assert getattr(ours[0].phases[0], field) == getattr(theirs[0].phases[0], field)


def test_every_stage_has_terms_and_connectors_of_its_own():
    terms = {
        **TERMS,
        "map": hint(("teacher.features:hidden",), ("teacher.features:hidden",)),
        "hint": dataclasses.replace(
            hint(("student.features:hidden",), ("map/connector.features:norm",)),
            options={"bank": "extra.hint", "head": "params.teacher.head", "label": "batch.label"},
        ),
    }
    scheme = assistants.build(parts(terms), ("large", "small"), steps={"small": 3})
    assert [stage.steps for stage in scheme.stages] == [8, 3, 8]
    phase = scheme.stages[1].phases[0]
    assert [call.role for call in phase.forward] == ["small", "large"]
    assert [call.train for call in phase.forward] == [True, False]
    assert list(phase.terms) == ["ce_small", "kd_small", "map_small", "hint_small"]
    assert phase.terms["ce_small"].where == "batch.labelled"
    assert phase.terms["kd_small"].inputs == ("small.logits",) and phase.terms["kd_small"].targets == ("large.logits",)
    assert phase.terms["map_small"].inputs == ("large.features:hidden",)
    changed = phase.terms["hint_small"]
    assert changed.inputs == ("small.features:hidden",) and changed.targets == ("map_small/connector.features:norm",)
    assert changed.options == {"bank": "extra.hint_small", "head": "params.large.head", "label": "batch.label"}
    assert list(scheme.stages[2].phases[0].terms) == list(terms)


def test_dense_chains_share_the_weight_among_all_earlier_networks():
    terms = {**TERMS, "map": hint(("teacher.features:hidden",), ("teacher.features:hidden",))}
    terms["read"] = Term(task.mean_squared_loss, ("student.features:hidden",), ("map/connector.logits",), weight=6.0)
    scheme = assistants.build(parts(terms), ("large", "small"), dense=True)
    assert [call.role for call in scheme.stages[2].phases[0].forward] == ["student", "teacher", "large", "small"]
    assert list(scheme.stages[0].phases[0].terms) == ["ce_large", "kd_large", "map_large", "read_large"]
    last = scheme.stages[2].phases[0].terms
    assert last["ce"].weight == 1.0 and last["kd_from_large"].weight == pytest.approx(1 / 3)
    assert last["read_from_small"].weight == pytest.approx(2.0)
    assert last["read_from_small"].targets == ("map_from_small/connector.logits",)
    assert {t.targets for n, t in last.items() if n.startswith("kd")} == {
        ("teacher.logits",),
        ("large.logits",),
        ("small.logits",),
    }


def test_dropped_teachers_are_a_function_of_the_step():
    scheme = assistants.build(parts(), ("large", "small"), dense=True, drop=0.25)
    last = scheme.stages[2].phases[0].terms
    weights = {name: jax.vmap(last[name].weight)(jnp.arange(400)) for name in last if name != "ce"}
    for name, values in weights.items():
        assert set(np.unique(values).tolist()) == {0.0, float(np.float32(1 / 3))}, name
        assert abs(float((values > 0).mean()) - 0.75) < 0.07
    one, two, _ = weights.values()
    assert (one != two).any()
    assert scheme.stages[0].phases[0].terms["kd_large"].weight == 1.0  # the only teacher is never left out


def test_schedules_start_anew_in_every_stage():
    def ramp(step):
        return jnp.minimum(step / 8, 1.0)  # over the run of 8 steps that the config counts

    kd = dataclasses.replace(toy.kd(), weight=ramp, kwargs={"temperature": lambda step: 1.0 + step})
    stages = assistants.build(parts({"kd": kd}), ("large",), steps={"large": 4}).stages
    first, second = stages[0].phases[0].terms["kd_large"], stages[1].phases[0].terms["kd"]
    assert [float(first.weight(step)) for step in (0, 2, 4)] == [0.0, 0.5, 1.0]
    assert [float(second.weight(step)) for step in (4, 8, 12)] == [0.0, 0.5, 1.0]
    assert [float(second.kwargs["temperature"](step)) for step in (4, 8)] == [1.0, 5.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chain": ("larg",)}, "'larg' is no role.*'large'"),
        ({"chain": ("teacher",)}, "'teacher' is no role"),
        ({"chain": ("large", "large")}, "learns once"),
        ({"chain": ("large",), "steps": {"small": 3}}, "'small' makes 3 steps"),
        ({"chain": ("large",), "steps": {"large": 0}}, "At least 1"),
        ({"chain": ("large",), "drop": 0.5}, "dense=True"),
        ({"chain": ("large",), "dense": True, "drop": 1.0}, "below 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        assistants.build(parts(), **options)


def test_assistants_need_a_teacher_and_groups_of_their_own():
    made = parts()
    with pytest.raises(ValueError, match="there is none"):
        assistants.build(dataclasses.replace(made, roles={"student": made.roles["student"]}))
    both = {**made.roles, "small": dataclasses.replace(made.roles["small"], group="large")}
    with pytest.raises(ValueError, match=r"group is 'large', which it shares with \['small'\]"):
        assistants.build(dataclasses.replace(made, roles=both), ("large",))
