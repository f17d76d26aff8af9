"""Quantised distillation: a student of few bits learns from a float teacher, beside networks to compare it with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.terms import calls_of
from kd_jax.models.quantised import Quantised, packed_bytes
from kd_jax.schemes import offline
from kd_jax.schemes.redirect import redirect
from kd_jax.tasks.units import name_of, score_text
from kd_jax.types import Call, Headline, Parts, Phase, Role, Scheme, Stage, Term, TrainState

BITS = "extra.bits"
WEIGHTS, FLOAT = (2, 4, 8, 32), 32


def build(
    parts: Parts, bits: tuple[int, ...] = (8,), activations: int = FLOAT, keep: str = "", compare: bool = True
) -> Scheme:
    """Builds a stage for each number of `bits` of the student's weights (2, 4, 8, or 32 for float), of equal lengths.

    One optimizer and one program serve all stages. `activations` is the number of bits of what layers read; kernels
    whose path matches `keep` have at least 8 bits. `compare` evaluates three more networks of the same architecture:
        float          a float student, trained on the same terms
        post_training  that network rounded to the student's bits: post-training quantisation
        labels         a student of the same bits, trained on the terms that read no teacher (weight 1).
    Quantised students of teachers: Mishra, Marr, "Apprentice", 2017, arXiv 1711.05852, and Polino, Pascanu, Alistarh,
    "Model compression via distillation and quantization", 2018, arXiv 1802.05668. Lowering the bits in stages: Zhuang
    et al., "Towards Effective Low-bitwidth Convolutional Neural Networks", 2017, arXiv 1711.00205 (their two-stage and
    progressive training; where theirs is guided by a float network, ours is by the teacher).
    """
    _check(parts, bits, activations)
    student = parts.roles["student"]
    rounded = Quantised(student.model, keep=keep, activations=activations < FLOAT)
    inputs = (*student.inputs, BITS)
    roles = {**parts.roles, "student": dataclasses.replace(student, model=rounded, inputs=inputs)}
    scheme = offline.build(dataclasses.replace(parts, roles=roles))
    phase = scheme.stages[0].phases[0]
    teachers = phase.forward[1:]
    phases, evaluate, post_update = [phase], ["student"], None
    if compare:
        roles["float"] = dataclasses.replace(student, group="float", initial="student")
        roles["post_training"] = Role(rounded, inputs, "post_training", "student")
        phases.append(_phase(parts, "float", parts.terms, student.inputs, teachers))
        evaluate += ["post_training", "float"]
        post_update = _copy_float
        taught = {call.role for call in teachers}
        alone = {n: t for n, t in parts.terms.items() if not taught & calls_of([t])}
        if taught and alone:
            roles["labels"] = Role(rounded, inputs, "labels", "student")
            alone = {n: dataclasses.replace(t, weight=1.0) for n, t in alone.items()}
            phases.append(_phase(parts, "labels", alone, inputs, ()))
            evaluate.insert(1, "labels")
    phases = tuple(phases)
    ends = [round(parts.steps * (i + 1) / len(bits)) for i in range(len(bits))]
    stages = tuple(
        Stage(
            end - start, phases, post_update, _lower(weights, activations), f"{weights} bits", selects=end == ends[-1]
        )
        for weights, start, end in zip(bits, [0, *ends], ends, strict=False)
    )
    split = "validation" if parts.sources.get("validation") is not None else "test"
    return dataclasses.replace(
        scheme,
        roles=roles,
        stages=stages,
        evaluate=tuple(evaluate),
        stage_splits=(split,),
        extra={"bits": jnp.asarray([bits[0], activations], jnp.float32)},
        summary=lambda state, record: _summary(state, record, parts.task.headline, bits, activations, keep, split),
    )


def _check(parts: Parts, bits: tuple[int, ...], activations: int) -> None:
    if not bits or any(b not in WEIGHTS for b in bits) or len(bits) > parts.steps:
        raise ValueError(
            f"bits are those of each stage, of {WEIGHTS}, and no more stages than steps ({parts.steps}); got {bits}."
        )
    if not (activations == FLOAT or 4 <= activations <= 8):
        raise ValueError(f"activations have 4 to 8 bits, or {FLOAT} for float, not {activations}.")


def _phase(
    parts: Parts, role: str, terms: Mapping[str, Term], inputs: tuple[str, ...], teachers: tuple[Call, ...]
) -> Phase:
    terms = redirect(terms, {"student": role}, f"{role}_")
    metrics = offline.watched(parts, f"{role}.logits")
    return Phase(role, (Call(role, inputs), *teachers), terms, parts.make_tx(parts.steps, role), metrics)


def _copy_float(state: TrainState, context: Mapping[str, Any]) -> TrainState:
    """Copies the float network of this step into the role that is rounded after training."""
    params = {**state.params, "post_training": {"post_training": state.params["float"]["float"]}}
    return state.replace(params=params, stats={**state.stats, "post_training": state.stats["float"]})


def _lower(weights: int, activations: int) -> Any:
    def enter(state: TrainState) -> TrainState:
        bits = jax.device_put(np.asarray([weights, activations], np.float32), state.extra["bits"].sharding)
        return state.replace(extra={**state.extra, "bits": bits})

    return enter


def _summary(
    state: TrainState,
    record: Mapping[str, Any],
    headline: Headline,
    bits: tuple[int, ...],
    activations: int,
    keep: str,
    split: str,
) -> list[dict[str, Any]]:
    names = {
        "student": "Distilled, quantised",
        "labels": "Quantised, without a teacher",
        "post_training": "Rounded after training",
        "float": "Distilled, float",
    }
    params = state.params["student"]["student"]
    rows = []
    for weights, after in zip(bits, record["stages"], strict=True):
        scores = after[split]
        for name in (n for n in names if n in scores):
            of_weights, of_values = (FLOAT, FLOAT) if name == "float" else (weights, activations)
            size = packed_bytes(params, of_weights, keep=keep)
            rows.append([names[name], of_weights, of_values, size, score_text(headline, scores[name])])
    lead = "After each number of bits. Bytes are of the packed parameters: integers, a step a channel, float norms."
    columns = [
        "Network",
        "Bits of weights",
        "Bits of activations",
        "Bytes",
        f"{name_of(headline).capitalize()} ({split})",
    ]
    return [{"kind": "table", "title": f"Bits and {name_of(headline)}", "lead": lead, "columns": columns, "rows": rows}]
