"""Tiny runs of configs/language.py and configs/reasoning.py, with the teacher and from its stored answers."""

import pytest
import scheme_checks
from text_parts import PROMPT, batch_of, begun, parts

from kd_jax.schemes import on_policy
from kd_jax.schemes.text_summary import exact_match, final, samples

CONFIG = scheme_checks.config_module("language")


@pytest.mark.parametrize(
    "method", [m if m == "on_policy" else pytest.param(m, marks=pytest.mark.slow) for m in CONFIG.METHODS]
)
def test_a_tiny_run_of_every_method(method, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(f"{i} and then there was {i * i}, and so on." for i in range(60)))
    config = CONFIG.get_config(f"{method},tiny")
    config.data.directory, config.data.validation = str(tmp_path / "text.txt"), 0.1
    config.report = method == "on_policy"
    results = scheme_checks.train.run(config, tmp_path / "run")
    assert results["models"]["student"]["last"]["test"]["perplexity"] > 1
    (section,) = [s for s in results["sections"] if s["kind"] == "texts"]
    assert [label.split(",")[0] for label in section["labels"]] == ["teacher"] * 3 + ["baseline"] * 3 + ["student"] * 3


def test_a_cached_teacher_of_tokens(tmp_path):
    """All log-probabilities teach as the teacher does, the few largest of every token nearly so."""
    (tmp_path / "text.txt").write_text("\n\n".join(f"{i} and then there was {i * i}, and so on." for i in range(60)))
    scores = {}
    for name, cache in {"none": {}, "all": {"k": 0}, "some": {"k": 4, "dtype": "float16"}}.items():
        config = CONFIG.get_config("word,tiny")
        config.data.directory, config.data.validation = str(tmp_path / "text.txt"), 0.1
        config.report, config.baseline, config.summary.name = False, False, ""
        config.teacher.workdir = str(tmp_path / "teacher")
        config.teacher.cache.update({"directory": "auto", **cache} if cache else {})
        scores[name] = scheme_checks.train.run(config, tmp_path / name)["models"]["student"]["last"]["test"]
    for metric in ("perplexity", "agreement", "kl"):
        assert scores["all"][metric] == pytest.approx(scores["none"][metric], rel=1e-4, abs=1e-5)
    assert scores["some"]["perplexity"] == pytest.approx(scores["none"]["perplexity"], rel=0.05)
    assert scores["some"]["perplexity"] != scores["none"]["perplexity"]


REASONING = scheme_checks.config_module("reasoning")


@pytest.mark.slow
@pytest.mark.parametrize("method", REASONING.METHODS)
def test_a_tiny_run_of_reasoning(method, tmp_path):
    config = REASONING.get_config(f"{method},tiny")
    config.report = False
    results = scheme_checks.train.run(config, tmp_path)
    (answers,) = [s for s in results["sections"] if s["title"] == "Answers"]
    assert [row[0] for row in answers["rows"]][-1] in ("student", "") and answers["rows"][-1][-1] == 8
    sections = [s for s in results["sections"] if s["title"] == "The teacher's answers"]
    assert bool(sections) == (method in ("generated", "filtered"))


def test_summaries_show_what_was_written():
    made, _ = parts()
    scheme = on_policy.build(made, prompt=PROMPT)
    _, state, _ = begun(scheme, batch_of())
    (shown,) = samples(made.roles, made.sources, prompt=PROMPT, count=2)(state, {})
    source = made.sources["test"]
    assert len(shown["texts"]) == 2 and shown["texts"][0].startswith(source.decode(source.images[0, :PROMPT]) + "▶")
    table, texts = exact_match(made.roles, made.sources, count=10, batch=8)(state, {})
    assert table["rows"][0][2:] == [0, 10] and len(texts["texts"]) == 3
    assert final("so 3 + 4 = 7, no 8", r"\d+") == "8" and final("none", r"\d") is None
    assert final("answer: 12.", r"answer: (\d+)") == "12"
