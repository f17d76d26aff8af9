"""Every published method runs from its name: a few steps on digits, gradients in student and connectors only."""

import dataclasses

import jax
import numpy as np
import pytest

from kd_jax.config import PRESETS, base, knowledge
from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.data.load import load
from kd_jax.train import jobs
from kd_jax.train.scheme import make_scheme
from kd_jax.types import Role

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    config = base()
    config.data.labels, config.data.validation = 100, 0.125
    config.train.steps = 100
    splits = load(config.data)
    for name in ("student", "teacher"):  # equal widths, which FSP asks for
        small = dict(widths=(4, 8, 8), stem_width=4)
        config[name].model = dict(name="models.vision.cifar_resnet.resnet8", kwargs=small)
    models = {r: jobs.make_model(config[r].model, splits.train) for r in ("student", "teacher")}
    roles = {"student": Role(models["student"], group="student"), "teacher": Role(models["teacher"])}
    data = [splits.train.example(i) for i in range(8)]
    batch = {k: np.stack([d[k] for d in data]) for k in data[0]}
    batch |= {"labelled": batch["label"] >= 0, "index": np.arange(8, dtype=np.int32), "view": np.zeros(8, np.int32)}
    batch["labelled"][:2], batch["label"][:2] = True, 3
    return config, roles, splits.train, batch


def terms_of(names):
    """The terms of several presets as one loss, so that many are compiled at once."""
    terms = {}
    for name in names:
        for key, fields in knowledge.compose(name).items():
            terms[key if key == "ce" else f"{name}-{key}".replace("+", "-")] = fields
    return terms


FIRST = ["ab", "fsp", "ft"]  # two stages
ALONE = [["simkd"], ["dist+fitnet"]]  # a scheme of its own; several in one
TOGETHER = [n for n in PRESETS if [n] not in ALONE and n not in FIRST]


@pytest.mark.parametrize("names", [*ALONE, *(TOGETHER[i : i + 12] for i in range(0, len(TOGETHER), 12))], ids="-".join)
def test_presets(digits, names):
    config, roles, source, batch = digits
    config.scheme = knowledge.scheme_of("+".join(names))
    scheme = make_scheme(config, config.train, terms_of(names), roles, {"train": source})
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    scheme, inputs = bind(scheme, shapes)
    state = jax.jit(lambda: init_state(scheme, inputs, KEY, {}))()
    step = jax.jit(make_train_step(scheme, scheme.stages[0]))
    # Schedules start at 0 or end early: the middle of the warm-up is where every term counts.
    enter = scheme.stages[0].on_enter or (lambda state: state)
    before = after = enter(state).replace(step=jax.numpy.int32(4))
    for _ in range(2):
        after, metrics = step(after, batch, hyper_of(scheme.stages[0]), KEY)
    for name, (total, count) in metrics.items():
        assert np.isfinite(float(total)) and float(count) > 0, name
    assert not any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before.frozen, after.frozen)))
    assert set(after.params) == {"student"}
    for role, params in after.params["student"].items():
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params["student"][role], params)
        assert any(jax.tree.leaves(moved)) or not jax.tree.leaves(moved), role


@pytest.mark.parametrize("name", FIRST)
def test_terms_that_are_trained_alone_first(digits, name):
    config, roles, source, batch = digits
    terms = knowledge.compose(name)
    config.scheme = knowledge.scheme_of(name)
    scheme = make_scheme(config, config.train, terms, roles, {"train": source})
    scheme, inputs = bind(scheme, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch))
    first, task = scheme.stages
    assert (first.steps, task.steps, first.selects, task.selects) == (11, 89, False, True)  # 30 and 240 of 270
    state = jax.jit(lambda: init_state(scheme, inputs, KEY, {}))()
    after, metrics = jax.jit(make_train_step(scheme, first))(state, batch, hyper_of(first), KEY)
    assert set(metrics) >= {n for n in terms if knowledge.FIRST[name] in n} and "ce" not in metrics
    after, metrics = jax.jit(make_train_step(scheme, task))(after, batch, hyper_of(task), KEY)
    assert set(metrics) >= {"ce"} and not [n for n in metrics if n.startswith(knowledge.FIRST[name])]
    if name == "ft":  # the student learns from the paraphraser, which rests
        assert "ft" in metrics and np.isfinite(float(metrics["ft"][0]))


