"""Peers, jointly trained teachers, branches: who learns from what."""

import dataclasses
import functools
from pathlib import Path

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from scheme_checks import KEY, config_module, moved, resumes_exactly, same_on_eight_devices, steps

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.batches import batch_shapes
from kd_jax.losses import ensemble, online, response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.models.branches import Branched, branched_cnn, branched_resnet, member, stacked
from kd_jax.models.vision.cnn import cnn
from kd_jax.schemes import branches, codistillation
from kd_jax.schemes.online import build, error_shares, kdcl_general
from kd_jax.train.check import check_job
from kd_jax.train.jobs import make_model, plan
from kd_jax.types import Role, Scheme, Term

PEERS, LABELS = ("student.logits",), {"targets": ("batch.label",), "where": "batch.labelled"}
T = {"temperature": 2.0}


def ce(role: str) -> Term:
    return Term(task.cross_entropy_loss, (f"{role}.logits",), **LABELS)


PEERS_CE = Term(online.peers_cross_entropy_loss, PEERS, **LABELS)
MUTUAL = {"ce": PEERS_CE, "mutual": Term(online.mutual_kl_loss, PEERS, PEERS, 1.0, T)}


def parts(terms, steps=10, more=None, **sources):
    return toy.parts({"student": Role(toy.net(), group="student"), **(more or {})}, terms, steps, **sources)


def unlike() -> Scheme:
    """A student and a wider peer in one group, and a teacher that learns along with them from labels alone."""
    terms = {
        "ce": ce("student"),
        "ce_wide": ce("wide"),
        "ce_teacher": ce("teacher"),
        "from_teacher": toy.kd(),
        "from_wide": Term(response.kd_loss, PEERS, ("wide.logits",), 1.0, T),
        "from_student": Term(response.kd_loss, ("wide.logits",), PEERS, 1.0, T),
    }
    more = {"wide": Role(toy.net(width=6), group="student"), "teacher": Role(toy.net(width=8), group="teacher")}
    return build(parts(terms, more=more))


def general() -> Scheme:
    kd = Term(online.kdcl_general_loss, PEERS, PEERS, 1.0, T, {"shares": "extra.peer_shares"})
    held_out = toy.source(20, "validation")
    return kdcl_general(parts({"ce": PEERS_CE, "kd": kd}, validation=held_out), rounds=4)


class Layer(nn.Module):
    """A trunk, or with `classes` a branch, of one dense layer; toy images have no space."""

    classes: int = 0

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Dense(8)(x))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return (nn.Dense(self.classes)(x), x) if self.classes else x


def layers(num_classes: int, branches: int, gate: str) -> Branched:
    return Branched(Layer(), functools.partial(Layer, num_classes), branches, gate)


def one() -> Scheme:
    terms = {
        "ce": PEERS_CE,
        "ce_ensemble": Term(task.cross_entropy_loss, ("student.features:ensemble",), **LABELS),
        "one": Term(online.peers_kd_loss, PEERS, ("student.features:ensemble",), 1.0, T),
    }
    model = {"name": layers, "kwargs": {"gate": "gate"}}
    return branches.build(parts(terms, train=toy.source()), model, ensemble="ensemble")


def okddip() -> Scheme:
    auxiliary, leader = ("student.logits@0", "student.logits@1"), ("student.logits@2",)
    terms = {
        "ce": PEERS_CE,
        "peers": Term(online.group_distillation_loss, (*PEERS, "student.features:attention"), PEERS, 1.0, T),
        "leader": Term(ensemble.average_probabilities_loss, leader, auxiliary, 1.0, T),
    }
    model = {"name": layers, "kwargs": {"gate": "attention"}}
    return branches.build(parts(terms, train=toy.source()), model, leader=2)


def stale() -> Scheme:
    terms = {"ce": PEERS_CE, "kd": Term(online.mutual_kl_loss, PEERS, ("stale.logits",), 1.0, T)}
    return codistillation.in_process(parts(terms), every=2)


