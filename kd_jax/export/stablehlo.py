"""StableHLO by jax.export: any batch, for CPU, CUDA and TPU in one file, run by JAX without the code of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from kd_jax.export.network import Input, Run, function_of, refusing, symbolic
from kd_jax.types import Model, PyTree

FILE, RUNTIME = "model.stablehlo", "jax"
INSTEAD = "Export it by safetensors, or leave out of it what calls Python or depends on the number of examples."
PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: Model, params: PyTree, stats: PyTree, inputs: Sequence[Input], folder: Path) -> Path:
    """Writes the network with its values as constants; open sizes of the inputs stay open. Raises Refused."""
    with refusing("stablehlo", "jax.export", INSTEAD):
        answer = jax.jit(function_of(model, params, stats))
        content = export.export(answer, platforms=PLATFORMS)(*symbolic(inputs)).serialize()
    path = folder / FILE
    path.write_bytes(content)
    return path


def read(path: Path) -> Run:
    """Returns the function that the file holds; ValueError for a file that is damaged or of another kind."""
    try:
        call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    except Exception as e:  # flatbuffers raise whatever a wrong offset leads to
        raise ValueError(f"{path} is no StableHLO of jax.export, or is damaged ({type(e).__name__}).") from e
    return lambda *arrays: [np.asarray(x) for x in call(*arrays)]


def how_to_load(path: Path) -> str:
    return f"jax.export.deserialize(bytearray(open({path.name!r}, 'rb').read())).call(x)[0]"