def test_simkd_answers_through_the_teachers_head(digits):
    config, roles, source, batch = digits
    config.scheme = knowledge.scheme_of("simkd")
    scheme = make_scheme(config, config.train, knowledge.compose("simkd"), roles, {"train": source})
    scheme, inputs = bind(scheme, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch))
    state = jax.jit(lambda: init_state(scheme, inputs, KEY, {}))()
    head = state.frozen["teacher"][0]["head"]
    state = scheme.stages[0].on_enter(state)
    state, _ = jax.jit(make_train_step(scheme, scheme.stages[0]))(state, batch, hyper_of(scheme.stages[0]), KEY)
    jax.tree.map(np.testing.assert_array_equal, state.stats["student"]["head"], head)
    params, stats = state.params["student"]["student"], state.stats["student"]
    images = scheme.prepare(batch, KEY, False)["image"]
    model = scheme.roles["student"].model
    out, _ = model.apply(params, stats, images, train=False, key=KEY, taps=("projected", "final"))
    teacher = roles["teacher"].model.apply(*state.frozen["teacher"], images, train=False, key=KEY, taps=("final",))[0]
    assert out.features["projected"].shape == teacher.features["final"].shape
    pooled = np.asarray(out.features["projected"]).mean((1, 2))
    np.testing.assert_allclose(
        out.logits, pooled @ head["kernel"] + np.asarray(head["bias"])[None], rtol=1e-4, atol=1e-5
    )


def test_memory_banks_follow_the_batch(digits):
    config, roles, source, batch = digits
    config.scheme = knowledge.scheme_of("crd")
    terms = knowledge.make_terms(knowledge.compose("crd"), 10, len(source))
    assert terms["embed"].memory.first["student"].shape == (len(source), 128)
    again = knowledge.make_terms(knowledge.compose("crd"), 10, len(source))
    jax.tree.map(np.testing.assert_array_equal, terms["embed"].memory.first, again["embed"].memory.first)
    scheme = make_scheme(config, config.train, knowledge.compose("crd"), roles, {"train": source})
    scheme, inputs = bind(scheme, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch))
    state = jax.jit(lambda: init_state(scheme, inputs, KEY, {}))()
    after, _ = jax.jit(make_train_step(scheme, scheme.stages[0]))(state, batch, hyper_of(scheme.stages[0]), KEY)
    before, now = state.extra["embed"], after.extra["embed"]
    changed = np.flatnonzero((np.asarray(before["student"]) != np.asarray(now["student"])).any(1))
    np.testing.assert_array_equal(changed, np.arange(8))
    np.testing.assert_allclose(np.linalg.norm(now["student"][:8], axis=1), 1.0, rtol=1e-5)
    assert float(now["student_constant"]) > 0
    third, _ = jax.jit(make_train_step(scheme, scheme.stages[0]))(after, batch, hyper_of(scheme.stages[0]), KEY)
    assert float(third.extra["embed"]["student_constant"]) == float(now["student_constant"])


def test_unlabelled_rows_take_the_teachers_class(digits):
    from kd_jax.losses.composed import dkd_transfer_loss
    from kd_jax.losses.response import dkd_loss

    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 4, 5)).astype(np.float32)
    labels = np.array([1, -1, 2, -1], np.int32)
    filled = np.where(labels < 0, t.argmax(-1), labels)
    np.testing.assert_allclose(dkd_transfer_loss(s, t, labels), dkd_loss(s, t, filled))


def test_presets_share_the_cross_entropy_of_the_smaller_weight():
    terms = knowledge.compose("feature+response")
    assert set(terms) == {"ce", "hint", "kd"} and terms["ce"]["weight"] == 0.1
    with pytest.raises(ValueError, match="'feature'"):
        knowledge.compose("featur")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("kd+dkd", {"kd": "kd", "dkd": "dkd"}),
        ("dist+kd", {"dist": "dist", "kd": "kd"}),  # in any order the preset of that name keeps it
        ("dist+dkd", {"kd": "dist", "dkd": "dkd"}),
        ("crd+cc", {"embed": "crd", "cc": "cc"}),
        ("cc+crd", {"embed": "cc", "crd": "crd"}),
        ("feature+fitnet", {"hint": "feature", "fitnet": "fitnet"}),
        ("rkd_angle+rkd_distance+rkd", {"rkd": "rkd", "rkd_angle": "rkd_angle", "rkd_distance": "rkd_distance"}),
        ("kd+response+kd", {"kd": "kd"}),  # one preset under two names
    ],
)
def test_presets_of_one_term_name_all_train(names, expected):
    terms = knowledge.compose(names)
    assert set(terms) == {"ce", *expected}
    for term, preset in expected.items():
        (alone,) = (fields for name, fields in PRESETS[preset]().items() if name != "ce")
        assert terms[term] == alone
    assert len(knowledge.make_terms(terms, 10, 10)) == len(terms)


def test_several_terms_of_a_preset_are_renamed_apart():
    terms = knowledge.compose("at+attention", attention={"weight": 1.0})
    assert {n: t["weight"] for n, t in terms.items() if n != "ce"} == {
        **{f"at_stage{i}": 1000.0 for i in (1, 2, 3)},
        **{f"attention_at_stage{i}": 1.0 for i in (1, 2, 3)},
    }


def test_a_preset_is_made_of_plain_values(digits):
    for name in PRESETS:
        for fields in knowledge.compose(name).values():
            assert not any(dataclasses.is_dataclass(v) or callable(v) for v in fields.values()), name
