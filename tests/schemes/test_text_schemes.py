"""Schemes on text: who writes the batch, that it is the current student, that nothing but the student learns."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import token_toy
import toy
from text_parts import PROMPT, batch_of, begun, decoder, parts, sources

from kd_jax.core.bind import bind, init_state
from kd_jax.losses.on_policy import sequence_reverse_kl_loss
from kd_jax.schemes import offline, on_policy, replay, sequence_level
from kd_jax.tasks import tokens

KEY = jax.random.key(3)


def greedy_rows(batch, run, params):
    """Whether each counted label is what the network finds most likely there."""
    logits = run.apply(params, {}, batch["tokens"], batch["segments"], train=False, key=None)[0].logits
    return np.asarray(logits.argmax(-1) == batch["label"])[np.asarray(batch["labelled"])]


@pytest.mark.parametrize("prompt", [PROMPT, 0])
def test_the_batch_is_written_by_the_student_of_this_step(prompt):
    made, _ = parts("on_policy")
    scheme = on_policy.build(made, share=1.0, warmup=0.0, prompt=prompt, temperature=0.0)
    _, state, batch = begun(scheme, batch_of())
    sample = jax.jit(scheme.stages[0].pre_update)
    sampled = sample(state, batch, KEY)
    params = state.params["student"]["student"]
    assert sampled["labelled"].any() and greedy_rows(sampled, made.roles["student"].model, params).all()
    slots = prompt or 3  # two targets are not counted, so three tokens are given
    start = np.asarray(sampled["segments"]).argmax(1)  # prompts are padded on the left
    for row in range(16):
        prompt_tokens = sampled["tokens"][row, start[row] : slots]
        np.testing.assert_array_equal(prompt_tokens, batch["tokens"][row, slots - len(prompt_tokens) : slots])
    assert not sampled["labelled"][:, : slots - 1].any() and sampled["labelled"][:, slots - 1].all()
    moved = jax.tree.map(lambda p: p + jax.random.normal(KEY, p.shape), state.params)
    other = sample(state.replace(params=moved), batch, KEY)
    assert (np.asarray(sampled["tokens"]) != np.asarray(other["tokens"])).any()
    assert greedy_rows(other, made.roles["student"].model, moved["student"]["student"]).all()


def test_samples_depend_on_the_key_alone_and_end_with_the_end():
    made, _ = parts("on_policy")
    scheme = on_policy.build(made, share=0.5, warmup=0.0, prompt=PROMPT, temperature=3.0)
    _, state, batch = begun(scheme, batch_of())
    sample = jax.jit(scheme.stages[0].pre_update)
    keys = jax.random.split(KEY, 40)
    draws = [jax.device_get(sample(state, batch, key)) for key in keys]
    chex.assert_trees_all_equal(draws[0], jax.device_get(sample(state, batch, keys[0])))
    data = [bool((f["tokens"] == batch["tokens"]).all()) for f in draws]
    assert 8 < sum(data) < 32  # half of 40, four standard deviations
    written = [f for f, same in zip(draws, data, strict=True) if not same]
    assert any((f["tokens"] != written[0]["tokens"]).any() for f in written[1:])
    ended = (written[0]["label"] == 6) & written[0]["labelled"]
    assert ended.any()
    for row, at in np.argwhere(ended):
        assert not written[0]["labelled"][row, at + 1 :].any() and not written[0]["segments"][row, at + 2 :].any()


@pytest.mark.parametrize(
    "method", ["minillm", *(pytest.param(m, marks=pytest.mark.slow) for m in ("jsd", "on_policy", "speculative"))]
)
def test_only_the_student_learns_and_its_loss_falls(method):
    made, kwargs = parts(method, steps=24)
    scheme = on_policy.build(made, **kwargs, warmup=0.0) if kwargs else offline.build(made)
    first, last, history = scheme_checks.steps(scheme, batch_of(), count=24)
    assert scheme_checks.moved(first, last) == {"student"}
    early, late = (np.mean([h["loss"] for h in part_of]) for part_of in (history[:6], history[-6:]))
    assert late < early


def test_on_policy_follows_cross_entropy_and_is_the_same_on_eight_devices():
    made, kwargs = parts("on_policy")
    scheme = on_policy.build(made, **kwargs | {"share": 1.0})
    assert [(s.steps, s.selects, set(s.phases[0].terms)) for s in scheme.stages] == [
        (4, False, {"ce"}),
        (4, True, {"kd"}),
    ]
    assert scheme.stages[0].phases[0].tx is scheme.stages[1].phases[0].tx and scheme.stages[0].pre_update is None
    _, last, _ = scheme_checks.steps(scheme, batch_of(), count=2, stage=1)
    scheme_checks.same_on_eight_devices(scheme, last, batch_of(), count=2, stage=1)


def test_minillm_hears_the_data_beside_its_samples():
    made, kwargs = parts("minillm")
    assert kwargs["sampler"] == "mixed" and kwargs["share"] == 1.0
    scheme, inputs = bind(on_policy.build(made, **kwargs, warmup=0.0), toy.shapes(batch_of()))
    assert [c.name or c.role for c in scheme.stages[0].phases[0].forward] == ["student", "teacher", "on_data"]
    _, _, history = scheme_checks.steps(scheme, batch_of(), count=1)
    batch = batch_of()
    state = init_state(scheme, inputs, scheme_checks.KEY, {})
    params = state.params["student"]["student"]
    logits = decoder().apply(params, {}, batch["tokens"], batch["segments"], train=False, key=None)[0].logits
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, jnp.maximum(batch["label"], 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(history[0]["ce"], -picked[batch["labelled"]].mean(), rtol=1e-4)


def test_the_gradient_is_that_of_the_reverse_kl_of_sequences():
    """Two counted tokens: normalisation then divides by 1, and the expectation over all sequences is exact."""
    size, rng = 3, np.random.default_rng(0)
    student = jnp.asarray(rng.normal(size=(1 + size, size)), jnp.float32)
    teacher = jnp.asarray(rng.normal(size=(1 + size, size)), jnp.float32)

    def joint(z):  # log probabilities of all pairs [size, size]
        log_p = jax.nn.log_softmax(z)
        return log_p[0][:, None] + log_p[1:]

    def exact(z):
        return jnp.sum(jnp.exp(joint(z)) * (joint(z) - joint(teacher)))

    pairs = jnp.asarray([(a, b) for a in range(size) for b in range(size)])

    def surrogate(z):
        logits = jnp.stack([jnp.broadcast_to(z[0], (size * size, size)), z[1 + pairs[:, 0]]], 1)
        theirs = jnp.stack([jnp.broadcast_to(teacher[0], (size * size, size)), teacher[1 + pairs[:, 0]]], 1)
        values = sequence_reverse_kl_loss(logits, theirs, pairs, mix=0.0)
        weights = jax.lax.stop_gradient(jnp.exp(joint(z))[pairs[:, 0], pairs[:, 1]])
        return jnp.sum(weights[:, None] * values)

    np.testing.assert_allclose(jax.grad(surrogate)(student), jax.grad(exact)(student), atol=1e-6)
    np.testing.assert_allclose(surrogate(student), exact(student), rtol=1e-5)


def test_what_is_not_counted_is_no_part_of_the_sequence():
    rng = np.random.default_rng(1)
    s, t = (jnp.asarray(rng.normal(size=(2, 5, 7)), jnp.float32) for _ in range(2))
    labels = jnp.asarray([[-1, 2, 3, 1, -1], [-1, -1, 4, -1, -1]])

    def total(s, t):
        return sequence_reverse_kl_loss(s, t, labels, mix=0.2).sum()

    garbage = jnp.where((labels >= 0)[..., None], s, 1e4)
    np.testing.assert_allclose(total(s, t), total(garbage, t), rtol=1e-5)
    grads = jax.grad(total)(garbage, t)
    assert (np.asarray(grads)[np.asarray(labels) < 0] == 0).all()
    np.testing.assert_allclose(grads[labels >= 0], jax.grad(total)(s, t)[labels >= 0], atol=1e-6)
    log_s, log_t = jax.nn.log_softmax(s)[1, 2], jax.nn.log_softmax(t)[1, 2]
    q, p = np.exp(log_s[4]), np.exp(log_t[4])
    weight = q / (0.2 * p + 0.8 * q)
    value = sequence_reverse_kl_loss(s, t, labels, mix=0.2)[1, 2]
    np.testing.assert_allclose(value, weight * jnp.sum(jnp.exp(log_s) * (log_s - log_t)), rtol=1e-5)


@pytest.mark.parametrize("choose", ["best", pytest.param("nearest", marks=pytest.mark.slow)])
def test_the_teachers_answers_become_the_data(choose):
    made, _ = parts("sequence")
    scheme = sequence_level.build(made, prompt=PROMPT, beams=3, rows=20, batch=8, choose=choose)
    bound, state, batch = begun(scheme, batch_of())
    state = bound.stages[0].on_enter(state)
    answered = jax.jit(bound.stages[-1].pre_update)(state, batch | {"index": jnp.arange(12, 28)}, KEY)
    rows = np.arange(12, 28)
    theirs = rows < 20
    np.testing.assert_array_equal(answered["tokens"][~theirs], batch["tokens"][~theirs])
    source = made.sources["train"]
    mine = jax.device_get(answered)
    for i in np.flatnonzero(theirs):
        at = mine["segments"][i].argmax()
        np.testing.assert_array_equal(mine["tokens"][i, at:PROMPT], source.images[rows[i], at:PROMPT])
        assert not mine["labelled"][i, : PROMPT - 1].any() and mine["labelled"][i, PROMPT - 1]
    if choose == "best":
        greedy = on_policy.build(made, share=1.0, warmup=0.0, prompt=PROMPT, sampler="teacher", temperature=0.0)
        greedy_texts = jax.jit(greedy.stages[0].pre_update)(state, rows_of(source, rows[theirs]), KEY)
        scores = [mean_log_probability(state, made, part_of) for part_of in (mine, greedy_texts)]
        assert (scores[0][theirs] >= scores[1] - 1e-4).all()


def rows_of(source, rows):
    batch = {"tokens": source.images[rows], "label": source.labels[rows], "segments": source.fields["segments"][rows]}
    return jax.tree.map(jnp.asarray, batch)


def mean_log_probability(state, made, batch):
    """Of the counted tokens of every row, by the teacher: what beam search with its length penalty of 1 maximises."""
    apply, inputs = made.roles["teacher"].model.apply, (batch["tokens"], batch["segments"])
    logits = apply(state.frozen["teacher"][0], {}, *inputs, train=False, key=None)[0].logits
    log_p = np.asarray(jax.nn.log_softmax(logits))
    picked = np.take_along_axis(log_p, np.maximum(batch["label"], 0)[..., None], -1)[..., 0]
    counted = np.asarray(batch["label"]) >= 0
    return (picked * counted).sum(1) / counted.sum(1)


def test_sentence_bleu():
    bleu = sequence_level.sentence_bleu
    assert bleu([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx(1.0)
    assert bleu([9], [1, 2]) == bleu([], [1]) == 0.0
    # 4 of 4 tokens, 2 + 1 of 3 + 1 pairs, 1 + 1 of 2 + 1 triples, 0 + 1 of 1 + 1; one token shorter: exp(1 - 5 / 4)
    wanted = np.exp(1 - 5 / 4) * (1 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu([1, 2, 3, 5], [1, 2, 3, 4, 5]) == pytest.approx(wanted)
    assert (
        sequence_level.best_match(
            np.array([[5, 6, 7], [1, 2, 0]]), np.array([[1, 1, 1], [1, 1, 0]], bool), np.array([-1, 1, 2])
        )
        == 1
    )


def as_configured(scheme, made):
    return dataclasses.replace(scheme, task=tokens.task(), prepare=scheme.prepare or made.prepare)


@pytest.mark.slow
def test_sequence_level_resumes_exactly(tmp_path, monkeypatch):
    made, _ = parts("sequence")
    scheme = sequence_level.build(made, prompt=PROMPT, beams=2, rows=20, batch=20)
    scheme_checks.resumes_exactly(as_configured(scheme, made), tmp_path, monkeypatch, 3, made.sources)


def test_replay_grows_with_the_held_out_loss_and_resumes_exactly(tmp_path, monkeypatch):
    made, _ = parts("distillm")
    growing = dict(start=0.6, growth=0.2, tolerance=-10.0, every=2, capacity=24, held_out=8)
    scheme = as_configured(replay.build(made, prompt=PROMPT, warmup=0.25, **growing), made)
    results = scheme_checks.resumes_exactly(scheme, tmp_path, monkeypatch, 5, made.sources)
    assert results["steps"] == 8
    settings = scheme_checks.Settings(16, 0, 2, 4, 16)
    memory = scheme_checks.last_state(scheme, made.sources, settings, tmp_path / "whole").extra["replay"]
    assert 0 < memory["written"] <= 6 * 16 and memory["written"] % 16 == 0
    assert memory["phi"] == pytest.approx(1.0)  # 0.6, and 0.2 at steps 6 and 8: nothing to compare with at step 4
    assert 0 < memory["loss"] < 3
    rows = min(int(memory["written"]), 24)
    assert (memory["label"][:rows, PROMPT - 1] >= 0).all() and (memory["label"][:rows, : PROMPT - 1] == -1).all()


def test_bad_options_are_named():
    made, _ = parts()
    with pytest.raises(ValueError, match="'student'"):
        on_policy.build(made, sampler="studnet", prompt=2)
    with pytest.raises(ValueError, match="share=0"):
        on_policy.build(made, share=0)
    with pytest.raises(ValueError, match="rows have 12 tokens"):
        on_policy.build(made, prompt=40)
    with pytest.raises(ValueError, match="'nearest'"):
        sequence_level.build(made, choose="near", prompt=2)
    images = dataclasses.replace(made, sources={"train": toy.source()})
    with pytest.raises(ValueError, match="blobs is no text"):
        on_policy.build(images)
    unwatched = dataclasses.replace(made, sources={"train": made.sources["train"], "validation": None})
    with pytest.raises(ValueError, match="data.validation must be above 0"):
        replay.build(unwatched)


def test_wrong_answers_of_the_teacher_are_left_out():
    source = sources()["train"]
    labels = source.labels[1:3]
    wanted = [source.decode(y[y >= 0]) for y in labels]
    texts = np.zeros((2, token_toy.LENGTH), np.int32)
    texts[0, :10] = labels[0][labels[0] >= 0]
    right = sequence_level.same_result(source, f"{wanted[0][-1]}$|{wanted[1][-1]}$", texts, texts >= 0, labels)
    assert not right.any()  # the first ends in padding that is decoded, as `real` says it is part of the answer
    real = np.arange(token_toy.LENGTH)[None] < np.array([[10], [0]])
    pattern = f"{wanted[0][-1]}$|{wanted[1][-1]}$"
    assert sequence_level.same_result(source, pattern, texts, real, labels).tolist() == [True, False]
