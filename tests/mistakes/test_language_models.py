"""Folders of published language models that do not fit, or are none: configs/llm.py says so before any training."""

import json

import jax
import jax.numpy as jnp
import pytest
from language_folders import TALKS, jsonl, llama, qwen, trained
from mistakes import Mistake, check, each
from scheme_checks import config_module

import kd_jax
from kd_jax.models.language import decoder_families
from kd_jax.models.language.pretrained_decoders import save

PAIRS = [{"prompt": f"{i}+1=", "completion": str(i + 1)} for i in range(20)]


def model(place, tokenizer=qwen, rows=0, depth=2, **changes):
    """A random decoder with its tokenizer, as a folder; `changes` are of its config.json."""
    tokenizer(place)
    count = trained(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]).get_vocab_size()
    module = decoder_families.qwen2(rows or count, width=8, depth=depth, heads=2, max_length=64)
    params = jax.jit(lambda key: module.init(key, jnp.zeros((1, 2), jnp.int32))["params"])(jax.random.key(0))
    save(place, module, params)
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return place


def road(variant="word", lines=PAIRS, teacher=None, student=None, then=None, **fields):
    """Runs configs/llm.py on two folders, made as told, and these lines."""

    def do(folder):
        config = config_module("llm").get_config(f"{variant},tiny")
        config.data.path, config.data.cache = str(jsonl(folder / "data.jsonl", lines)), str(folder / "cache")
        for role, options in (("teacher", teacher), ("student", student)):
            config[role].path = str(model(folder / role, **(options or {})))
        if then:
            then(config, folder)
        config.update_from_flattened_dict(fields)
        kd_jax.run(config, folder / "run")

    return do


def layers(number, path=""):
    def then(config, folder):
        config.student.layers, config.student.path = number, path and str(folder / path)

    return then


def missing(name, role="student"):
    return lambda config, folder: (folder / role / name).unlink()


def elsewhere(config, folder):
    config.student.path = str(folder / "nowhere")


def nothing(config, folder):
    config.student.path = config.teacher.path = ""


def untemplated(place):
    return qwen(place, template="")


def in_vision(folder):
    config = kd_jax.base()
    config.teacher.path = str(model(folder / "teacher"))
    kd_jax.run(config, folder / "run")


def alone(folder):
    config = kd_jax.base()
    config.student.layers = 3
    kd_jax.run(config, folder / "run")


def written_of_nothing(folder):
    config = kd_jax.base()
    config.export.name = "export.published.write"
    kd_jax.run(config, folder / "run")


ROWS = [
    Mistake(
        "no folder of a published model is named", "Which models? --config.teacher.path=FOLDER", road(then=nothing)
    ),
    Mistake(
        "a folder that is not there", "nowhere' is not there: expected the folder of a model", road(then=elsewhere)
    ),
    Mistake("a folder without config.json", "has no config.json: it is no", road(then=missing("config.json"))),
    Mistake("a folder without weights", "has neither model.safetensors nor", road(then=missing("model.safetensors"))),
    Mistake("a folder without a tokenizer", "tokenizer.json is not there", road(then=missing("tokenizer.json"))),
    Mistake(
        "an architecture that is not read",
        "the model type is 'qwen22'. Did you mean 'qwen2' or 'qwen3' or 'qwen3_moe'?",
        road(student={"model_type": "qwen22"}),
    ),
    Mistake(
        "messages for a model without a chat template",
        "no chat template",
        road(lines=TALKS * 4, student={"tokenizer": untemplated}),
    ),
    Mistake(
        "teacher and student of different tokenizers",
        "Student and teacher have different tokenizers: '<|endoftext|>' is number 0 in…missing in…llm.py:cross",
        road(teacher={"tokenizer": llama}),
    ),
    Mistake(
        "a head with fewer rows than the tokenizer has tokens",
        "has rows for 280 tokens, and the tokenizer of",
        road(teacher={"rows": 280}),
    ),
    Mistake(
        "rows longer than the positions of a model",
        "data.length=80: …64 ",
        road(then=lambda config, folder: config.data.update(dict(length=80))),
    ),
    Mistake(
        "more layers than the teacher has",
        "student.layers=3:…teacher has 2 layers",
        road(then=layers(3)),
    ),
    Mistake(
        "a student of its own and of the teacher's layers at once",
        "student.layers=1 makes a student of layers of the teacher, and student.path=",
        road(then=layers(1, "student")),
    ),
    Mistake("layers of no teacher", "is read by the model 'models.language.published.decoder'", alone),
    Mistake(
        "the folder of a language model in a config of images",
        "config.teacher.path is read by the model 'models.language.published.decoder'",
        in_vision,
    ),
    Mistake(
        "prompts alone for a method that reads answers",
        "Prompts alone are for methods that write the answers, such as on_policy",
        road(lines=[{"prompt": pair["prompt"]} for pair in PAIRS]),
    ),
    Mistake(
        "answers to learn first, of prompts alone",
        "warmup=0.5 learns from the data's answers first, and data.jsonl has none",
        road("on_policy", [{"prompt": pair["prompt"]} for pair in PAIRS], **{"scheme.kwargs.warmup": 0.5}),
    ),
    Mistake(
        "replay by the loss on answers, of prompts alone",
        "Adaptive replay follows the loss on held-out answers, and data.jsonl has prompts alone: on_policy",
        road("distillm", [{"prompt": pair["prompt"]} for pair in PAIRS]),
    ),
    Mistake(
        "adapters of a layer that there is not",
        "lora: targets='attention/qery' chooses no layer",
        road("lora", **{"student.model.kwargs.targets": "attention/qery"}),
    ),
    Mistake(
        "a fused loss of whole texts",
        "fused: cross cannot be: the term 'kd'",
        lambda folder: config_module("llm").get_config("cross,fused"),
        "command",
    ),
    Mistake(
        "rows of a written head by an unknown word",
        "config.export.kwargs.rows='al'. Did you mean 'all'?",
        road(then=lambda config, folder: config.export.kwargs.update(dict(rows="al"))),
    ),
    Mistake(
        "a type of written weights that is none",
        "config.export.kwargs.dtype='bf16'. Did you mean 'bfloat16' or 'float16'?",
        road(then=lambda config, folder: config.export.kwargs.update(dict(dtype="bf16"))),
    ),
    Mistake(
        "files of written weights that hold nothing",
        "config.export.kwargs.max_shard_size=0: expected bytes of a file, at least 1.",
        road(then=lambda config, folder: config.export.kwargs.update(dict(max_shard_size=0))),
    ),
    Mistake(
        "rows of a network by an unknown word",
        "rows='token'. Did you mean 'tokens'?",
        road(then=lambda config, folder: config.student.model.kwargs.update(dict(rows="token"))),
    ),
    Mistake(
        "a student of no folder written as one",
        "config.export writes what became of student.path",
        written_of_nothing,
    ),
]


@each(ROWS)
def test_language_models(mistake, tmp_path, capsys):
    pytest.importorskip("jinja2")
    check(mistake, tmp_path, capsys)
