"""Energy of one answer as a stated proxy: counted operations and bytes, each at a price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.measure.subject import Measure, Measured, Subject
from kd_jax.ranges import NotNegative


def measure(
    subject: Subject, joules_per_flop: NotNegative[float] = 2.3e-12, joules_per_byte: NotNegative[float] = 160e-12
) -> Measured:
    """Returns joules for one example: FLOPs and bytes, as XLA counts them in the compiled program, at these prices.

    It is no measurement: a device reads cached bytes for far less, and idles. The prices are those of 45 nm: 4.6 pJ for
    a float32 multiplication and addition, 640 pJ to read 32 bits of DRAM (Horowitz, "Computing's Energy Problem (and
    what we can do about it)", ISSCC 2014). Every operand and result of a fused operation counts as read or written.
    """
    costs = subject.costs or {}
    values = {role: energy(costs.get(role, {}), joules_per_flop, joules_per_byte) for role in subject.networks}
    return Measured(values, {"microjoules": ("energy of an answer, by FLOPs and bytes", "µJ")})


def energy(cost: Mapping[str, Any], joules_per_flop: float, joules_per_byte: float) -> dict[str, float | None]:
    """Computes flops * joules_per_flop + bytes_accessed * joules_per_byte, in µJ; None where one is not known."""
    flops, moved = cost.get("flops"), cost.get("bytes_accessed")
    if flops is None or moved is None:
        return {"microjoules": None}
    return {"microjoules": 1e6 * (flops * joules_per_flop + moved * joules_per_byte)}


MEASURE = Measure(measure, needs=("costs",), cheap=True)
