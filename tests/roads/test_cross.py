"""A teacher with another tokenizer: two folders of `transformers` in, a student that is scored in bits and served."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("jinja2")

from published_folders import folder, records  # noqa: E402
from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402


def test_a_student_learns_from_a_teacher_of_another_tokenizer(tmp_path):
    teacher = folder(tmp_path / "teacher", "llama", tokens=320, width=24)
    student = folder(tmp_path / "student", "qwen2", tokens=290)
    config = config_module("llm").get_config("cross")
    config.teacher.path, config.student.path = str(teacher), str(student)
    config.data.update(path=str(records(tmp_path / "data.jsonl", "messages")), length=48, cache=str(tmp_path / "cache"))
    config.train.update(steps=4, epochs=0.0, batch_size=8)
    config.train.optimizer.learning_rate = 1e-2
    config.teacher.train.steps, config.eval_batch_size, config.report, config.log_every = 0, 8, False, 1
    results = kd_jax.run(config, tmp_path / "run")
    scores = {name: model["last"]["test"] for name, model in results["models"].items()}
    assert results["verdict"]["metric"] == "bits_per_byte"
    for name, values in scores.items():
        # of random networks: near log2(tokens) for some two bytes
        assert 2 < values["bits_per_byte"] < 12 and values["bits_error"] > 0, name
        assert "agreement" not in values and "kl" not in values, "no token is compared with a number of the other's"
    assert scores["student"]["tokens"] != scores["teacher"]["tokens"]
    lines = (tmp_path / "run" / "student" / "metrics.jsonl").read_text().splitlines()
    losses = [record["kd"] for record in map(json.loads, lines) if record["kind"] == "train"]
    assert len(losses) == 4 and losses[-1] < losses[0]
    loaded = kd_jax.load(tmp_path / "run")
    assert isinstance(loaded.write("What is two", 8), str)
    assert (tmp_path / "run" / "student" / "hf" / "tokenizer.json").is_file()
