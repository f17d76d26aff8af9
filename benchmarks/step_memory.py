"""Memory of the step and the evaluation that a run of a language config compiles, with and without all logits.

python -m benchmarks.step_memory [--classes=151936] [--batch=8] [--length=512] [--widths 128 256] [--small]

The scheme is the one that schemes.offline builds of a config (cross-entropy and forward KL, the watched accuracy, the
task's scores), the step donates its state; everything is only compiled. "plain" is the same with losses and metrics
that nothing knows to be by token (losses/needs.py), which read the logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import common
from kd_jax.core.bind import bind, init_state
from kd_jax.core.evaluate import make_eval_step
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response, task
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import llama
from kd_jax.schemes import offline
from kd_jax.tasks import tokens
from kd_jax.types import Parts, Role, Scheme, Term

INPUTS = ("batch.tokens", "batch.segments")


def unmarked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the same function, which nothing knows to be by token."""
    return functools.wraps(fn, updated=())(lambda *args, **kwargs: fn(*args, **kwargs))


def scheme_of(classes: int, width: int) -> Scheme:
    """Makes a student of `width` and two layers, a teacher twice as wide, both with tied heads."""
    student, teacher = (LinenModel(llama(classes, w, 2, 2, tied=True)) for w in (width, 2 * width))
    labels = {"where": "batch.labelled"}
    ce = Term(task.cross_entropy_loss, ("student.logits",), ("batch.label",), 0.5, **labels)
    kd = Term(response.kd_loss, ("student.logits",), ("teacher.logits",), 0.5, {"temperature": 1.0}, **labels)
    roles = {"student": Role(student, INPUTS, "student"), "teacher": Role(teacher, INPUTS)}
    return offline.build(Parts(roles, {"ce": ce, "kd": kd}, 10, lambda *_: optax.adamw(1e-3), None, {}, tokens.task()))


def plain(scheme: Scheme) -> Scheme:
    """Returns the scheme with terms and metrics that read the logits."""

    def changed(terms: Any) -> dict[str, Term]:
        return {name: dataclasses.replace(term, fn=unmarked(term.fn)) for name, term in terms.items()}

    (stage,) = scheme.stages
    phases = tuple(dataclasses.replace(p, terms=changed(p.terms), metrics=changed(p.metrics)) for p in stage.phases)
    return dataclasses.replace(scheme, stages=(dataclasses.replace(stage, phases=phases),))


def temporary(scheme: Scheme, batch: int, length: int) -> tuple[int, int]:
    """Returns (MiB of the step, of the evaluation)."""
    places, key = jax.ShapeDtypeStruct((batch, length), jnp.int32), jax.random.key(0)
    shapes: dict[str, Any] = dict.fromkeys(("tokens", "segments", "label"), places)
    shapes |= {"labelled": jax.ShapeDtypeStruct(places.shape, bool), "mask": jax.ShapeDtypeStruct((batch,), bool)}
    scheme, inputs = bind(scheme, shapes)
    state = jax.eval_shape(lambda k: init_state(scheme, inputs, k, {}), key)
    stage = scheme.stages[0]
    step = jax.jit(make_train_step(scheme, stage), donate_argnums=0).lower(state, shapes, hyper_of(stage), key)
    score = jax.jit(make_eval_step(scheme)).lower(state, shapes, key)
    sizes = (program.compile().memory_analysis().temp_size_in_bytes for program in (step, score))
    first, second = (round(x / 2**20) for x in sizes)
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=151936)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="*", default=[128, 256])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    args = parser.parse_args()
    sizes = (2, 16, 1000, [8]) if args.small else (args.batch, args.length, args.classes, args.widths)
    batch, length, classes, widths = sizes
    rows = []
    for width in widths:
        scheme, row = scheme_of(classes, width), {"tokens": f"{batch} x {length}", "classes": classes, "width": width}
        row["step MiB"], row["evaluation MiB"] = temporary(scheme, batch, length)
        row["plain step MiB"] = temporary(plain(scheme), batch, length)[0]
        rows.append(row)
    common.write("step_memory", rows, limits={"step MiB": 850, "evaluation MiB": 850})


if __name__ == "__main__":
    main()
