"""The teacher's statistics move to the target domain and nothing else does; then the student learns without labels."""

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.losses.adaptation import information_loss
from kd_jax.losses.response import kd_loss
from kd_jax.models.adapters import LinenModel
from kd_jax.schemes import domain_adaptation
from kd_jax.types import Role, Term

UNLABELLED = {**toy.batch(), "label": jnp.full(16, -1), "labelled": jnp.zeros(16, bool)}
TERMS = {
    "kd": Term(kd_loss, ("student.logits",), ("adapted.logits",), 1.0, {"temperature": 1.0}),
    "information": Term(information_loss, ("student.logits",), weight=0.5),
}


def scheme(roles=None, steps=8, terms=None, **options):
    options = {"statistics_steps": 3} | options
    return domain_adaptation.build(toy.parts(roles or toy.roles(), terms or TERMS, steps), **options)


def test_the_first_stage_moves_statistics_only():
    adapting = scheme()
    first, last, history = scheme_checks.steps(adapting, UNLABELLED, 3)
    assert scheme_checks.moved(first, last) == set() and history[0]["loss"] == 0
    chex.assert_trees_all_equal(first.params["adapted"]["adapted"], first.frozen["teacher"][0])
    chex.assert_trees_all_equal(first.stats["student"], last.stats["student"])
    hidden = first.frozen["teacher"][0]["hidden"]
    mean = (np.asarray(UNLABELLED["image"]) @ hidden["kernel"] + hidden["bias"]).mean(0)
    old, new = (state.stats["adapted"]["batch_stats"]["norm"]["mean"] for state in (first, last))
    np.testing.assert_allclose(new, 0.9**3 * old + (1 - 0.9**3) * mean, rtol=1e-4, atol=1e-5)
    _, spread, _ = scheme_checks.steps(adapting, UNLABELLED, 3, mesh=toy.mesh(4, 2))
    chex.assert_trees_all_close(last.stats, spread.stats, rtol=1e-4, atol=1e-5)


def test_the_second_stage_teaches_without_labels():
    adapting = scheme()
    first, last, history = scheme_checks.steps(adapting, UNLABELLED, 6, stage=1)
    assert scheme_checks.moved(first, last) == {"student"}
    chex.assert_trees_all_equal(first.stats["adapted"], last.stats["adapted"])
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["kd"] < history[0]["kd"]
    scheme_checks.same_on_eight_devices(adapting, last, UNLABELLED, 6, stage=1)


def test_stages_and_what_is_scored():
    adapting = scheme()
    assert [(stage.name, stage.steps) for stage in adapting.stages] == [("statistics", 3), ("learn", 5)]
    assert adapting.evaluate == ("student", "adapted", "teacher") and adapting.reference == "teacher"
    plain = scheme(terms={"kd": toy.kd()}, statistics_steps=0)
    assert len(plain.stages) == 1 and plain.evaluate == ("student", "teacher") and "adapted" not in plain.roles


def test_resume_between_the_stages(tmp_path, monkeypatch):
    results = scheme_checks.resumes_exactly(scheme(), tmp_path, monkeypatch, 3)
    assert set(results["last"]["test"]) == {"student", "adapted", "teacher"}


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(toy.CLASSES)(x)


def test_what_does_not_fit():
    student = toy.roles()["student"]
    with pytest.raises(ValueError, match="starts from a teacher"):
        scheme({"student": student})
    for steps in (8, -1):
        with pytest.raises(ValueError, match=rf"statistics_steps={steps} is not from 0 to below the 8 steps"):
            scheme(statistics_steps=steps)
    with pytest.raises(ValueError, match="no statistics"):
        scheme_checks.steps(scheme({"student": student, "teacher": Role(LinenModel(Plain()))}), UNLABELLED, 1)
    with pytest.raises(ValueError, match="no 'adapted' in this step"):
        scheme_checks.steps(scheme(statistics_steps=0), UNLABELLED, 1)


def test_config(tmp_path):
    results = scheme_checks.run_tiny("domain_adaptation", "information", tmp_path, baseline=True)
    assert set(results["models"]["student"]["others"]) == {"adapted", "teacher"}
    assert results["data"]["labelled"] == 0 and "baseline" not in results["models"]


def test_every_variant_is_made():
    module = scheme_checks.config_module("domain_adaptation")
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        named = config.terms.kd.targets[0].partition(".")[0]
        assert (named == "adapted") == bool(config.scheme.kwargs.statistics_steps) == (variant != "response")
