"""Published language models, end to end: two folders as `transformers` writes them and a file of records go in, a
folder comes out that `transformers` loads, that answers as the student does and writes the same texts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("jinja2")

from published_folders import FAMILIES, folder, records  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.models.language.published import token_count  # noqa: E402

ROOT = Path(__file__).parents[2]
LENGTH, TOKENS = 48, 300
PROMPT = "What is two"


def theirs(place):
    network, report = transformers.AutoModelForCausalLM.from_pretrained(
        place, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return network.eval()


def logits_of(network, tokens):
    with torch.no_grad():
        return network(torch.tensor(tokens).long()).logits.numpy()


def assert_served(run, source, family, rows=TOKENS):
    """The folder of a student answers, begins, ends and writes as the student that is loaded from the run."""
    place, student = run / "student" / "hf", kd_jax.load(run)
    network, tokenizer = theirs(place), transformers.AutoTokenizer.from_pretrained(place)
    tokens = np.random.default_rng(0).integers(5, 290, (2, *student.info["input"]["shape"])).astype(np.int32)
    ours = student.logits({"tokens": tokens, "segments": np.ones_like(tokens)})
    assert type(network).__name__.startswith(FAMILIES[family][0])
    assert ours.shape[-1] == token_count(place) == TOKENS and network.config.vocab_size == rows
    answered = logits_of(network, tokens)[..., :TOKENS]
    assert answered.std() > 0.1
    np.testing.assert_allclose(ours, answered, atol=1e-4)

    before = transformers.AutoTokenizer.from_pretrained(source)
    assert tokenizer.get_vocab() == before.get_vocab() and tokenizer.chat_template == before.chat_template
    assert network.generation_config.eos_token_id == FAMILIES[family][5]
    prompt = tokenizer(PROMPT, return_tensors="pt")
    assert (prompt.input_ids[0, 0] == tokenizer.bos_token_id) == bool(FAMILIES[family][2])
    written = network.generate(**prompt, max_new_tokens=10, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert student.write(PROMPT, 10) == tokenizer.decode(written, skip_special_tokens=True)
    return student


def configured(root, variant, **changes):
    config = config_module("llm").get_config(f"{variant},tiny")
    config.data.update(dict(path=str(root / "data.jsonl"), cache=str(root / "cache"), length=LENGTH))
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    config.update_from_flattened_dict(changes)
    return config


def test_the_command_on_llamas_with_heads_of_different_lengths(tmp_path):
    folder(tmp_path / "teacher", "llama", rows=384, width=24, depth=3)
    folder(tmp_path / "student", "llama", rows=320, seed=1)
    records(tmp_path / "data.jsonl", "completion")
    fields = [f"--config.{role}.path={tmp_path / role}" for role in ("teacher", "student")]
    command = [
        *(sys.executable, str(ROOT / "launch.py"), "--config=configs/llm.py", *fields),
        *(f"--config.data.path={tmp_path / 'data.jsonl'}", f"--config.data.cache={tmp_path / 'cache'}"),
        *("--config.train.steps=2", f"--workdir={tmp_path / 'run'}"),
    ]
    alone = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=alone)
    assert not done.returncode, done.stderr
    assert f"For transformers: {tmp_path / 'run' / 'student' / 'hf'}" in done.stdout
    assert_served(tmp_path / "run", tmp_path / "student", "llama")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    scores = results["models"]["student"]["last"]["test"]
    assert {"perplexity", "agreement", "kl"} <= {*scores} and results["models"]["teacher"]["last"]["test"][
        "perplexity"
    ] > 1
    assert results["config"]["data"]["length"] == 64  # as far as the positions of both reach
    assert (tmp_path / "run" / "report.html").exists()


def test_adapters_of_every_linear_layer_on_qwen2_without_a_start(tmp_path):
    folder(tmp_path / "teacher", "qwen2", rows=384, width=24)
    base = folder(tmp_path / "student", "qwen2", rows=320, seed=1)
    records(tmp_path / "data.jsonl", "completion")
    rate = {"train.optimizer.learning_rate": 0.05}
    paths = {f"{role}.path": str(tmp_path / role) for role in ("teacher", "student")}
    config = configured(tmp_path, "jsd,lora,chat,fused", **paths, **rate)
    kd_jax.run(config, tmp_path / "run")
    student = assert_served(tmp_path / "run", base, "qwen2")
    assert not student.info["preparation"]["text"]["kwargs"]["start"]["tuple"]  # no token begins a text

    adapter_config = json.loads((tmp_path / "run" / "student" / "peft" / "adapter_config.json").read_text())
    linear = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert adapter_config["target_modules"] == linear and adapter_config["base_model_name_or_path"] == str(base)
    assert_adapted(tmp_path / "run" / "student", theirs(base))

    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "student" / "hf").iterdir()}
    kd_jax.run(config, tmp_path / "run")  # finished: what is there stays, what is missing is written again
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "student" / "hf").iterdir()}
    (tmp_path / "run" / "student" / "peft" / "adapter_config.json").unlink()
    kd_jax.run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "student" / "peft" / "adapter_config.json").read_text()) == adapter_config


def assert_adapted(place, base):
    """The base with the adapters of the PEFT folder is the merged network, and differs from the base."""
    adapter_config = json.loads((place / "peft" / "adapter_config.json").read_text())
    tensors = load_file(place / "peft" / "adapter_model.safetensors")
    weights = dict(base.named_parameters())
    tokens = np.random.default_rng(1).integers(5, 290, (1, 8))
    before = logits_of(base, tokens)
    for name in {name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name}:
        a, b = (torch.tensor(tensors[f"{name}.lora_{kind}.weight"]) for kind in "AB")
        weight = weights[f"{name.removeprefix('base_model.model.')}.weight"]
        weight.data += b @ a * adapter_config["lora_alpha"] / adapter_config["r"]
    merged = logits_of(theirs(place / "hf"), tokens)[..., :TOKENS]
    np.testing.assert_allclose(logits_of(base, tokens)[..., :TOKENS], merged, atol=1e-4)
    assert np.abs(before[..., :TOKENS] - merged).max() > 1e-3


def test_adapters_on_layers_of_a_qwen3_in_one_scan(tmp_path):
    source = folder(tmp_path / "teacher", "qwen3", rows=320, depth=4)
    records(tmp_path / "data.jsonl", "messages")
    changes = {"student.layers": 2, "teacher.path": str(source), "train.optimizer.learning_rate": 0.05}
    config = configured(tmp_path, "skew_kl,lora", **changes)
    config.student.model.kwargs.module.kwargs.scan = True
    kd_jax.run(config, tmp_path / "run")
    student = assert_served(tmp_path / "run", source, "qwen3")
    assert jax.tree.leaves(student.params["layers"]["mlp"]["up"])[0].shape[0] == 2
    base, teacher = theirs(tmp_path / "run" / "student" / "base"), theirs(source)
    for i, layer in enumerate((0, 2)):
        ours, whole = (net.model.layers[n].mlp.up_proj.weight for net, n in ((base, i), (teacher, layer)))
        torch.testing.assert_close(ours, whole, rtol=0, atol=0)
    assert_adapted(tmp_path / "run" / "student", base)


def test_a_gemma_writes_answers_to_prompts_alone_and_keeps_all_rows(tmp_path):
    source = folder(tmp_path / "teacher", "gemma2", rows=320, depth=4)
    records(tmp_path / "data.jsonl", "prompt")
    changes = {"student.layers": 2, "teacher.path": str(source), "data.prompt_length": 40}
    config = configured(tmp_path, "on_policy,chat", **changes)
    config.export.kwargs.rows = "all"
    config.summary.kwargs.count = 1
    kd_jax.run(config, tmp_path / "run")
    student = assert_served(tmp_path / "run", source, "gemma2", rows=320)
    assert set(student.model.module.options.windows) == {8}  # both layers, the first and the third, had a window
    place = tmp_path / "run" / "student" / "hf"
    assert json.loads((place / "config.json").read_text())["layer_types"] == ["sliding_attention"] * 2
    after, before = (load_file(p / "model.safetensors")["model.embed_tokens.weight"] for p in (place, source))
    np.testing.assert_array_equal(after[TOKENS:], before[TOKENS:])
    assert np.abs(after[:TOKENS] - before[:TOKENS]).max() > 0
    metrics = [json.loads(line) for line in (tmp_path / "run" / "student" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("train/loss", line.get("loss", 0)) for line in metrics)


@pytest.mark.parametrize("method", ["sequence", "minillm", "distillm"])
def test_methods_that_write_texts(method, tmp_path):
    folder(tmp_path / "model", "llama", rows=320, depth=1)
    records(tmp_path / "data.jsonl", "completion")
    paths = {"teacher.path": str(tmp_path / "model"), "student.path": str(tmp_path / "model")}
    config = configured(tmp_path, method, **paths)
    config.summary.name = ""
    kd_jax.run(config, tmp_path / "run")
    assert theirs(tmp_path / "run" / "student" / "hf").config.vocab_size == TOKENS
