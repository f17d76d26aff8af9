"""What every format is made of: a network as one function of arrays, what its inputs are, and how a format fails."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from kd_jax.types import Model, PyTree

Run = Callable[..., list[np.ndarray]]


class Input(NamedTuple):
    """An input of a network that leaves the house; texts in `shape` are sizes that stay open, "b" the batch's."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    usual: int = 0  # of an open size other than the batch's: what a format takes that leaves none open
    most: int = 0  # and how large it may be


class Refused(ValueError):
    """A format cannot hold this network; the message says which operation is in the way, and what to do."""


def function_of(model: Model, params: PyTree, stats: PyTree) -> Callable[..., list[Any]]:
    """Returns the network as it answers in use: arrays in, the leaves of its main output out."""

    def answer(*inputs: Any) -> list[Any]:
        outputs, _ = model.apply(params, stats, *inputs, train=False, key=jax.random.key(0))
        return jax.tree.leaves(outputs.logits)

    return answer


def symbolic(inputs: Sequence[Input]) -> list[jax.ShapeDtypeStruct]:
    """Returns the inputs with their open sizes as symbols of jax.export, all in one scope."""
    limits = {
        f"{size} <= {i.most}" for i in inputs if i.most for size in i.shape if size != "b" and isinstance(size, str)
    }
    scope = export.SymbolicScope([*sorted(limits), "b >= 1"])
    return [
        jax.ShapeDtypeStruct(export.symbolic_shape(", ".join(map(str, i.shape)) + ",", scope=scope), i.dtype)
        if i.shape
        else jax.ShapeDtypeStruct((), i.dtype)
        for i in inputs
    ]


def fixed(inputs: Sequence[Input]) -> list[jax.ShapeDtypeStruct]:
    """Returns the inputs with a batch of one, and every other open size at its usual."""
    sized = [tuple(1 if n == "b" else i.usual if isinstance(n, str) else n for n in i.shape) for i in inputs]
    return [jax.ShapeDtypeStruct(shape, i.dtype) for shape, i in zip(sized, inputs, strict=True)]


def one_by_one(run: Run) -> Run:
    """Returns what answers to any batch by a `run` that takes one example."""

    def answer(*arrays: np.ndarray) -> list[np.ndarray]:
        rows = [run(*(x[i : i + 1] for x in arrays)) for i in range(len(arrays[0]))]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    return answer


def extra(module: str, name: str, why: str) -> Any:
    """Imports what an extra of pyproject.toml brings; ImportError names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        package = module.partition(".")[0]
        if (e.name or "").partition(".")[0] != package:
            raise
        raise ImportError(f"{why} needs {package}, which is not installed: pip install 'kd_jax[{name}]'") from e


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keeps what converters print, log and write to the terminal from C++ off it."""
    level, null = logging.root.manager.disable, os.open(os.devnull, os.O_WRONLY)
    stderr = os.dup(2)
    logging.disable(logging.ERROR)
    os.dup2(null, 2)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        logging.disable(level)


OPERATION = re.compile(r"primitive '([\w-]+)'|operation '([\w.]+)'|'([\w.]+)' op\b|error: ([a-z_]+\.[\w.]+)")


@contextlib.contextmanager
def refusing(format: str, converter: str, instead: str) -> Generator[None]:
    """Raises Refused, one line with the operation, for whatever a converter raises."""
    try:
        yield
    except Refused:
        raise
    except Exception as e:
        text = " ".join(str(e).split())
        match = OPERATION.search(text)
        operation = next((part for part in match.groups() if part), "") if match else ""
        what = f"the operation {operation!r}" if operation else f"this network ({type(e).__name__}: {text[:160]})"
        raise Refused(f"{format}: {converter} cannot convert {what}. {instead}") from e


def shaped(inputs: Sequence[Input], values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Returns the values in the order and types of the inputs."""
    return tuple(np.asarray(values[i.name], i.dtype) for i in inputs)
