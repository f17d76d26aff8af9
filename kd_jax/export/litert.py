"""LiteRT (.tflite, for phones) by litert-converter, without TensorFlow; the batch is one example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from kd_jax.export.network import Input, Run, extra, fixed, function_of, one_by_one, quiet, refusing
from kd_jax.types import Model, PyTree

FILE, RUNTIME, SIGNATURE = "model.tflite", "ai-edge-litert", "serving_default"
INSTEAD = "Replace it by operations of LiteRT, or take StableHLO, which holds every network."


def write(model: Model, params: PyTree, stats: PyTree, inputs: Sequence[Input], folder: Path) -> Path:
    """Writes the network for inputs of fixed size; Refused names the operation that LiteRT lacks."""
    parts = "litert_converter.mlir"
    with quiet():
        ir = extra(f"{parts}.ir", "litert", "LiteRT")
        passes = extra(f"{parts}.passmanager", "litert", "LiteRT")
        api = extra(f"{parts}._mlir_libs.converter_api_ext", "litert", "LiteRT")
    answer = function_of(model, params, stats)
    with refusing("litert", "litert-converter", INSTEAD):
        exported = export.export(jax.jit(answer), platforms=["cpu"])(*fixed(inputs))
    outputs = [f"output{i}" if i else "logits" for i in range(len(exported.out_avals))]
    with refusing("litert", "litert-converter", INSTEAD), quiet(), ir.Context() as context:
        api.prepare_mlir_context(context)
        module = ir.Module.parse(exported.mlir_module())
        api.set_signature(module.operation, SIGNATURE, [i.name for i in inputs], outputs)
        api.run_convert_to_tfl_passes(module, passes.PassManager(), api.ConvertToTFLConfig())
        content = api.export_flatbuffer_to_bytes(module.operation)
    path = folder / FILE
    path.write_bytes(content)
    return path


def read(path: Path) -> Run:
    """Returns what runs the file, an example at a time; ValueError for one that is damaged or of another kind."""
    with quiet():
        interpreter_of = extra("ai_edge_litert.interpreter", "litert", "LiteRT").Interpreter
        try:
            interpreter = interpreter_of(model_content=path.read_bytes())
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as e:
            raise ValueError(f"{path} is no LiteRT model, or is damaged ({type(e).__name__}).") from e
    run: Any = interpreter.get_signature_runner(SIGNATURE)
    names = interpreter.get_signature_list()[SIGNATURE]

    def answer(*arrays: np.ndarray) -> list[np.ndarray]:
        results = run(**dict(zip(order, arrays, strict=True)))
        return [results[name] for name in sorted(names["outputs"], key=_number)]

    order = [detail["name"].removeprefix(f"{SIGNATURE}_") for detail in interpreter.get_input_details()]
    return answer if any(name.startswith("cache") for name in order) else one_by_one(answer)


def how_to_load(path: Path) -> str:
    return f"ai_edge_litert.interpreter.Interpreter({path.name!r}).get_signature_runner()(**{{input: x[:1]}})['logits']"


def _number(name: str) -> int:
    """The place of an output, whose name ends in it: LiteRT lists them by the alphabet."""
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits) if digits else 0
