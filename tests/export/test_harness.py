"""A student under lm-evaluation-harness, on a task that is made here: its scores are those of its own logits."""

import re
import types

import numpy as np
import pytest
from language_folders import TEXTS, jsonl, qwen

import kd_jax
from kd_jax.data import load as data
from kd_jax.export import harness
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import llama

LENGTH, CHUNK = 24, 8


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A decoder that has learned two answers by heart."""
    place = tmp_path_factory.mktemp("run")
    folder = qwen(place / "model")
    pairs = [{"prompt": "Sky?", "completion": "blue"}, {"prompt": "Grass?", "completion": "green"}] * 8
    config = kd_jax.base()
    config.data.update(dict(name=data.CONVERSATIONS, path=str(jsonl(place / "a.jsonl", pairs)), tokenizer=str(folder)))
    config.data.update(dict(length=LENGTH, packing="padded", cache=str(place / "cache")))
    config.terms = dict(
        ce=dict(fn="losses.task.cross_entropy_loss", inputs=("student.logits",), targets=("batch.target",))
    )
    config.terms["ce"]["where"] = "batch.labelled"
    config.student.inputs = ("batch.tokens", "batch.segments")
    config.teacher.model.name, config.baseline, config.report = "", False, False
    config.train.update(dict(batch_size=8, steps=200))
    config.train.optimizer.update(dict(name="adam", learning_rate=1e-2, weight_decay=0.0))
    kd_jax.run(config, place / "work", student=llama(350, 16, 1, 2, hidden=32, tied=True, chunk=CHUNK))
    return kd_jax.load(place / "work"), folder


def by_logits(student, tokens, count):
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(tokens) - 1] = tokens[:-1]
    segments = (np.arange(LENGTH) < len(tokens) - 1).astype(np.int32)[None]
    logits = np.asarray(student.logits({"tokens": padded, "segments": segments}), np.float64)[0, : len(tokens) - 1]
    logs = (
        logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1)[:, None]
    )
    last = slice(len(tokens) - 1 - count, None)
    right = logits.argmax(-1)[last] == np.asarray(tokens[1:])[last]
    return logs[np.arange(len(tokens) - 1), tokens[1:]][last].sum(), bool(right.all())


def test_likelihoods_need_the_logits_of_a_few_tokens_at_a_time(student):
    network, _ = student
    rows = {name: np.ones((4, LENGTH), np.int32) for name in ("tokens", "segments", "targets")}
    scorer = harness.Scorer(network, LENGTH, 4)
    program = scorer.program.lower(network.params, network.stats, network.fixed, **rows).compile().as_text()
    shapes = [tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", program)]
    options = network.model.module.options
    tokens = [np.prod(s[:-1]) for s in shapes if s[-1] == options.vocabulary and s[:-1] != (options.width,)]
    assert tokens and max(tokens) <= CHUNK


def test_rows_of_all_lengths_have_the_likelihood_of_the_logits(student):
    network, _ = student
    rng = np.random.default_rng(0)
    rows = [(rng.integers(5, 300, size).tolist(), count) for size, count in ((2, 1), (9, 3), (25, 4), (3, 2), (17, 1))]
    got = harness.Scorer(network, LENGTH, 2).scores(rows)
    for (tokens, count), (value, greedy) in zip(rows, got, strict=True):
        want, right = by_logits(network, tokens, count)
        assert value == pytest.approx(want, abs=1e-4) and greedy == right
    long = rng.integers(5, 300, 40).tolist()
    assert harness.Scorer(network, LENGTH, 2).scores([(long, 3)])[0][0] == pytest.approx(
        by_logits(network, long[-25:], 3)[0], abs=1e-4
    )
    with pytest.raises(ValueError, match="25 tokens are scored at once, and rows have 24"):
        harness.Scorer(network, LENGTH, 2).scores([(long, 25)])


def test_a_task_of_the_harness_is_scored(student, tmp_path):
    pytest.importorskip("lm_eval")
    datasets = pytest.importorskip("datasets")
    network, folder = student
    rows = [{"q": "Sky?", "a": ["green", "blue"], "i": 1}, {"q": "Grass?", "a": ["green", "blue"], "i": 0}]
    task = {
        "task": "colours",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{a}}",
        "doc_to_target": "{{i}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    written = {**task, "task": "colours_written", "output_type": "generate_until", "doc_to_target": "{{a[i]}}"}
    del written["doc_to_choice"]
    written |= {"generation_kwargs": {"until": ["."], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}]}
    rolling = {**written, "task": "colours_bits", "output_type": "loglikelihood_rolling", "doc_to_target": "{{q}}"}
    rolling |= {"metric_list": [{"metric": "bits_per_byte"}], "doc_to_text": ""}
    del rolling["generation_kwargs"]
    scores = harness.evaluate(network, [task, written, rolling], bootstrap_iters=0)
    assert scores["colours"]["acc,none"] == 1.0
    assert scores["colours_written"]["exact_match,none"] == 1.0
    assert scores["colours_bits"]["bits_per_byte,none"] > 0


def test_the_model_reads_and_writes_as_the_student(student):
    pytest.importorskip("lm_eval")
    network, folder = student
    model = harness.language_model(network, folder=str(folder))
    assert model.eot_token_id == 2 and model.prefix_token_id == 2, "no token begins a text of this model"
    assert model.tok_encode("Sky?") == model.tok_encode("Sky?", add_special_tokens=False)
    assert model.apply_chat_template([{"role": "user", "content": TEXTS[0]}]).endswith("<|im_start|>assistant\n")
    asked = types.SimpleNamespace(args=("Sky?", {"until": ["ue"], "max_gen_toks": 8}))
    assert model.generate_until([asked]) == ["bl"]
    with pytest.raises(ValueError, match="Students write greedily here"):
        model.generate_until([types.SimpleNamespace(args=("Sky?", {"do_sample": True}))])


def test_without_the_package_it_says_how_to_get_it(student, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match="pip install 'kd_jax.eval.'"):
        harness.language_model(student[0])
    assert LinenModel