SCHEMES = {
    unlike: ({"student", "teacher"}, ("student", "wide", "teacher")),
    general: ({"student"}, ("student.logits@0", "student.logits@1")),
    one: ({"student"}, ("student.logits@0", "student.logits@1", "student.logits@2", "student.features:ensemble")),
    okddip: ({"student"}, ("student.logits@2", "student.logits@0", "student.logits@1")),
    stale: ({"student", "stale"}, ("student.logits@0", "student.logits@1")),
}


@pytest.mark.parametrize("make", SCHEMES, ids=lambda make: make.__name__)
def test_loss_falls_in_the_right_groups_on_any_mesh(make):
    scheme, (groups, entries) = make(), SCHEMES[make]
    stage = len(scheme.stages) - 1
    # These two differ from `stale` and `one` in their losses, which look at one example at a time.
    only_eight = make in (general, okddip)
    first, last, history = steps(scheme, count=4, stage=stage, mesh=toy.mesh(4, 2) if only_eight else None)
    assert moved(first, last) == groups == {*groups, *(p.group for p in scheme.stages[0].phases)}
    for name in (name for name in history[0] if name.endswith("loss")):
        assert history[-1][name] < history[0][name]
    assert scheme.evaluate == (entries if make is one else (*entries, "+".join(entries)))
    if not only_eight:
        same_on_eight_devices(scheme, last, count=4, stage=stage)
    if make is stale:  # every second step
        chex.assert_trees_all_equal(last.params["stale"]["stale"], last.params["student"]["student"])
        chex.assert_trees_all_equal(last.stats["stale"], last.stats["student"])
    if make is unlike:
        phases = {phase.group: phase for phase in scheme.stages[0].phases}
        assert [call.role for call in phases["teacher"].forward] == ["teacher"]
        assert set(phases["teacher"].terms) == {"ce_teacher"} and len(phases["student"].terms) == 5
        assert set(phases["student"].metrics) == {"accuracy_student", "accuracy_wide"}


def test_peers_start_apart_and_each_learns_as_from_a_teacher():
    batch = toy.batch()
    first, last, _ = steps(build(parts(MUTUAL), peers=2), count=1)
    networks = [member(first.params["student"]["student"], first.stats["student"], i) for i in range(2)]
    assert (networks[0][0]["hidden"]["kernel"] != networks[1][0]["hidden"]["kernel"]).any()
    terms = {"ce": ce("student"), "kd": toy.kd(), "ce_teacher": ce("teacher")}
    roles = {name: Role(toy.net(), group=name) for name in ("student", "teacher")}
    pair, inputs = bind(build(toy.parts(roles, terms)), toy.shapes(batch))
    roles = {name: dataclasses.replace(pair.roles[name], initial=n) for name, n in zip(roles, networks, strict=True)}
    state = init_state(dataclasses.replace(pair, roles=roles), inputs, KEY, dict(zip(roles, networks, strict=True)))
    after, _ = jax.jit(make_train_step(pair, pair.stages[0]))(state, batch, hyper_of(pair.stages[0]), KEY)
    expected = member(last.params["student"]["student"], last.stats["student"], 0)
    variables = (after.params["student"]["student"], after.stats["student"])
    chex.assert_trees_all_close(variables, expected, rtol=1e-4, atol=1e-6)


def test_shares_prefer_the_peer_that_errs_less():
    labels = np.arange(40) % 3
    rng = np.random.default_rng(0)
    right = 4 * np.eye(3)[labels]
    logits = np.stack([right + rng.normal(size=(40, 3)), right + 3 * rng.normal(size=(40, 3))], axis=1)
    logits[30:] = 100.0  # no label: left out
    where = np.arange(40) < 30
    shares = error_shares(jnp.asarray(logits, jnp.float32), labels, where, 0.0)
    errors = np.asarray(jax.nn.softmax(logits[:30])) - np.eye(3)[labels[:30], None]
    inverse = np.linalg.inv(np.einsum("nic,njc->ij", errors, errors)).sum(1)
    np.testing.assert_allclose(shares, np.maximum(inverse, 0) / np.maximum(inverse, 0).sum(), rtol=1e-4)
    assert shares[0] > 0.8
    twins = jnp.repeat(jnp.asarray(logits[:, :1], jnp.float32), 2, axis=1)
    np.testing.assert_allclose(error_shares(twins, labels, where, 1e-3), [0.5, 0.5], rtol=1e-3)


