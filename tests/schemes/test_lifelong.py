"""Streams of tasks: which classes are told apart, what is kept between tasks, who learns when, exact resume."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.core.bind import bind
from kd_jax.data import task_streams
from kd_jax.data.batches import batch_shapes
from kd_jax.data.load import load
from kd_jax.data.source import Source, Splits
from kd_jax.losses import lifelong as losses
from kd_jax.models.adapters import LinenModel
from kd_jax.models.mlp import mlp
from kd_jax.resolve import call
from kd_jax.schemes import exemplars, lifelong, lifelong_summary
from kd_jax.train.jobs import make_model, plan
from kd_jax.types import Role, Term

CLASSES, TASKS = 6, 3


def blobs(n: int, split: str) -> Source:
    labels = np.arange(n, dtype=np.int32) % CLASSES
    centres = np.random.default_rng(1).normal(size=(CLASSES, 4)) * 2
    images = (centres[labels] + np.random.default_rng(n).normal(size=(n, 4))).astype(np.float32)
    return Source("blobs", split, CLASSES, tuple("abcdef"), (0.0,) * 4, (1.0,) * 4, (4,), labels, images)


SPLITS = Splits(blobs(96, "train"), blobs(24, "validation"), blobs(30, "test"))
SOURCES = SPLITS._asdict() | task_streams.classes(SPLITS, TASKS)
BATCH = {
    "image": jnp.asarray(SOURCES["task1"].images[:16]),
    "label": jnp.asarray(SOURCES["task1"].labels[:16]),
    "labelled": jnp.ones(16, bool),
    "index": jnp.arange(16),
    "view": jnp.zeros(16, jnp.int32),
}


def labels(network, label="batch.label", where="batch.labelled", rivals="extra.rivals"):
    fn, options = losses.rival_cross_entropy_loss, {"rivals": rivals}
    return Term(fn, (f"{network}.logits",), (label,), options=options, where=where)


def answers(network, teacher, groups="extra.old", where=None):
    fn, options = losses.grouped_kd_loss, {"groups": groups}
    return Term(fn, (f"{network}.logits",), (f"{teacher}.logits",), 1.0, {"temperature": 2.0}, options, where)


FINETUNE = {"ce": labels("student")}
LWF = {**FINETUNE, "lwf": answers("student", "previous")}
EXEMPLARS = {
    **LWF,
    "replay": labels("replay", "extra.replay.label", "extra.replay.held"),
    "recall": answers("replay", "recalled", where="extra.replay.held"),
}
EXPERT = {
    "expert_ce": labels("expert", rivals="extra.mates"),
    "expert_kd": answers("student", "expert", "extra.current"),
}
KEEP = {"memory": 2, "replay": 5}


def build(terms, steps=12, **options):
    roles = {"student": Role(LinenModel(mlp(CLASSES, (8,))), group="student")}
    return lifelong.build(toy.parts(roles, terms, steps, **SOURCES), **options)


def entered(scheme, stage):
    """The state after the first step of a stage that is entered straight from the initial state."""
    return scheme_checks.steps(scheme, BATCH, count=1, stage=stage)


def test_exemplars_are_learned_with_and_resume_is_exact(tmp_path, monkeypatch):
    scheme = build(EXEMPLARS, **KEEP)
    assert [s.name for s in scheme.stages] == [s.data for s in scheme.stages] == ["task0", "task1", "task2"]
    assert scheme.stages[1].phases is scheme.stages[2].phases and scheme.stages[0].post_update is None
    assert list(scheme.stages[0].phases[0].terms) == ["ce"]
    first, last, history = scheme_checks.steps(scheme, BATCH, count=4, stage=1)
    assert scheme_checks.moved(first, last) == {"student"}
    assert history[-1]["loss"] < history[0]["loss"]
    scheme_checks.same_on_eight_devices(scheme, last, BATCH, count=4, stage=1)
    results = scheme_checks.resumes_exactly(scheme, tmp_path, monkeypatch, 8, SOURCES)  # at the second boundary
    a = lifelong_summary.matrix(results)
    assert a.shape == (TASKS, TASKS) and not np.triu(a, 1).any() and a[0, 0] > 0.5
    assert [stage["step"] for stage in results["stages"]] == [4, 8, 12]
    table, numbers, lines = results["sections"]
    assert table["columns"][1:3] == ["task 0 (0, 1)", "task 1 (2, 3)"] and len(table["rows"]) == TASKS
    assert numbers["rows"][-1] == ["forward transfer", "not defined: a class that has not been seen is no answer"]
    assert len(lines["lines"]["student"]) == TASKS


def test_what_is_kept_when_a_task_ends():
    scheme = build(EXEMPLARS, **KEEP)
    first, last, _ = entered(scheme, 1)
    student, previous = first.params["student"]["student"], first.params["previous"]["previous"]
    jax.tree.map(np.testing.assert_array_equal, previous, student)
    memory = first.extra["memory"]
    np.testing.assert_array_equal(memory["label"], [0, 0, 1, 1, -1, -1, -1, -1])
    stored = {tuple(row) for row in memory["image"][:4]}
    of_task = {tuple(row) for row in SOURCES["task0"].images}
    assert len(stored) == 4 and stored <= of_task and not memory["image"][4:].any()
    for state in (first, last):
        replay = state.extra["replay"]
        assert replay["held"].sum() == 4 and sorted(replay["label"][replay["held"]]) == [0, 0, 1, 1]
    second = entered(scheme, 2)[0].extra["memory"]["label"]
    np.testing.assert_array_equal(second, [-1, -1, -1, -1, 2, 2, 3, 3])
    by_chance = entered(build(EXEMPLARS, choose="random", **KEEP), 1)[0].extra["memory"]
    assert {tuple(row) for row in by_chance["image"][:4]} <= of_task
    assert (by_chance["image"][:4] != memory["image"][:4]).any()


def test_the_optimizer_starts_anew_with_every_task():
    scheme = build(FINETUNE)
    state = entered(scheme, 0)[1]
    used = jax.tree.leaves(state.opt)
    assert any(np.any(x) for x in used)
    fresh = scheme.stages[1].on_enter(jax.tree.map(jnp.asarray, state))
    assert not any(np.any(x) for x in jax.tree.leaves(fresh.opt))
    assert scheme.stages[0].phases is scheme.stages[1].phases


def test_an_expert_learns_each_task_first():
    scheme = build({**EXEMPLARS, **EXPERT}, expert_steps=3, scenario="task", **KEEP)
    assert [(s.name, s.data, s.steps) for s in scheme.stages[:4]] == [
        ("expert0", "task0", 3),
        ("task0", "task0", 4),
        ("expert1", "task1", 3),
        ("task1", "task1", 4),
    ]
    first, last, history = scheme_checks.steps(scheme, BATCH, count=4, stage=2)
    assert scheme_checks.moved(first, last) == {"expert"} and history[-1]["loss"] < history[0]["loss"]
    first, last, history = scheme_checks.steps(scheme, BATCH, count=4, stage=3)
    assert scheme_checks.moved(first, last) == {"student"} and history[-1]["loss"] < history[0]["loss"]
    assert scheme.evaluate == ("student", "initial") and scheme.roles["initial"].group is None
    assert list(scheme.stages[1].phases[0].terms) == ["ce", "expert_kd"]
    assert scheme.stages[0].phases is not scheme.stages[2].phases is scheme.stages[4].phases


def test_which_classes_are_told_apart():
    classes = [np.array([0, 3]), np.array([1, 2])]
    one = lifelong.class_masks("class", classes, 0, 4)
    assert one["rivals"].tolist() == [[True, False, False, True]] * 4 and not one["old"].any()
    two = lifelong.class_masks("class", classes, 1, 4)
    assert two["rivals"].all() and two["old"].tolist() == [[True, False, False, True]]
    assert two["current"].tolist() == [[False, True, True, False]]
    by_task = lifelong.class_masks("task", classes, 1, 4)
    assert by_task["rivals"].tolist() == by_task["mates"].tolist() == two["mates"].tolist()
    assert by_task["rivals"][2].tolist() == [False, True, True, False]
    assert by_task["old"].tolist() == [[True, False, False, True], [False] * 4]
    domain = lifelong.class_masks("domain", [np.arange(4)] * 2, 1, 4)
    assert domain["rivals"].all() and domain["old"].tolist() == [[True] * 4]


def test_evaluation_answers_with_rivals_only():
    scheme = build(FINETUNE, scenario="task")
    model, rivals = scheme.roles["student"].model, scheme.extra["rivals"]
    variables = model.init(jax.random.key(0), BATCH["image"], BATCH["label"], rivals)

    def logits(*inputs):
        return model.apply(*variables, *inputs, train=False, key=jax.random.key(0))[0].logits

    free, bound = logits(BATCH["image"]), logits(BATCH["image"], BATCH["label"], rivals)
    allowed = rivals[np.asarray(BATCH["label"])]
    np.testing.assert_array_equal(bound, np.where(allowed, free, lifelong.NEVER))


def test_joint_learns_from_all_tasks_so_far():
    scheme = build(FINETUNE, joint=True)
    assert [stage.data for stage in scheme.stages] == ["upto0", "upto1", "upto2"]


@pytest.mark.parametrize(
    "terms, options, message",
    [
        (FINETUNE, {"scenario": "classes"}, "not 'classes'. Did you mean 'class'"),
        (FINETUNE, {"steps": 2}, "3 tasks .* cannot share 2 steps"),
        (EXEMPLARS, {"memory": 2, "choose": "herdin"}, "not 'herdin'. Did you mean 'herding'"),
        (EXEMPLARS, {}, "memory and replay >= 1"),
        (EXEMPLARS, {"memory": 17}, "at least 17 of each class"),
        ({**FINETUNE, "kd": EXPERT["expert_kd"]}, {}, "'expert.logits' as its first input"),
        ({"lwf": LWF["lwf"]}, {}, "train the student from the first task on"),
    ],
)
def test_bad_options(terms, options, message):
    with pytest.raises(ValueError, match=message):
        build(terms, **options)


def test_a_task_needs_labels():
    hidden = SOURCES["task1"].with_labels(np.full(32, -1))
    with pytest.raises(ValueError, match="needs all its labels"):
        lifelong.build(toy.parts(toy.roles(), FINETUNE, 9, **SOURCES | {"task1": hidden}))


def test_herding_follows_the_mean():
    features = np.random.default_rng(0).normal(size=(20, 3))
    rows = exemplars.herd(features, 6)
    assert len(set(rows.tolist())) == 6
    chosen: list[int] = []
    for row in rows:
        gaps = {
            i: np.linalg.norm(features.mean(0) - features[[*chosen, i]].mean(0)) for i in range(20) if i not in chosen
        }
        assert row == min(gaps, key=gaps.get)
        chosen.append(row)


def test_replay_draws_held_rows_without_replacement():
    memory = {"image": np.arange(8.0)[:, None], "label": np.array([3, 3, 1, 1, 2, -1, -1, -1], np.int32)}
    draws = [exemplars.draw(memory, step, 3) for step in (0, 0, 1, 2)]
    numbers = [d["image"][:, 0].tolist() for d in draws]
    assert numbers[0] == numbers[1] and len({tuple(s) for s in numbers}) > 1
    assert all(len(set(s)) == 3 and max(s) < 5 and d["held"].all() for s, d in zip(numbers, draws, strict=True))
    assert exemplars.draw(memory, 0, 7)["held"].sum() == 5


def test_measures():
    a = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.9, 1.0]])
    scores = lifelong_summary.judge(a, np.array([0.1, 0.1, 0.2]))
    expected = {
        "average accuracy": 0.8,
        "average incremental accuracy": (0.9 + 0.7 + 0.8) / 3,
        "forgetting": (0.4 - 0.1) / 2,
        "backward transfer": (-0.4 + 0.1) / 2,
        "forward transfer": (0.1 + 0.1) / 2,
    }
    assert scores == pytest.approx(expected)


def test_streams_of_classes_and_domains():
    stream = task_streams.classes(SPLITS, 4, order_seed=3)
    groups = [sorted(set(stream[f"task{k}"].labels.tolist())) for k in range(4)]
    assert sorted(map(len, groups)) == [1, 1, 2, 2] and sorted(sum(groups, [])) == list(range(CLASSES))
    assert len(stream["upto3"]) == 96 and set(stream["upto1"].labels.tolist()) == set(groups[0] + groups[1])
    assert sum(len(stream[f"test_task{k}"]) for k in range(4)) == 30
    assert groups != [sorted(set(task_streams.classes(SPLITS, 4)[f"task{k}"].labels.tolist())) for k in range(4)]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (n, 2, 4, 1), dtype=np.uint8) for n in (6, 5)]
    train, test = (
        Source("s", "train", 3, tuple("abc"), (0.5,), (1.0,), (2, 4, 1), np.arange(len(x), dtype=np.int32) % 3, x)
        for x in images
    )
    moved = task_streams.domains(Splits(train, None, test), 2)
    np.testing.assert_array_equal(moved["task1"].images, images[0][:, :, [2, 3, 0, 1]])
    np.testing.assert_array_equal(moved["test"].images[5:], moved["test_task1"].images)
    assert "validation" not in moved and len(moved["upto1"]) == 12
    mixed = task_streams.domains(Splits(train, None, test), 3, "permute")
    np.testing.assert_array_equal(mixed["task0"].images, images[0])
    np.testing.assert_array_equal(np.sort(mixed["task2"].images, axis=None), np.sort(images[0], axis=None))
    assert (mixed["task1"].images != mixed["task2"].images).any()
    for make, message in (
        (lambda: task_streams.classes(SPLITS, 7), "2 to 6 tasks, not 7"),
        (lambda: task_streams.domains(SPLITS), "views of images in memory"),
        (lambda: task_streams.domains(Splits(train, None, test), kind="shifts"), "Did you mean 'shift'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_config(tmp_path):
    results = scheme_checks.run_tiny("lifelong", "lwf,domain", tmp_path, baseline=True)
    record = json.loads((tmp_path / "student" / "done.json").read_text())
    assert lifelong_summary.matrix(record).shape == (5, 5)
    assert "baseline" not in results["models"]


def test_every_method_of_the_config_fits_together():
    module = scheme_checks.config_module("lifelong")
    splits = load(module.get_config().data)
    for method in module.METHODS:
        config = module.get_config(f"task,{method}")
        sources = splits._asdict() | call(config.splits.name, splits, **config.splits.kwargs)
        models = {"student": make_model(config.student.model, splits.train)}
        jobs = plan(config, Path("nowhere"), models, sources, {})
        assert set(jobs) == {"student"}
        bind(jobs["student"].scheme, batch_shapes(splits.train, config.train.batch_size))
