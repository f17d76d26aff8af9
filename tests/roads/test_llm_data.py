"""configs/llm.py on streamed data: prompts in Parquet, an evaluation file beside them, a template of one's own."""

import json

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("jinja2")
arrow = pytest.importorskip("pyarrow")

from language_folders import CHATML, jsonl  # noqa: E402
from published_folders import folder, records, seeing  # noqa: E402
from scheme_checks import config_module  # noqa: E402

import kd_jax  # noqa: E402
from kd_jax.data.text import conversations  # noqa: E402

GREETED = "<|im_start|>system\nBe brief.<|im_end|>\n" + CHATML


@pytest.mark.parametrize("method", ["on_policy", "sequence"])
def test_prompts_are_streamed_and_the_template_of_the_run_is_served(tmp_path, monkeypatch, method):
    """The student's folder has no template: that of data.template makes the prompts, and goes where it is served."""
    import pyarrow.parquet

    monkeypatch.setattr(conversations, "IN_MEMORY", 0)
    folder(tmp_path / "teacher", "qwen2", rows=320, depth=1)
    folder(tmp_path / "student", "qwen2", rows=320, depth=1, seed=1, template=False)
    lines = [json.loads(line) for line in records(tmp_path / "prompts.jsonl", "prompt").read_text().splitlines()]
    pyarrow.parquet.write_table(arrow.Table.from_pylist(lines), tmp_path / "train.parquet")
    (tmp_path / "own.jinja").write_text(GREETED)
    config = config_module("llm").get_config(f"{method},chat,tiny")
    config.data.update(
        path=str(tmp_path / "train.parquet"),
        eval_path=str(jsonl(tmp_path / "eval.jsonl.gz", lines[:6])),
        template=str(tmp_path / "own.jinja"),
        cache=str(tmp_path / "cache"),
        length=64,
        prompt_length=48,
    )
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    config.summary.kwargs.count = 1
    for role in ("teacher", "student"):
        config[role].path = str(tmp_path / role)
    kd_jax.run(config, tmp_path / "run")

    said = [json.loads(line) for line in (tmp_path / "run" / "student" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in said if line["kind"] == "train"]
    assert losses and all(loss > 0 for loss in losses), "every batch was written, though no row has an answer"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "student" / "hf")
    assert tokenizer.chat_template == GREETED
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is two"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.startswith("<|im_start|>system\nBe brief.")
    assert isinstance(kd_jax.load(tmp_path / "run").write(prompt, 4), str)


def test_models_of_the_hub_are_named_by_their_ids(tmp_path, monkeypatch):
    """Out of its local cache, as `hf download` fills it; PEFT is told the id, which means the same everywhere."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, seed in (("teacher", 0), ("student", 1)):
        cached = tmp_path / "hub" / f"models--us--{name}"
        folder(cached / "snapshots" / "abc", "llama", rows=320, depth=1, seed=seed)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("abc")
    config = config_module("llm").get_config("word,lora,tiny")
    config.data.update(path=str(records(tmp_path / "data.jsonl", "text")), cache=str(tmp_path / "cache"), length=48)
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    config.teacher.path, config.student.path = "us/teacher", "us/student"
    kd_jax.run(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "student" / "peft" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "us/student"
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student" / "hf")


def test_adapters_of_the_text_model_of_a_folder_that_sees_pictures(tmp_path):
    """Their base is written by itself, since no class loads it alone out of that folder."""
    text = folder(tmp_path / "text", "gemma3", rows=320, depth=1, layer_types=["full_attention"])
    seeing(tmp_path / "whole", text, as_on_the_hub=True)
    config = config_module("llm").get_config("word,lora,tiny")
    config.data.update(path=str(records(tmp_path / "data.jsonl", "text")), cache=str(tmp_path / "cache"), length=48)
    config.train.update(dict(steps=2))
    config.baseline, config.report, config.examples, config.eval_every = False, False, 0, 2
    config.teacher.path = config.student.path = str(tmp_path / "whole")
    kd_jax.run(config, tmp_path / "run")
    student = tmp_path / "run" / "student"
    written = json.loads((student / "peft" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(student / "base")
    for place in ("base", "hf"):
        network = transformers.AutoModelForCausalLM.from_pretrained(student / place)
        assert type(network).__name__ == "Gemma3ForCausalLM"
