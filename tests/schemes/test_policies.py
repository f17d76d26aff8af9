"""Policies: PPO of the teacher and distillation of its student, on a corridor whose best return is known: 0.8."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corridor import ENVIRONMENT, MIRRORED, SPLITS
from scheme_checks import config_module

import kd_jax
from kd_jax.data.environments import episodes, of_gymnax
from kd_jax.data.several_environments import task_of, together
from kd_jax.schemes.episodes import FRAMES, film, recorded
from kd_jax.schemes.experience import advantages
from kd_jax.system.signals import Signals, Stopped
from kd_jax.tasks import control

BEST = 1 - 0.1 * 2  # three steps to the right from cell 1


def corridor_config(variant: str = "dagger"):
    config = config_module("policy").get_config(f"{variant},tiny")
    config.data.name = "corridor:load"
    config.teacher.model.kwargs.widths, config.student.model.kwargs.widths = (16,), (2,)
    config.teacher.train.steps, config.train.steps, config.eval_every = 60, 60, 20
    config.teacher.train.optimizer.learning_rate = config.train.optimizer.learning_rate = 0.03
    config.teacher.scheme.kwargs.update(dict(environments=8, length=16))
    config.teacher.train.batch_size = 32
    config.baseline = config.report = False
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    return kd_jax.run(corridor_config(), folder), folder


def test_the_teacher_learns_and_its_student_does_what_it_does(finished):
    results, folder = finished
    for name in ("teacher", "student"):
        scores = results["models"][name]["last"]["test"]
        assert scores["return"] == pytest.approx(BEST), name
        assert scores["length"] == pytest.approx(3) and scores["return_error"] == pytest.approx(0, abs=1e-6)
    assert results["models"]["student"]["last"]["test"]["agreement"] == 1
    student = kd_jax.load(folder)
    np.testing.assert_array_equal(student.predict(np.eye(5, dtype=np.float32)[:4]), 1)
    assert student.info["scores"]["test"]["student"]["return"] == pytest.approx(BEST)


def test_a_run_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    _, whole = finished
    config = corridor_config()
    config.teacher.workdir = str(whole / "teacher")
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "stop_at", lambda self, step: step == 30)
        with pytest.raises(Stopped):
            kd_jax.run(config, tmp_path)
    kd_jax.run(config, tmp_path)
    ours, theirs = ((folder / "student" / "metrics.jsonl").read_text() for folder in (tmp_path, whole))
    assert ours == theirs


def test_ppo_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    _, whole = finished
    with monkeypatch.context() as patch:
        patch.setattr(Signals, "stop_at", lambda self, step: step == 30)
        with pytest.raises(Stopped):
            kd_jax.run(corridor_config(), tmp_path)
    kd_jax.run(corridor_config(), tmp_path)
    ours, theirs = ((folder / "teacher" / "metrics.jsonl").read_text() for folder in (tmp_path, whole))
    assert ours == theirs


@pytest.mark.parametrize("variant", ["offline", "sharp", "student", "value"])
def test_every_way_to_collect_states_teaches(finished, variant, tmp_path):
    config = corridor_config(variant)
    config.teacher.workdir = str(finished[1] / "teacher")
    results = kd_jax.run(config, tmp_path)
    scores = results["models"]["student"]["last"]["test"]
    assert scores["return"] == pytest.approx(BEST)
    assert ("value_distance" in scores) == (variant == "value")
    assert scores.get("value_distance", 0.0) < 0.5  # values of the states lie between 0 and 1


def test_who_learns_alone_learns_by_ppo_too(finished, tmp_path):
    config = corridor_config()
    config.teacher.workdir, config.baseline = str(finished[1] / "teacher"), True
    results = kd_jax.run(config, tmp_path)
    assert results["models"]["baseline"]["last"]["test"]["return"] == pytest.approx(BEST)
    lines = [json.loads(line) for line in (tmp_path / "baseline" / "metrics.jsonl").read_text().splitlines()]
    assert any("ppo" in line for line in lines)


def test_episodes_are_those_of_their_seeds_and_end_where_they_end():
    always = jnp.array([0, 1, 1])

    def choose(observations, key):
        del key
        return always

    returns, lengths, _ = episodes(ENVIRONMENT, jax.vmap(jax.random.key)(jnp.arange(3)), choose)
    np.testing.assert_allclose(returns, [-1.2, BEST, BEST], rtol=1e-6)
    np.testing.assert_array_equal(lengths, [12, 3, 3])


def test_the_film_is_of_the_episode_that_is_scored():
    def to_the_right(state, role, observations):
        return jnp.broadcast_to(jnp.array([0.0, 1.0]), (len(observations), 2))

    observations, length, total = recorded(ENVIRONMENT, None, "student", to_the_right, seed=3)
    assert int(length) == 3 and float(total) == pytest.approx(BEST)
    np.testing.assert_array_equal(observations[:3].argmax(1), [1, 2, 3])
    drawn = ENVIRONMENT._replace(draw=lambda place: np.full((2, 2, 3), 255 * place[0], np.uint8))
    (strip,) = film(drawn, to_the_right, ("student",), 3)(None, {})
    assert strip["lead"] == "corridor from seed 3: 3 steps, return 0.8." and len(strip["images"]) == FRAMES


def test_chance_is_the_random_policys_return():
    labels = SPLITS.test.labels
    assert -1.2 <= labels.mean() < BEST and labels.max() == pytest.approx(BEST)
    assert control.task(SPLITS.test).chance(labels) == pytest.approx(labels.mean())
    seeds = [set(source.fields["seed"].tolist()) for source in SPLITS]
    assert not (seeds[0] & seeds[1] or seeds[0] & seeds[2] or seeds[1] & seeds[2])


def test_advantages_are_sums_of_temporal_differences_within_an_episode():
    reward, done = np.array([[1.0], [2.0], [4.0]]), np.array([[False], [True], [False]])
    value, last, discount, trace = np.array([[0.5], [0.25], [-1.0]]), np.array([3.0]), 0.5, 0.8
    deltas = [1 + 0.5 * 0.25 - 0.5, 2 - 0.25, 4 + 0.5 * 3 + 1]
    wanted = [deltas[0] + 0.4 * deltas[1], deltas[1], deltas[2]]
    ours = advantages(*map(jnp.float32, (reward, done, value, last)), discount, trace)
    np.testing.assert_allclose(ours[:, 0], wanted, rtol=1e-6)


def test_ppo_loss_against_numbers_by_hand():
    logits, action = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]])), jnp.array([1, 0])
    log_prob, advantage = jnp.log(jnp.array([0.5, 0.5])), jnp.array([2.0, -1.0])
    target = jnp.array([1.0, 2.0])
    outputs = {"policy": logits, "value": jnp.array([0.0, 4.0])}
    entropy = [-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), np.log(2)]
    wanted = [-1.2 * 2 + 0.5 * 1 - 0.01 * entropy[0], 1 + 0.5 * 4 - 0.01 * entropy[1]]
    np.testing.assert_allclose(control.ppo_loss(outputs, action, advantage, log_prob, target), wanted, rtol=1e-6)
    without = control.ppo_loss(logits, action, advantage, log_prob, target)
    np.testing.assert_allclose(without, [w - v for w, v in zip(wanted, (0.5, 2.0), strict=True)], rtol=1e-6)


def test_one_student_learns_two_corridors_from_a_teacher_of_each(tmp_path):
    config = corridor_config("two_tasks")
    config.data.name = "corridor:load_both"
    for teacher, name in ((config.teacher, "load_first"), (config.teachers.cartpole, "load_second")):
        teacher.data.name = f"corridor:{name}"
        teacher.train.steps, teacher.train.batch_size = 60, 32
        teacher.train.optimizer.learning_rate = 0.03
        teacher.scheme.kwargs.update(dict(environments=8, length=16))
    config.student.model.kwargs.widths, config.report = (8,), True
    results = kd_jax.run(config, tmp_path)
    scores = results["models"]["student"]["last"]["test"]
    assert scores["return_by_task"] == pytest.approx([BEST, BEST])
    assert results["models"]["teacher"]["last"]["test"]["return_by_task"] == [pytest.approx(BEST), None]
    (table,) = [s for s in results["sections"] if s["title"] == "By environment"]
    assert [row[0] for row in table["rows"]] == ["corridor", "mirrored"]


def test_environments_together_say_which_is_at_hand():
    environment = together([ENVIRONMENT, MIRRORED])
    states, observations = jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), 32))
    assert environment.shape == observations.shape[1:] == (7,) and environment.actions == MIRRORED.actions
    numbers = task_of(observations, environment)
    assert {0, 1} == {*numbers.tolist()}
    np.testing.assert_array_equal(
        observations[:, 4], 0
    )  # of the shorter one, filled up; the longer one starts in cell 1
    actions = jnp.where(numbers == 0, 1, 0)  # to the right in both
    keys = jax.random.split(jax.random.key(1), 32)
    _, after, reward, done = jax.vmap(environment.step)(keys, states, actions)
    np.testing.assert_array_equal(after[:, :5].argmax(1), 2)
    np.testing.assert_allclose(reward, -0.1)
    assert not done.any()
    np.testing.assert_array_equal(task_of(after, environment), numbers)


@pytest.mark.parametrize("name", ["Acrobot-v1", "CartPole-v1", "Breakout-MinAtar"])
def test_gymnax_is_read_and_drawn(name):
    pytest.importorskip("gymnax")
    environment = of_gymnax(name)
    state, observations = environment.reset(jax.random.key(0))
    _, observations, reward, done = environment.step(jax.random.key(1), state, jnp.int32(0))
    assert (
        observations.shape == environment.shape
        and observations.dtype == reward.dtype == jnp.float32
        and done.dtype == bool
    )
    picture = environment.draw(np.asarray(observations))
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3 and len(np.unique(picture)) > 1
