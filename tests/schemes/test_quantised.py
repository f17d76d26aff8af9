"""Quantised distillation: who learns at which bits, and what stands beside the student."""

import dataclasses

import jax
import numpy as np
import pytest
import scheme_checks as checks
import toy

from kd_jax.losses import feature
from kd_jax.models import connectors
from kd_jax.models.quantised import rounded_params
from kd_jax.schemes.quantised import build
from kd_jax.types import Memory, Parts, Term

TERMS = {"ce": toy.ce(), "kd": toy.kd()}


def parts(terms=TERMS, steps=8):
    sources = {"train": toy.source(48), "validation": toy.source(16, "validation"), "test": toy.source(16, "test")}
    return Parts(
        toy.roles(), terms, steps, lambda steps, group="student": toy.sgd(), lambda b, k, t: b, sources, toy.TASK
    )


@pytest.fixture(scope="module")
def trained():
    scheme = build(parts(), bits=(4,), activations=8, keep="head")
    return scheme, *checks.steps(scheme, count=6)


def test_loss_falls_and_each_network_has_its_own_group(trained):
    _, first, last, history = trained
    assert checks.moved(first, last) == {"student", "float", "labels", "post_training"}
    for name in ("student", "float", "labels"):
        assert history[-1][f"{name}/loss"] < history[0][f"{name}/loss"]
    assert set(last.opt) == {"student", "float", "labels"}


def test_networks_start_alike_and_differ_in_bits_and_teacher(trained):
    scheme, first, last, _ = trained
    for name in ("float", "labels", "post_training"):
        jax.tree.map(np.testing.assert_array_equal, first.params["student"]["student"], first.params[name][name])
    jax.tree.map(
        np.testing.assert_array_equal,
        (last.params["float"]["float"], last.stats["float"]),
        (last.params["post_training"]["post_training"], last.stats["post_training"]),
    )
    assert scheme.evaluate == ("student", "labels", "post_training", "float")
    phases = {phase.group: phase for phase in scheme.stages[0].phases}
    assert set(phases["labels"].terms) == {"labels_ce"} and len(phases["labels"].forward) == 1
    assert phases["float"].terms["float_kd"].inputs == ("float.logits",)
    assert [scheme.roles[r].inputs[-1] for r in ("student", "labels", "post_training", "float")] == [
        "extra.bits",
        "extra.bits",
        "extra.bits",
        "batch.image",
    ]


def test_one_device_is_eight(trained):
    scheme, _, last, _ = trained
    # 4-bit weights are discontinuous: only sums that are rounded alike stay alike, which a few steps do.
    checks.same_on_eight_devices(scheme, last, count=6)


def test_bits_fall_and_a_run_that_stops_within_or_between_stages_resumes(tmp_path, monkeypatch):
    scheme = build(parts(), bits=(8, 4, 2))
    assert [stage.steps for stage in scheme.stages] == [3, 2, 3]
    assert all(stage.phases is scheme.stages[0].phases for stage in scheme.stages)
    results = checks.resumes_exactly(scheme, tmp_path / "between", monkeypatch, stop=3)
    rows = results["sections"][0]["rows"]
    assert [row[1] for row in rows] == [8, 8, 8, 32, 4, 4, 4, 32, 2, 2, 2, 32]
    assert len({row[3] for row in rows}) == 4 and rows[0][3] > rows[4][3] > rows[8][3]
    state = checks.last_state(
        scheme,
        parts().sources,
        checks.Settings(batch_size=16, seed=0, log_every=2, eval_every=4, eval_batch_size=16),
        tmp_path / "between" / "whole",
    )
    np.testing.assert_array_equal(state.extra["bits"], [2, 32])
    rounded = rounded_params(state.params["student"]["student"], np.float32(2))
    assert len(np.unique(np.round(rounded["hidden"]["kernel"][:, 0], 6))) <= 3


def test_without_comparison_there_is_the_student_alone_and_connectors_get_names_of_their_own():
    hint = Term(
        feature.feature_hint_loss,
        ("student.features:hidden",),
        ("teacher.features:hidden",),
        connector=connectors.linear,
    )
    alone = build(parts({**TERMS, "hint": hint}), compare=False)
    assert alone.evaluate == ("student",) and len(alone.stages[0].phases) == 1
    both = build(parts({**TERMS, "hint": hint}))
    first, last, _ = checks.steps(both, count=1)
    assert {"hint/connector", "float_hint/connector"} <= {*last.params["student"], *last.params["float"]}
    assert checks.moved(first, last) == {"student", "float", "labels", "post_training"}


def test_bad_options_are_refused():
    for options, message in (
        (dict(bits=()), "bits are those of each stage"),
        (dict(bits=(8, 3)), "of \\(2, 4, 8, 32\\)"),
        (dict(bits=(8,) * 9), "no more stages than steps \\(8\\)"),
        (dict(activations=2), "4 to 8 bits, or 32"),
    ):
        with pytest.raises(ValueError, match=message):
            build(parts(), **options)
    bank = dataclasses.replace(toy.kd(), memory=Memory(np.zeros(1), lambda memory, inputs, context: memory))
    with pytest.raises(ValueError, match="keep a memory"):
        build(parts({"kd": bank}))


def test_config(tmp_path):
    results = checks.run_tiny("quantised", "w4a8", tmp_path)
    assert [row[1:3] for row in results["sections"][0]["rows"]] == [[4, 8], [4, 8], [4, 8], [32, 32]]
