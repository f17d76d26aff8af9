"""configs/llm.py with a teacher that is asked once, of which the likeliest tokens are kept."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402
from published_folders import folder, records  # noqa: E402
from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.cache import model as cached  # noqa: E402
from kd_jax.data.text import conversations  # noqa: E402
from kd_jax.models.projected import Projected  # noqa: E402


@pytest.mark.parametrize("streamed", [False, True])
def test_a_student_learns_from_the_likeliest_tokens(streamed, tmp_path, monkeypatch):
    if streamed:
        monkeypatch.setattr(conversations, "IN_MEMORY", 0)
    asked, original = [], cached.likeliest

    def noted(logits, *options):
        asked.append(isinstance(logits, Projected))
        return original(logits, *options)

    monkeypatch.setattr(cached, "likeliest", noted)
    folder(tmp_path / "teacher", "llama", depth=1)
    records(tmp_path / "data.jsonl", "completion")
    config = config_module("llm").get_config("word,tiny")
    config.data.update(dict(path=str(tmp_path / "data.jsonl"), cache=str(tmp_path / "cache"), length=48))
    config.train.update(dict(steps=3))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 3
    config.teacher.path, config.student.layers = str(tmp_path / "teacher"), 1
    config.teacher.cache.update(dict(directory=str(tmp_path / "answers"), k=8))
    kd_jax.run(config, tmp_path / "run")
    assert asked[-1], "the logits that were written were not built"

    student = kd_jax.load(tmp_path / "run")
    assert isinstance(student.predict("alpha"), str)
    tokens = np.random.default_rng(0).integers(5, 290, (2, 48)).astype(np.int32)
    assert np.isfinite(student.logits({"tokens": tokens, "segments": np.ones_like(tokens)})).all()
