"""Queues in place of classes, and in place of CRD's bank: what they hold, what is drawn, and the loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.config import compose
from kd_jax.losses import queues, representation
from kd_jax.losses.composed import contrastive_memory

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(2, 4, 3)).astype(np.float32)
LABELS = np.array([0, 1, 1, -1], np.int32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def context(labels=LABELS, step=0):
    return {"batch": {"label": jnp.asarray(labels)}, "step": jnp.int32(step)}


def contrast(examples=100, **options):
    return queues.contrastive_queue(examples, **{"rows": 6, "width": 3, "negatives": 50, **options})


def bytes_of(memory):
    return sum(np.asarray(x).nbytes for x in jax.tree.leaves(memory.first))


def test_the_newest_rows_are_in_front():
    memory = queues.similarity_queue(100, width=3, rows=6)
    queue = memory.update(memory.first, (S, T), context())
    np.testing.assert_allclose(queue["queue"], np.concatenate([unit(T), np.zeros((2, 3))]), rtol=1e-6)
    queue = memory.update(queue, (T, S), context())
    np.testing.assert_allclose(queue["queue"], np.concatenate([unit(S), unit(T[:2])]), rtol=1e-6)
    value = queues.queued_similarity_loss(S, T, memory=queue, temperature=0.2)
    expected = representation.queue_similarity_loss(S, T, np.concatenate([T, S[:2]]), temperature=0.2)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_contrast_is_crd_with_rows_of_other_classes():
    memory = contrast(negatives=5)
    state = memory.update(memory.first, (S, T), context())
    assert state["label"].tolist() == [0, 1, 1, -1, -1, -1]
    np.testing.assert_allclose(state["teacher"][:4], unit(T), rtol=1e-6)
    np.testing.assert_allclose(state["student"][:4], unit(S), rtol=1e-6)
    s, t = T + 0.3, S - 0.2
    options = dict(memory=state, labels=LABELS, step=3, negatives=5, temperature=0.5)
    drawn = queues.against_queue(s, t, state, jnp.asarray(LABELS), 3, 5, 0.5)
    value = queues.contrastive_queue_loss(s, t, **options)
    total = np.zeros(4)
    for side, anchor, other in (("student", s, t), ("teacher", t, s)):
        bank = np.concatenate([unit(other), state["teacher" if side == "student" else "student"]])
        z = float(drawn["constants"][f"{side}_constant"])
        share = 5 / 10
        for i in range(4):
            p = np.exp(unit(anchor)[i] @ bank[np.r_[i, drawn["negatives"][i]]].T / 0.5) / z
            total[i] += -np.log(p[0] / (p[0] + share + 1e-7)) - np.log(share / (p[1:] + share + 1e-7)).sum()
    np.testing.assert_allclose(value, total, rtol=1e-4)
    gradient = jax.grad(lambda t: queues.contrastive_queue_loss(s, t, **options).sum())(jnp.asarray(t))
    assert np.any(gradient)  # as an anchor; as a positive it is detached


def test_negatives_are_of_other_classes_and_all_of_them_are_drawn():
    state = {**contrast().first, "label": jnp.asarray([2, 0, 1, 1, -1, 0], jnp.int32)}
    partners = {i: set() for i in range(4)}
    for step in range(4):
        drawn = queues.against_queue(S, T, state, jnp.asarray(LABELS), step, 50, 0.07)
        for i in range(4):
            partners[i] |= set(np.asarray(drawn["negatives"][i] - 4).tolist())
    assert partners == {0: {0, 2, 3, 4}, 1: {0, 1, 4, 5}, 2: {0, 1, 4, 5}, 3: {0, 1, 2, 3, 4, 5}}


def test_the_constants_are_those_of_the_first_batch_after_the_queue_is_full():
    memory = contrast()
    states = [memory.first]
    for step, pair in enumerate(((S, T), (T, S), (S + T, S), (T, S - T))):
        states.append(memory.update(states[-1], pair, context(step=step)))
    for side in ("student", "teacher"):
        assert [float(state[f"{side}_constant"]) > 0 for state in states] == [False, False, False, True, True]
        assert states[4][f"{side}_constant"] == states[3][f"{side}_constant"]


def test_memory_does_not_grow_with_the_examples():
    few, many = (bytes_of(contrast(examples, rows=512, width=128)) for examples in (1_000, 1_281_167))
    assert few == many == 4 * (2 * 512 * 128 + 512 + 3)
    banks = [bytes_of(contrastive_memory(examples, width=128)) for examples in (1_000, 2_000)]
    assert banks[1] - banks[0] == 1_000 * 4 * (2 * 128 + 3)


def test_masked_pairs_take_no_part():
    memory = contrast()
    state = memory.update(memory.first, (S, T), context())
    where = np.array([True, False, True, True])
    options = dict(memory=state, labels=LABELS, step=1, negatives=5)
    clean = queues.contrastive_queue_loss(S, T, where=where, **options)
    dirty = [x.copy() for x in (S, T)]
    for x in dirty:
        x[1] = np.nan
    np.testing.assert_array_equal(queues.contrastive_queue_loss(*dirty, where=where, **options), clean)
    assert clean[1] == 0


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: queues.similarity_queue(64, width=3, rows=64), "64 rows is no smaller than the 64 training examples"),
        (lambda: contrast(examples=6), "6 rows is no smaller than the 6 training examples"),
        (lambda: queues.pushed(jnp.zeros((3, 3)), S), "a queue of 3 rows is smaller than a batch of 4"),
        (lambda: queues.pushed(jnp.zeros((6, 2)), S), r"a queue \(6, 2\) takes rows of width 2, these are \(4, 3\)"),
        (
            lambda: queues.contrastive_queue_loss(S, T[:3], memory=contrast().first, labels=LABELS, step=0),
            r"got student \(4, 3\) and teacher \(3, 3\)",
        ),
    ],
)
def test_queues_that_do_not_fit(do, message):
    with pytest.raises(ValueError, match=message):
        do()


def test_the_preset_takes_a_queue():
    plain, queue = compose("crd")["embed"], compose("crd", crd={"queue": 256})["embed"]
    changed = {name for name in plain if plain[name] != queue[name]}
    assert changed == {"fn", "options", "memory"}
    assert queue["memory"]["kwargs"] == {"rows": 256, "negatives": 16384, "temperature": 0.07}
