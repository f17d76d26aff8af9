"""configs/llm.py on newer forms: a Mixtral of experts teaches a Phi-4-mini whose positions are LongRoPE's, a packed
gpt-oss a layer of its own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from packed_folders import pack  # noqa: E402
from published_folders import folder, records  # noqa: E402
from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402

LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.2], "long_factor": [1.0, 3.0], "partial_rotary_factor": 0.5}


def test_experts_teach_a_network_of_another_form(tmp_path):
    folder(tmp_path / "teacher", "mixtral", rows=384, depth=1)
    folder(
        *(tmp_path / "student", "phi3"),
        **{"rows": 320, "depth": 1, "head_dim": 8, "rope_parameters": LONG, "original_max_position_embeddings": 32},
    )
    records(tmp_path / "data.jsonl", "completion")
    config = config_module("llm").get_config("word,tiny")
    config.data.update(dict(path=str(tmp_path / "data.jsonl"), cache=str(tmp_path / "cache"), length=48))
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    for role in ("teacher", "student"):
        config[role].path = str(tmp_path / role)
    config.teacher.dtype = "bfloat16"  # read so, tensor by tensor
    kd_jax.run(config, tmp_path / "run")

    student = kd_jax.load(tmp_path / "run")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student" / "hf").eval()
    assert network.config.model_type == "phi3" and network.config.rope_parameters["rope_type"] == "longrope"
    tokens = np.random.default_rng(0).integers(5, 290, (2, 48)).astype(np.int32)  # more than 32: the long factors
    ours = student.logits({"tokens": tokens, "segments": np.ones_like(tokens)})
    with torch.no_grad():
        answered = network(torch.tensor(tokens).long()).logits.numpy()
    assert answered.std() > 0.1
    np.testing.assert_allclose(ours, answered[..., : ours.shape[-1]], atol=1e-4)
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    weights = (x.model.layers[0].self_attn.qkv_proj.weight for x in (network, before))
    assert (next(weights) != next(weights)).any()


def test_a_layer_of_a_packed_teacher_leaves_plain(tmp_path):
    pack(folder(tmp_path / "teacher", "gpt_oss", width=32, intermediate_size=32, rows=320))
    records(tmp_path / "data.jsonl", "messages")
    config = config_module("llm").get_config("word,tiny")
    config.data.update(dict(path=str(tmp_path / "data.jsonl"), cache=str(tmp_path / "cache"), length=48))
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    config.teacher.path, config.student.layers = str(tmp_path / "teacher"), 1
    config.teacher.dtype = "bfloat16"
    kd_jax.run(config, tmp_path / "run")

    student = kd_jax.load(tmp_path / "run")
    network = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "run" / "student" / "hf", attn_implementation="eager"
    ).eval()
    assert network.config.model_type == "gpt_oss" and network.config.num_hidden_layers == 1
    assert not hasattr(network.config, "quantization_config")
    tokens = np.random.default_rng(0).integers(5, 290, (2, 48)).astype(np.int32)
    ours = student.logits({"tokens": tokens, "segments": np.ones_like(tokens)})
    with torch.no_grad():
        answered = network(torch.tensor(tokens).long()).logits.numpy()
    assert answered.std() > 0.1
    np.testing.assert_allclose(ours, answered[..., : ours.shape[-1]], atol=1e-4)
