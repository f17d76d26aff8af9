"""A loaded student as what leaves the house: raw examples in, answers out, with its preparation inside or left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kd_jax.core.evaluate import answer_at
from kd_jax.core.paths import lookup
from kd_jax.export.network import Input
from kd_jax.models.adapters import FunctionModel, LinenModel
from kd_jax.models.language.bert import Encoder
from kd_jax.train.raw import entries_read
from kd_jax.train.student import Student, prepared
from kd_jax.types import Model, PyTree

Deployed = tuple[Model, PyTree, PyTree, tuple[Input, ...]]


def raw_inputs(student: Student) -> tuple[Input, ...]:
    """Returns the inputs as they lie in the data, those that the network reads; the length of a text stays open."""
    info = student.info
    wanted = entries_read(info)
    entry = info["preparation"]["entry"]
    specs = {entry: info["input"], **{k: v for k, v in info["fields"].items() if k in wanted}}
    return tuple(_input(student, name, spec["shape"], spec["dtype"]) for name, spec in specs.items())


def with_preparation(student: Student) -> Deployed:
    """Returns a model of raw examples: normalised as in training, then answered at the student's entry."""
    inputs, info = raw_inputs(student), student.info
    paths = list(info["inputs"])
    read = [i for i in range(len(paths)) if str(i) not in student.fixed]

    def one(*raw: Any) -> tuple[Any, ...]:
        batch = prepared({i.name: x[None] for i, x in zip(inputs, raw, strict=True)}, info)
        return tuple(lookup({"batch": batch}, paths[i])[0] for i in read)

    def answer(trees: Mapping[str, PyTree], *raw: Any) -> Any:
        values = dict(zip(read, jax.vmap(one)(*raw), strict=True))  # an example at a time: the batch's size is open
        whole = [trees["fixed"][str(i)] if i not in values else values[i] for i in range(len(paths))]
        return answered(student, trees, whole)

    return _model(answer), _trees(student), {}, inputs


def without_preparation(student: Student, raw: Mapping[str, np.ndarray]) -> Deployed:
    """Returns a model of what `student.prepare` makes; `raw` are examples, whose prepared shapes it gets."""
    made = student.prepare(raw)
    read = [i for i in range(len(made)) if str(i) not in student.fixed]

    def answer(trees: Mapping[str, PyTree], *inputs: Any) -> Any:
        values = dict(zip(read, inputs, strict=True))
        whole = [trees["fixed"][str(i)] if i not in values else values[i] for i in range(len(made))]
        return answered(student, trees, whole)

    inputs = tuple(_input(student, f"input{i}", made[i].shape[1:], str(made[i].dtype)) for i in read)
    return _model(answer), _trees(student), {}, inputs


def answered(student: Student, trees: Mapping[str, PyTree], inputs: Any) -> Any:
    """Returns the main output of the student's entry, with the parameters in `trees`."""
    return answer_at(student.entry, student.model, trees["params"], trees["stats"], inputs)


def _trees(student: Student) -> dict[str, PyTree]:
    return {"params": student.params, "stats": student.stats, "fixed": student.fixed}


def _model(answer: Callable[..., Any]) -> FunctionModel:
    def init(key: Any, *inputs: Any) -> PyTree:
        raise ValueError("A deployed network has its values already.")

    return FunctionModel(init, answer)


def _input(student: Student, name: str, shape: Any, dtype: str) -> Input:
    module = student.model.module if isinstance(student.model, LinenModel) else None
    if isinstance(module, Encoder) and len(shape) == 1:
        most = module.positions - (module.pad + 1 if module.counted_positions else 0)
        return Input(name, ("b", "l"), dtype, usual=shape[0], most=most)
    return Input(name, ("b", *shape), dtype)
