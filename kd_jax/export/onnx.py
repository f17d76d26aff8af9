"""ONNX by jax2onnx, run by ONNX Runtime; whole numbers of 8 bits by its quantiser, static or dynamic."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from kd_jax.export.network import Input, Refused, Run, extra, fixed, function_of, one_by_one, quiet, refusing, symbolic
from kd_jax.types import Model, PyTree

FILE, RUNTIME = "model.onnx", "onnxruntime"
INT8 = {"static": "model_int8_static.onnx", "dynamic": "model_int8_dynamic.onnx"}
QUANTISED = ["Conv", "MatMul", "Gemm", "Gather"]  # what has the weights and tables; sums and norms stay as they are
WHOLE_NUMBERS = {"MatMulInteger", "ConvInteger", "DequantizeLinear"}  # what a file of 8 bits computes with
INSTEAD = "Replace it by operations that it has, or take StableHLO, which holds every network."


def write(model: Model, params: PyTree, stats: PyTree, inputs: Sequence[Input], folder: Path) -> Path:
    """Writes the network, for any batch where jax2onnx can leave it open, else for inputs of fixed size.

    Refused names the operation that it does not know. jax2onnx is given a jaxpr, in which calls of Flax are gone: its
    own versions of them take other arguments.
    """
    onnx = extra("onnx", "onnx", "ONNX")
    convert = _converter()
    answer = function_of(model, params, stats)
    try:
        made = _converted(convert, answer, symbolic(inputs))
    except Exception:  # of whatever kind: a plugin of jax2onnx compares sizes, pads, or makes them numbers
        made = _converted(convert, answer, fixed(inputs))
    _name(made.graph, [i.name for i in inputs])
    _pool_in_two_dimensions(onnx, made.graph)
    _products_by_matmul(onnx, made.graph)
    del made.graph.value_info[:]  # jax2onnx writes some that ONNX Runtime's quantiser calls wrong
    path = folder / FILE
    path.write_bytes(made.SerializeToString())
    return path


def _converter() -> Callable[..., Any]:
    with quiet(), restored():
        return extra("jax2onnx", "onnx", "ONNX").to_onnx


def _converted(convert: Callable[..., Any], answer: Callable[..., Any], shapes: Sequence[Any]) -> Any:
    closed = jax.make_jaxpr(answer)(*shapes)
    with refusing("onnx", "jax2onnx", INSTEAD), quiet(), restored():
        return convert(lambda *x: tuple(jaxpr_as_fun(closed)(*x)), list(shapes))


PATCHED = ("jax.numpy", "jax.numpy.linalg", "jax.lax", "jax.nn", "jax.random", "jax.image", "flax.linen", "flax.nnx")


@contextlib.contextmanager
def restored() -> Generator[None]:
    """Puts back what jax2onnx leaves in the place of functions of JAX and Flax after a conversion (jnp.cumsum)."""
    owners: list[Any] = [importlib.import_module(name) for name in PATCHED]
    owners += {id(v): v for o in owners for v in vars(o).values() if isinstance(v, type)}.values()
    before = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, names in before:
            for name, value in names.items():
                if vars(owner).get(name) is not value and callable(value):
                    setattr(owner, name, value)


def _name(graph: Any, names: Sequence[str]) -> None:
    """Gives inputs and outputs of a graph names that tell what they are."""
    outputs = ["logits", *(f"output{i}" for i in range(1, len(graph.output)))]
    new = dict(zip([i.name for i in graph.input], names, strict=True))
    new |= dict(zip([o.name for o in graph.output], outputs, strict=True))
    for value in (*graph.input, *graph.output):
        value.name = new[value.name]
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


def _pool_in_two_dimensions(onnx: Any, graph: Any) -> None:
    """Pools maps [batch, height, width, channels] as ONNX has them: jax2onnx pools in four dimensions, two of size 1,
    which ONNX Runtime cannot."""
    nodes = []
    for node in graph.node:
        sizes = {a.name: list(a.ints) for a in node.attribute if a.ints}
        window = sizes.get("kernel_shape", [])
        if node.op_type not in ("MaxPool", "AveragePool") or len(window) != 4 or (window[0], window[3]) != (1, 1):
            nodes.append(node)
            continue
        first, last = f"{node.output[0]}_by_channel", f"{node.output[0]}_pooled"
        shape = f"{node.output[0]}_shape"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1], np.int64), shape))
        sizes = {k: [v[i] for i in ((1, 2) if len(v) == 4 else (1, 2, 5, 6))] for k, v in sizes.items()}
        more = {a.name: a.i for a in node.attribute if not a.ints and a.name in ("ceil_mode", "count_include_pad")}
        make = onnx.helper.make_node
        nodes += [
            make("Squeeze", [node.input[0], shape], [f"{first}_in"]),
            make("Transpose", [f"{first}_in"], [first], perm=[0, 3, 1, 2]),
            make(node.op_type, [first], [last], **sizes, **more),
            make("Transpose", [last], [f"{last}_out"], perm=[0, 2, 3, 1]),
            make("Unsqueeze", [f"{last}_out", shape], [node.output[0]]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _products_by_matmul(onnx: Any, graph: Any) -> None:
    """Writes products with a kernel as MatMul: the quantiser passes over the Gemm and Einsum of jax2onnx.

    Dense layers on [batch, width] are a Gemm without a bias, on [batch, length, width] "abc,cd->abd", a head that reads
    a table of words "abc,dc->abd".
    """
    kernels = {i.name for i in graph.initializer if len(i.dims) == 2}
    nodes = []
    for node in graph.node:
        turned = _turned(node) if len(node.input) > 1 and node.input[1] in kernels else None
        if turned is None:
            nodes.append(node)
            continue
        kernel = node.input[1]
        if turned:
            nodes.append(onnx.helper.make_node("Transpose", [kernel], [f"{node.output[0]}_kernel"], perm=[1, 0]))
            kernel = f"{node.output[0]}_kernel"
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], kernel], list(node.output)))
    del graph.node[:]
    graph.node.extend(nodes)


def _turned(node: Any) -> bool | None:
    """Whether a product x kernel has its kernel transposed; None of what is no such product."""
    if node.op_type == "Gemm":
        numbers = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | {a.name: a.f or a.i for a in node.attribute}
        plain = numbers["alpha"] == 1 and numbers["beta"] == 0 and not numbers["transA"]
        return bool(numbers["transB"]) if plain else None
    equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
    operands, _, result = equation.replace(" ", "").partition("->")
    x, _, kernel = operands.partition(",")
    if len(kernel) != 2 or not x or not result or x[:-1] != result[:-1] or len({*x, *kernel}) != len(x) + 1:
        return None
    return {(x[-1], result[-1]): False, (result[-1], x[-1]): True}.get((kernel[0], kernel[1]))


def read(path: Path) -> Run:
    """Returns what runs the file on CPU; ValueError for one that is damaged or of another kind."""
    runtime = extra("onnxruntime", "onnx", "ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    with quiet():
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime's errors have no base of their own
            raise ValueError(f"{path} is no ONNX model, or is damaged ({type(e).__name__}).") from e
    inputs = session.get_inputs()
    names = [i.name for i in inputs]

    def answer(*arrays: np.ndarray) -> list[np.ndarray]:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    if not is_fixed(inputs) or any(name.startswith("cache") for name in names):
        return answer
    return one_by_one(answer)


def is_fixed(inputs: Sequence[Any]) -> bool:
    """Tells whether a model takes one example at a time."""
    return all(isinstance(i.shape[0], int) for i in inputs if i.shape)


def how_to_load(path: Path) -> str:
    return f"onnxruntime.InferenceSession({path.name!r}).run(None, {{input: x}})[0]"


def quantise(path: Path, kind: str, examples: Sequence[np.ndarray]) -> Path:
    """Writes weights of 8 bits beside an ONNX file: "dynamic", or "static", whose ranges come from `examples`."""
    runtime = extra("onnxruntime", "onnx", "int8")
    target, folded = path.with_name(INT8[kind]), path.with_name("folded.onnx")
    with refusing("onnx-int8", "onnxruntime.quantization", "Leave --int8 out."), quiet():
        tools = extra("onnxruntime.quantization", "onnx", "int8")
        options = runtime.SessionOptions()  # transposed weights become weights, which the quantiser looks for
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        try:
            inputs = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).get_inputs()
            common = {"op_types_to_quantize": QUANTISED, "weight_type": tools.QuantType.QInt8}
            if kind == "dynamic":
                tools.quantize_dynamic(str(folded), str(target), **common)
            else:
                feeds = _feeds([i.name for i in inputs], examples, 1 if is_fixed(inputs) else len(examples[0]))
                reader = _reader(tools.CalibrationDataReader, feeds)
                # Signed ones ONNX Runtime 1.32 refuses when it reads the file: it adds a zero point without a sign.
                common |= {"quant_format": tools.QuantFormat.QDQ, "activation_type": tools.QuantType.QUInt8}
                tools.quantize_static(str(folded), str(target), reader, **common)
        finally:
            folded.unlink(missing_ok=True)
    onnx = extra("onnx", "onnx", "int8")
    if not {node.op_type for node in onnx.load(target).graph.node} & WHOLE_NUMBERS:
        target.unlink()
        raise Refused(f"onnx-int8: the network has none of {', '.join(QUANTISED)} with weights. Leave --int8 out.")
    return target


def _reader(base: type, feeds: Iterator[dict[str, np.ndarray]]) -> Any:
    """An iterator of examples as the class that ONNX Runtime's quantiser asks for."""

    class Reader(base):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    return Reader()


def _feeds(names: Sequence[str], examples: Sequence[np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(examples[0]), size):
        yield {name: x[start : start + size] for name, x in zip(names, examples, strict=True)}
