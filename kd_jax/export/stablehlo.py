"""StableHLO by jax.export: any batch, for CPU, CUDA and TPU in one file, run by JAX without the code of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from kd_jax.export.network import Input, Run, fixed, function_of, one_by_one, refusing, symbolic
from kd_jax.types import Model, PyTree

FILE, RUNTIME = "model.stablehlo", "jax"
INSTEAD = "Export it by safetensors, or leave out of it what calls Python or depends on the number of examples."
PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: Model, params: PyTree, stats: PyTree, inputs: Sequence[Input], folder: Path) -> Path:
    """Writes the network with its values as constants; open sizes of the inputs stay open where its code allows that.

    A network that takes `len(x)` is written for one example. Raises Refused.
    """
    make = export.export(jax.jit(function_of(model, params, stats)), platforms=PLATFORMS)
    with refusing("stablehlo", "jax.export", INSTEAD):
        try:
            exported = make(*symbolic(inputs))
        except (TypeError, ValueError):  # of sizes that the network's code makes numbers, or compares
            exported = make(*fixed(inputs))
        content = exported.serialize()
    path = folder / FILE
    path.write_bytes(content)
    return path


def read(path: Path) -> Run:
    """Returns the function that the file holds; ValueError for a file that is damaged or of another kind."""
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
    except Exception as e:  # flatbuffers raise whatever a wrong offset leads to
        raise ValueError(f"{path} is no StableHLO of jax.export, or is damaged ({type(e).__name__}).") from e
    call, batches = jax.jit(exported.call), [x.shape[:1] for x in exported.in_avals]

    def answer(*arrays: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(x) for x in call(*arrays)]

    return one_by_one(answer) if all(batch == (1,) for batch in batches) else answer


def how_to_load(path: Path) -> str:
    return f"jax.export.deserialize(bytearray(open({path.name!r}, 'rb').read())).call(x)[0]"
