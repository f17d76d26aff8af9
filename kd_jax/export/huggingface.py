"""A folder that `transformers` loads, for the networks that it has a class for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from kd_jax.data.text.tokenizing import PADS
from kd_jax.export.deployed import raw_inputs
from kd_jax.export.network import Refused, Run
from kd_jax.files import write_json
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import pretrained, pretrained_decoders
from kd_jax.models.language.bert import Encoder
from kd_jax.models.language.decoder import Decoder
from kd_jax.models.vision import pretrained as vision
from kd_jax.train.about import TOKENIZER
from kd_jax.train.student import Student
from kd_jax.train.writing import begun, ends_of

FILE, RUNTIME = "hf", "transformers"


def write(student: Student, folder: Path) -> Path:
    """Writes config.json, model.safetensors and the tokenizer; Refused where `transformers` has no such network."""
    module, path = _module(student), folder / FILE
    tokens = _tokens(student) if isinstance(module, Decoder) else {}
    try:
        if isinstance(module, Decoder):
            pretrained_decoders.save(path, module, student.params, **{f"{k}_token_id": v for k, v in tokens.items()})
        elif isinstance(module, Encoder):
            pretrained.save(path, module, student.params, class_names=student.classes)
        elif vision.is_written(module):
            vision.save(module, student.params, student.stats, path, _prepared(student), student.classes)
        else:
            raise Refused(
                f"huggingface: transformers has no class that kd_jax writes a {type(module).__name__} for: take "
                "safetensors. Encoders and decoders of text have one, and the networks of models.vision.pretrained."
            )
    except ValueError as e:
        if isinstance(e, Refused):
            raise
        raise Refused(f"huggingface: {e}") from e
    if tokens:
        _write_tokenizer(student, tokens, path)
    elif student.tokenizer:
        (path / TOKENIZER).write_text(student.tokenizer, encoding="utf-8")
    return path


def _tokens(student: Student) -> dict[str, Any]:
    """{"bos", "eos", "pad"}: the tokens that begin, end and pad what a decoder reads; those that it has."""
    if not student.tokenizer:
        return {}
    start, ends = begun(student.info, student.tokenizer, [""])[0], ends_of(student.info, student.tokenizer)
    names = Tokenizer.from_str(student.tokenizer).get_vocab()
    pad = next((names[name] for name in PADS if name in names), ends[0])
    return {**({"bos": start[0]} if start else {}), "eos": ends[0] if len(ends) == 1 else list(ends), "pad": pad}


def _write_tokenizer(student: Student, tokens: Mapping[str, Any], folder: Path) -> None:
    """Writes a tokenizer that begins and ends texts as the run does, and what generation stops at."""
    tokenizer = Tokenizer.from_str(student.tokenizer)
    first = {name: ids[0] if isinstance(ids, list) else ids for name, ids in tokens.items()}
    texts = {f"{name}_token": tokenizer.id_to_token(number) for name, number in first.items()}
    if "bos" in first:
        begin = texts["bos_token"]
        tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, first["bos"])])
    tokenizer.save(str(folder / TOKENIZER))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **texts})
    write_json(folder / "generation_config.json", {f"{name}_token_id": ids for name, ids in tokens.items()})


def read(path: Path, student: Student) -> Run:
    """Returns what answers to raw examples by the network that is read from the folder again."""
    module = _module(student)
    reader = (
        pretrained_decoders if isinstance(module, Decoder) else pretrained if isinstance(module, Encoder) else vision
    )
    params, stats = reader.load(student.model, jax.random.key(0), str(path))
    call: Callable[..., Any] = jax.jit(
        lambda *inputs: student.model.apply(params, stats, *inputs, train=False, key=jax.random.key(0))[0].logits
    )
    names = [i.name for i in raw_inputs(student)]

    def answer(*arrays: np.ndarray) -> list[np.ndarray]:
        inputs = student.prepare(dict(zip(names, arrays, strict=True)))
        return [np.asarray(x) for x in jax.tree.leaves(call(*inputs))]

    return answer


def how_to_load(path: Path) -> str:
    return f"transformers.AutoModel.from_pretrained({path.name!r})"


def _prepared(student: Student) -> dict[str, Any] | None:
    """The preparation of square pictures of 0..255, None of what no preprocessor_config.json can say."""
    about = student.info["preparation"]
    size = about["size"]
    if about["mean"] is None or about["scale"] != 255 or size is None or size[0] != size[1]:
        return None
    return {"size": size[0], "crop": 1.0, "mean": about["mean"], "std": about["std"]}


def _module(student: Student) -> Any:
    return student.model.module if isinstance(student.model, LinenModel) else None
