"""configs/llm.py where rules cut teacher and student over devices: both are read from their files to their shares."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from published_folders import folder, records  # noqa: E402
from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.models import streamed  # noqa: E402


def test_a_student_is_read_to_its_shares(tmp_path, monkeypatch):
    folder(tmp_path / "teacher", "llama", depth=1)
    folder(tmp_path / "student", "llama", depth=1, seed=1)
    records(tmp_path / "data.jsonl", "completion")
    read, original = [], streamed.read

    def noted(files, taken, pieces, shapes, reading):
        params = original(files, taken, pieces, shapes, reading)
        read.append({next(iter(files)).parent.name: params["layer0"]["mlp"]["up"]["kernel"].sharding.spec})
        return params

    monkeypatch.setattr(streamed, "read", noted)
    config = config_module("llm").get_config("word,tiny")
    config.data.update(dict(path=str(tmp_path / "data.jsonl"), cache=str(tmp_path / "cache"), length=48))
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    config.mesh.update(
        dict(axes={"data": 2, "fsdp": 2, "model": 2}, student_rules=("fsdp+tensor",), teacher_rules=("fsdp+tensor",))
    )
    for role in ("teacher", "student"):
        config[role].path = str(tmp_path / role)
    kd_jax.run(config, tmp_path / "run")
    assert [list(one) for one in read] == [["teacher"], ["student"]]
    assert all("model" in str(spec) and "fsdp" in str(spec) for one in read for spec in one.values())

    student = kd_jax.load(tmp_path / "run")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student" / "hf").eval()
    tokens = np.random.default_rng(0).integers(5, 290, (2, 48)).astype(np.int32)
    ours = student.logits({"tokens": tokens, "segments": np.ones_like(tokens)})
    with torch.no_grad():
        np.testing.assert_allclose(ours, network(torch.tensor(tokens).long()).logits, atol=1e-4)
