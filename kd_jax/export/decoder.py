"""A decoder as what leaves the house: one step with its cache. The loop around it is greedy.py, shipped too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.export import greedy
from kd_jax.export.deployed import Deployed
from kd_jax.export.network import Input, Run
from kd_jax.files import write_json
from kd_jax.models.adapters import FunctionModel, LinenModel
from kd_jax.models.language.decoder import Decoder, decoding
from kd_jax.models.language.decoder_parts import Cache
from kd_jax.train.about import TOKENIZER
from kd_jax.train.student import Student
from kd_jax.train.writing import begun, ends_of
from kd_jax.types import Model, PyTree


def is_decoder(student: Student) -> bool:
    """Tells whether the student writes text token by token."""
    module = student.model.module if isinstance(student.model, LinenModel) else None
    return isinstance(module, Decoder) and not module.cross_attends


def stepping(student: Student, size: int) -> Deployed:
    """Returns the model of a step of a student (`step_of`)."""
    return step_of(student.model, student.params, size)


def step_of(model: Model, params: PyTree, size: int) -> Deployed:
    """Returns the model of a step: (token [1, 1], slot (), cache of `size` tokens) -> (logits [1, vocabulary], cache).

    A prompt is fed token by token; slots after `slot` are not seen. Raises ValueError for what is no Decoder.
    """
    if not isinstance(model, LinenModel) or not isinstance(model.module, Decoder):
        raise ValueError("Only a Decoder of kd_jax has a step.")
    steps = decoding(model.module)
    leaves, structure = jax.tree.flatten(steps.start(params, 1, size).layers)

    def step(params: PyTree, tokens: Any, slot: Any, *layers: Any) -> Any:
        valid = (jnp.arange(size) < slot)[None]
        cache = Cache(jax.tree.unflatten(structure, layers), valid, slot)
        logits, cache = steps.step(params, tokens, cache)
        return (logits[:, -1], *jax.tree.leaves(cache.layers))

    inputs = [Input("tokens", (1, 1), "int32"), Input("slot", (), "int32")]
    inputs += [Input(f"cache{i}", x.shape, str(x.dtype)) for i, x in enumerate(leaves)]
    return FunctionModel(lambda key, *_: params, step), params, {}, tuple(inputs)


def empty(inputs: Sequence[Input]) -> list[np.ndarray]:
    """Returns the inputs of a first step on token 0: an empty cache."""
    return [np.zeros([int(n) for n in i.shape], i.dtype) for i in inputs]


def unrolled(run: Run, inputs: Sequence[Input]) -> Run:
    """Returns what maps tokens [n, length] to [logits [n, length, vocabulary]] by a step at a time."""

    def answer(tokens: np.ndarray) -> list[np.ndarray]:
        rows = []
        for row in tokens:
            cache, logits = empty(inputs)[2:], []
            for slot, token in enumerate(row):
                first, *cache = run(np.full((1, 1), token, np.int32), np.array(slot, np.int32), *cache)
                logits.append(first[0])
            rows.append(np.stack(logits))
        return [np.stack(rows)]

    return answer


def whole(student: Student) -> Run:
    """Returns what JAX answers to tokens [n, length] in one pass: what steps are compared with."""
    call = jax.jit(
        lambda params, tokens: student.model.apply(params, {}, tokens, train=False, key=jax.random.key(0))[0].logits
    )
    return lambda tokens: [np.asarray(call(student.params, tokens))]


def ship(student: Student, folder: Path) -> None:
    """Writes greedy.py beside the files of a decoder, and the tokenizer with the tokens that begin and end a text."""
    shutil.copyfile(greedy.__file__, folder / "greedy.py")
    if student.tokenizer:
        (folder / TOKENIZER).write_text(student.tokenizer, encoding="utf-8")
        start, ends = begun(student.info, student.tokenizer, [""])[0], ends_of(student.info, student.tokenizer)
        write_json(folder / "greedy.json", {"start": start, "end": ends})