def test_resume_across_rounds(tmp_path, monkeypatch):
    sources = {"train": toy.source(48), "validation": None, "test": toy.source(16, "test")}
    resumes_exactly(general(), tmp_path, monkeypatch, stop=5, sources=sources)


def test_stale_copies_wait_for_the_next_exchange():
    scheme = stale()
    first, last, _ = steps(scheme, count=3)
    kernels = [
        state.params[group][role]["head"]["kernel"]
        for state, group, role in ((first, "stale", "stale"), (last, "stale", "stale"), (last, "student", "student"))
    ]
    assert (kernels[0] != kernels[1]).any() and (kernels[1] != kernels[2]).any()
    assert len(scheme.stages[0].phases[0].forward) == 1 and len(scheme.stages[1].phases[0].forward) == 2
    assert scheme.stages[0].phases[0].tx is scheme.stages[1].phases[0].tx


@pytest.mark.parametrize("gate", ["gate", "attention"])
def test_a_branch_is_the_network_that_the_baseline_trains(gate):
    x = jax.random.normal(KEY, (3, 8, 8, 1))
    whole = LinenModel(branched_cnn(5, branches=3, shared=(2,), widths=(3, 4), gate=gate))
    params, stats = jax.jit(whole.init)(KEY, x)
    run = jax.jit(lambda p, s: whole.apply(p, s, x, train=False, key=KEY, taps=("branch2/stages/stage2",))[0])
    outputs = run(params, stats)
    assert outputs.logits.shape == (3, 3, 5) and outputs.features["branch2/stages/stage2"].shape == (3, 4, 4, 3)
    if gate == "gate":
        weighted = (outputs.features["gate"][..., None] * outputs.logits).sum(1)
        np.testing.assert_allclose(outputs.features["ensemble"], weighted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(outputs.features["gate"].sum(-1), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(outputs.features["attention"].sum(-1), np.ones((3, 2)), rtol=1e-5)
        return
    single = LinenModel(branched_cnn(5, branches=1, shared=(2,), widths=(3, 4)))
    second = member(params, stats, 1)
    logits = jax.jit(lambda p, s: single.apply(p, s, x, train=False, key=KEY)[0].logits)(*second)
    np.testing.assert_allclose(logits[:, 0], outputs.logits[:, 1], rtol=1e-5, atol=1e-6)
    plain = jax.eval_shape(LinenModel(cnn(5, (2, 3, 4))).init, KEY, x)[0]
    assert sum(v.size for v in jax.tree.leaves(second[0])) == sum(v.size for v in jax.tree.leaves(plain))


def test_branched_resnet_has_the_stages_of_the_single_one():
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    params, _ = jax.eval_shape(LinenModel(branched_resnet(5, depth=14, widths=(2, 3, 4))).init, KEY, x)
    assert set(params["trunk"]) == {"stem", "stage1", "stage2"}
    assert params["branch2"]["stages"]["stage3"]["block1"]["conv1"]["conv"]["kernel"].shape == (3, 3, 4, 4)


def test_a_stack_of_networks():
    x = jax.random.normal(KEY, (3, toy.FEATURES))
    ways = [stacked(toy.net(dropout=0.5), 2, separate=True, vmapped=vmapped) for vmapped in (True, False)]
    params, stats = jax.jit(ways[0].init)(KEY, x)

    @jax.jit
    def run(params, stats, x):
        def of(model, *inputs):
            return model.apply(params, stats, *inputs, train=True, key=KEY, taps=("hidden",))

        return [(of(model, x), of(model, x, 0 * x)) for model in ways]

    vmapped, looped = run(params, stats, x)
    chex.assert_trees_all_close(vmapped, looped, rtol=1e-5, atol=1e-6)
    (shared, new), (apart, _) = vmapped
    assert shared.logits.shape == (3, 2, 3) and shared.features["hidden"].shape == (3, 2, 4)
    assert jax.tree.structure(new) == jax.tree.structure(stats)
    np.testing.assert_allclose(apart.features["hidden"][:, 0], shared.features["hidden"][:, 0], rtol=1e-6)
    assert (apart.features["hidden"][:, 1] == 0).all()
    with pytest.raises(ValueError, match="one each"):
        ways[0].init(KEY, x, x, x)
    leading = build(parts(MUTUAL), peers=3, leader=1).evaluate
    assert leading[0] == "student.logits@1" and leading[-1] == "student.logits@1+student.logits@0+student.logits@2"
    inputs = ("batch.image", "batch.other")
    assert build(parts(MUTUAL), peers=2, inputs=inputs).stages[0].phases[0].forward[0].inputs == inputs


def test_bad_options():
    frozen = {"teacher": Role(toy.net(width=8))}
    kd_only = {"kd": toy.kd(), "ce": ce("student")}
    wrong = [
        (lambda: build(parts(MUTUAL), peers=3, inputs=("batch.image",)), "3 peers read one input each"),
        (lambda: build(parts(MUTUAL), inputs=("batch.image",)), "peers is 1"),
        (lambda: build(parts(MUTUAL), peers=0), "at least two"),
        (lambda: build(parts(MUTUAL), peers=2, leader=2), "leader"),
        (lambda: build(parts({"ce": ce("studnt")})), "Did you mean 'student'"),
        (lambda: build(parts({"ce": ce("teacher")}, more=frozen)), "frozen"),
        (
            lambda: build(parts(kd_only, more={"teacher": Role(toy.net(), group="teacher")})),
            "No term teaches 'teacher'",
        ),
        (lambda: kdcl_general(parts(MUTUAL, test=toy.source())), r"there is: \['test'\]"),
        (lambda: kdcl_general(parts(MUTUAL, validation=toy.source()), rounds=11), "1 to 10 rounds"),
        (lambda: branches.build(parts(MUTUAL, train=toy.source()), {"name": layers, "kwargs": {"gat": ""}}), "'gat'"),
        (lambda: branches.build(parts(MUTUAL), {"name": layers, "kwargs": {}}, branches=1), "branches=1"),
        (lambda: branched_cnn(5, gate="gaet"), "gate is one of"),
        (lambda: branched_cnn(5, 2, gate="attention"), "at least 3 branches"),
        (lambda: branched_resnet(5, shared=3), "one is not"),
        (lambda: branched_resnet(5, depth=9), "6n \\+ 2"),
        (lambda: codistillation.in_process(parts(MUTUAL)), r"nothing reads \['stale'\]"),
        (lambda: codistillation.in_process(parts(MUTUAL), every=10), "no exchange"),
        (lambda: codistillation.in_process(parts(MUTUAL), burn_in=0.95), "no exchange"),
    ]
    for make, message in wrong:
        with pytest.raises(ValueError, match=message):
            make()


def test_every_variant_of_the_config_fits_together():
    module = config_module("online")
    for variant in (*module.VARIANTS, "peer1", "kdcl_general,tiny"):
        config = module.get_config(variant)
        images = toy.source(64)
        images = dataclasses.replace(
            images, num_classes=10, image_shape=(8, 8, 1), images=np.zeros((64, 8, 8, 1), np.uint8)
        )
        images = dataclasses.replace(images, mean=(0.5,), std=(0.5,))
        sources = dict.fromkeys(("train", "validation", "test"), images)
        named = {"student": config.student, **config.roles}
        models = {role: make_model(fields["model"], images) for role, fields in named.items()}
        jobs = plan(config, Path("nowhere"), models, sources, {})
        assert [*jobs] == ["baseline", "student"]
        check_job(jobs["student"], batch_shapes(images, config.train.batch_size), toy.mesh())
    with pytest.raises(ValueError, match="'mutual'"):
        module.get_config("mutua")
