"""What does a loss cost beside reading its inputs? Value and gradient of every loss, on one device.

python -m benchmarks.losses [--only NAME...] [--small]

x copy         time of value and gradient over that of a copy of the inputs: medians of runs that take turns
temp x inputs  memory that the compiled program needs beside inputs and outputs, over the bytes of the inputs
time ^         losses that compare examples, channels or positions also run at half of them: log2 of the ratio, so that
               n^2 shows as 2; beside it the exponent of the leading part (the others are linear)
temp ^         the same of the memory; distances and angles go through in blocks of 64 MiB, so theirs hardly grows

--small takes tiny inputs: does everything run?
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from kd_jax.losses import (
    adversarial,
    attention,
    composed,
    dense,
    ensemble,
    feature,
    relation,
    representation,
    response,
    task,
)
from kd_jax.resolve import near

MODULES = (response, feature, relation, representation, attention, dense, ensemble, adversarial, task, composed)


@dataclasses.dataclass(frozen=True)
class Input:
    """Normal numbers, or integers below `high`; `fixed` inputs keep their size where the others are halved."""

    shape: tuple[int, ...]
    high: int = 0
    fixed: bool = False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        if self.high:
            return rng.integers(0, self.high, self.shape, np.int32)
        return np.asarray(rng.standard_normal(self.shape), np.float32)

    def half(self, axis: int) -> Input:
        shape = list(self.shape)
        shape[axis] //= 2
        return self if self.fixed else dataclasses.replace(self, shape=tuple(shape))


Shape = tuple[int, ...] | Input


@dataclasses.dataclass(frozen=True)
class Case:
    """loss(*student, *other), differentiated by `student`; `call` stands for a loss that takes keywords.

    `axis` is halved to see the growth; `expected` are the exponents of time and memory.
    """

    student: tuple[Shape, ...]
    other: tuple[Shape, ...] = ()
    call: Callable[..., jax.Array] | None = None
    axis: int | None = None
    expected: tuple[float, float] = (1, 1)

    def inputs(self, half: bool = False) -> list[list[Input]]:
        sides = [[x if isinstance(x, Input) else Input(x) for x in side] for side in (self.student, self.other)]
        return [[x.half(self.axis) for x in side] for side in sides] if half else sides


def losses() -> dict[str, Callable[..., jax.Array]]:
    """All losses by name."""
    return {n: fn for module in MODULES for n, fn in vars(module).items() if n.endswith("_loss") and n[0] != "_"}


def _crd(s, t, student_bank, teacher_bank, index, negatives):
    banks = {"student_bank": student_bank, "teacher_bank": teacher_bank}
    return representation.contrastive_representation_loss(s, t, index=index, negatives=negatives, **banks)


def _crd_memory(negatives, s, t, student_bank, teacher_bank, index):
    memory = {"student": student_bank, "teacher": teacher_bank, "student_constant": 0.0, "teacher_constant": 0.0}
    return composed.contrastive_memory_loss(s, t, memory=memory, index=index, step=0, negatives=negatives)


def _cat_kd(s, s_kernel, t, t_kernel):
    return composed.class_attention_transfer_loss(s, {"kernel": s_kernel}, t, {"kernel": t_kernel})


def _srrl(s, t, z, kernel, bias):
    return composed.teacher_head_loss(s, t, z, head={"kernel": kernel, "bias": bias})


def _ca_mkd(s, *teachers_and_labels):
    *teachers, labels = teachers_and_labels
    return ensemble.confidence_weighted_loss(s, *teachers, labels=labels)


def _vid(mean, raw, t):
    return feature.variational_information_loss(mean, t, raw)


def _bce(s, t):
    return task.binary_cross_entropy_loss(s, jax.nn.sigmoid(t))


def _ctc(z, labels):
    return task.ctc_loss(z, jnp.zeros(z.shape[:2]), labels + 1, jnp.zeros(labels.shape))


def table(small: bool = False) -> dict[str, Case]:
    """Every loss at a typical size: logits [512, 1000], embeddings [512, 512], maps [64, 16, 16, 64], 512 tokens."""
    n, classes, width = (8, 10, 16) if small else (512, 1000, 512)
    b, size, channels = (4, 8, 4) if small else (64, 16, 64)
    length, heads, rows, negatives = (8, 2, 64, 16) if small else (512, 4, 50_000, 4096)
    z, e, m, narrow = (n, classes), (n, width), (b, size, size, channels), (n, width // 4)
    later = (b, size // 2, size // 2, channels)
    scores, hidden, values = (8, heads, length, length), (8, length, 64 * heads), (8, heads, length, 64)
    labels, top = Input((n,), classes), (n, classes // 10)
    stages = (*((b, 32 // f, 32 // f, 16 * f) for f in (1, 2, 4)), (b, 64))
    graph = (m, later, (b, width), (b, classes))
    anchors, bank, index = ((b, 128), (b, 128)), Input((rows, 128), fixed=True), Input((b,), rows)
    split = functools.partial(attention.self_relation_loss, relation_heads=heads)

    def of(module: ModuleType, *case: Any, **fields: Any) -> dict[str, Case]:
        return {name: Case(*case, **fields) for name in losses() if hasattr(module, name)}

    pairs = {"axis": 0, "expected": (2, 2)}
    channel_pairs = {"axis": -1, "expected": (2, 2)}
    cases = of(response, (z,), (z,)) | of(feature, (m,), (m,)) | of(dense, (m,), (m,)) | of(ensemble, (z,), (z, z, z))
    cases |= of(relation, (e,), (e,), **pairs) | of(attention, (hidden,), (hidden,)) | of(adversarial, (z,), (z,))
    cases |= {name: Case((z,)) for name in losses() if name.endswith("fool_loss")}
    for name in ("dkd", "nkd", "wsld"):
        cases |= {f"{name}_loss": Case((z,), (z, labels)), f"{name}_transfer_loss": Case((z,), (z, labels))}
    return cases | {
        "dist_loss": Case((z,), (z,), axis=0),
        "multi_level_logit_loss": Case((z,), (z,), axis=0, expected=(1.3, 2)),  # classes are compared too
        "topk_kd_loss": Case((z,), (top, Input(top, classes))),
        "standardized_kd_loss": Case((z,), (z,)),
        "curriculum_kd_loss": Case((z, ()), (z,)),
        "confidence_weighted_loss": Case((z,), (z, z, z, labels), _ca_mkd),
        "cross_entropy_loss": Case((z,), (labels,)),
        "binary_cross_entropy_loss": Case((z,), (z,), _bce),
        "mean_squared_loss": Case((m,), (m,)),
        "ctc_loss": Case(((8, length, 32),), (Input((8, length // 8), 31),), _ctc),
        "neuron_selectivity_loss": Case((m,), (m,), **channel_pairs),
        "inter_channel_loss": Case((m,), (m,), **channel_pairs),
        "fsp_loss": Case((m, later), (m, later), **channel_pairs),
        "variational_information_loss": Case((m, (channels,)), (m,), _vid),
        "variational_connector_loss": Case((m, (channels,)), (m,)),
        "overhaul_loss": Case((m,), (m, (channels,))),
        "overhaul_batch_loss": Case((m,), (m,)),
        "softmax_regression_loss": Case((z,), (z,)),
        "teacher_head_loss": Case((e,), (e, z, (width, classes), (classes,)), _srrl),
        "class_attention_transfer_loss": Case((later, (channels, classes)), (later, (channels, classes)), _cat_kd),
        "review_kd_loss": Case(stages, stages),
        "angle_relation_loss": Case((narrow,), (narrow,), axis=0, expected=(3, 2)),
        "relation_loss": Case((narrow,), (narrow,), axis=0, expected=(3, 2)),
        "instance_relation_graph_loss": Case(graph, graph, **pairs),
        "info_nce_loss": Case((e,), (e,), **pairs),
        "contrastive_representation_loss": Case(anchors, (bank, bank, index, Input((b, negatives), rows)), _crd, 0),
        "contrastive_memory_loss": Case(anchors, (bank, bank, index), functools.partial(_crd_memory, negatives), 0),
        "similarity_transfer_loss": Case(((b, 4, width),), ((b, 4, width),), **pairs),
        "attention_score_loss": Case((scores,), (scores,)),
        "attention_relation_loss": Case((scores,), (scores,)),
        "value_relation_loss": Case((values,), (values,), axis=2, expected=(2, 2)),
        "self_relation_loss": Case((hidden,), (hidden,), split, axis=1, expected=(2, 2)),
        "patient_loss": Case(((n, 6, width),), ((n, 6, width),)),
        "localization_loss": Case(((n, 4, 17),), ((n, 4, 17),)),
    }


def _program(loss: Callable[..., jax.Array], inputs: list[list[Input]]) -> tuple[Any, list[list[jax.Array]]]:
    """Value and gradient of the sum, compiled, and its arguments."""
    rng = np.random.default_rng(0)
    arrays = [[jnp.asarray(x.draw(rng)) for x in side] for side in inputs]
    program = jax.jit(jax.value_and_grad(lambda student, other: jnp.sum(loss(*student, *other))))
    return program.lower(*arrays).compile(), arrays


def _alternate(programs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each; three rounds and one to warm up, or more while `seconds` last."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 4 or (time.perf_counter() < end and rounds < 50):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(1e3 * (time.perf_counter() - start))
        rounds += 1
    return {name: common.median(t[1:]) for name, t in times.items()}


def measure(name: str, case: Case, seconds: float) -> dict[str, Any]:
    loss, inputs = case.call or losses()[name], case.inputs()
    program, arrays = _program(loss, inputs)
    copy = jax.jit(lambda x: jax.tree.map(jnp.copy, x)).lower(arrays).compile()
    programs = {"loss": lambda: program(*arrays), "copy": lambda: copy(arrays)}
    if case.axis is not None:
        half, fewer = _program(loss, case.inputs(half=True))
        programs["half"] = lambda: half(*fewer)
    ms, temp = _alternate(programs, seconds), program.memory_analysis().temp_size_in_bytes
    sizes = collections.Counter("x".join(map(str, x.shape)) or "1" for side in inputs for x in side)
    row = {
        "loss": name, "inputs": " ".join(f"{s}({n})" if n > 1 else s for s, n in sizes.items()),
        "ms": round(ms["loss"], 2), "x copy": round(ms["loss"] / ms["copy"], 1),
        "temp x inputs": round(temp / sum(x.nbytes for x in jax.tree.leaves(arrays)), 2),
    }  # fmt: skip
    if case.axis is None:
        return row
    grown = ms["loss"] / ms["half"], temp / max(half.memory_analysis().temp_size_in_bytes, 1)
    time_exponent, temp_exponent = (round(math.log2(ratio), 2) for ratio in grown)
    expected, at_most = case.expected
    return row | {"time ^": time_exponent, "expected": expected, "temp ^": temp_exponent, "at most": at_most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    cases = table(args.small)
    for name in args.only:
        if name not in cases:
            raise SystemExit(f"There is no loss {name!r}. {near(name, cases)}")
    rows = [measure(n, c, 0.0 if args.small else 0.8) for n, c in cases.items() if n in (args.only or cases)]
    common.write("losses", rows, note="Ratios within one run; other work ran on the machine.")


if __name__ == "__main__":
    main()
