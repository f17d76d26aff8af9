"""Adversarial distillation: a discriminator learns to tell student from teacher, the student learns to be mistaken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kd_jax.core.paths import Path, calls_in
from kd_jax.core.terms import calls_of
from kd_jax.losses import adversarial
from kd_jax.losses.adversarial import gradient_penalty
from kd_jax.ranges import NotNegative
from kd_jax.resolve import near
from kd_jax.schemes.offline import watched
from kd_jax.types import Array, Call, Model, Outputs, Parts, Phase, PyTree, Role, Scheme, Stage, Term

# kind -> (loss of the discriminator, loss of the student)
KINDS = {
    "non_saturating": (adversarial.discriminator_loss, adversarial.fool_loss),
    "least_squares": (adversarial.least_squares_discriminator_loss, adversarial.least_squares_fool_loss),
    "hinge": (adversarial.hinge_discriminator_loss, adversarial.hinge_fool_loss),
    "wasserstein": (adversarial.wasserstein_discriminator_loss, adversarial.hinge_fool_loss),
}
PENALTIES = {"": 0.0, "real": 0.0, "between": 1.0}  # where the slope is taken -> the slope that costs nothing


def build(
    parts: Parts,
    kind: str = "non_saturating",
    weight: NotNegative[float] = 0.1,
    fake: str = "student.logits",
    real: str = "teacher.logits",
    through: str = "",
    condition: tuple[str, ...] = (),
    n_critic: int = 1,
    penalty: str = "",
    penalty_weight: NotNegative[float] = 10.0,
) -> Scheme:
    """Builds steps of `n_critic` updates of the discriminator D, then one of the student on terms + weight * fool(D).

    D is the role "discriminator" of config.roles, in a group of its own. It compares the value at `fake` with the value
    at `real`, which has the same shape. A role of the student's group, named in `through`, maps the fake value first;
    `condition` are paths that D reads beside either value. All updates of a step see one batch and one student.
    kind: non_saturating, least_squares, hinge or wasserstein (losses/adversarial.py has the sources).
    penalty: penalty_weight * mean (||dD/dx|| - c)^2 at x = the real value ("real", c = 0: R1), or at a random point
    between fake and real ("between", c = 1: WGAN-GP); "" for none.
    Logits: Xu, Hsu, Huang, "Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with
    Conditional Adversarial Networks", 2017, arXiv 1709.00513, who also let the discriminator classify, and add an L1
    term (here: terms of the config). Features: Belagiannis, Farshad, Galasso, "Adversarial Network Compression", 2018,
    arXiv 1803.10750.
    """
    _check(parts, kind, through, n_critic, penalty, fake, real)
    roles = {**parts.roles, "between": Role(Between(penalty == "between"))}
    value = f"{through}.logits" if through else fake
    read = calls_of(parts.terms.values()) | calls_in((real, *condition))

    forward = [Call("student", parts.roles["student"].inputs)]
    forward += [Call(n, r.inputs, train=False) for n, r in parts.roles.items() if r.group is None and n in read]
    forward += [Call(through, (fake,))] if through else []
    forward += [Call("discriminator", (value, *condition), name="on_fake")]
    # "between" comes first, since it says in plain words when the two differ in shape.
    both = [Call("between", (value, real)), Call("discriminator", (real, *condition), name="on_real")]

    tell_loss, fool_loss = KINDS[kind]
    scores = ("on_fake.logits", "on_real.logits")
    terms = {"tell": Term(tell_loss, scores)}
    if penalty:
        slope = _penalty(parts.roles["discriminator"].model, PENALTIES[penalty])
        at = ("stats.discriminator", "between.logits", *condition)
        terms["penalty"] = Term(slope, ("params.discriminator",), at, float(penalty_weight))
    tx = parts.make_tx(parts.steps * n_critic, "discriminator")
    critic = Phase("discriminator", (*forward, *both), terms, tx, {"told_apart": Term(_told_apart, scores)})
    terms = {**parts.terms, "fool": Term(fool_loss, ("on_fake.logits",), weight=float(weight))}
    student = Phase("student", tuple(forward), terms, parts.make_tx(parts.steps), watched(parts))
    reference = "teacher" if "teacher" in roles else None
    return Scheme(roles, (Stage(parts.steps, (critic,) * n_critic + (student,)),), reference=reference, task=parts.task)


class Between:
    """Computes s * real + (1 - s) * fake, s ~ U(0, 1) an example, or returns the real value; has no parameters."""

    def __init__(self, mixed: bool):
        self.mixed = mixed

    def init(self, key: Array, fake: Array, real: Array) -> tuple[PyTree, PyTree]:
        return {}, {}

    def apply(
        self, params: PyTree, stats: PyTree, fake: Array, real: Array, *, train: bool, key: Array, taps: tuple = ()
    ) -> tuple[Outputs, PyTree]:
        if fake.shape != real.shape:
            raise ValueError(
                f"the discriminator compares values of one shape, the student's is {fake.shape}, the teacher's "
                f"{real.shape}: scheme.kwargs.through names a role that maps the student's"
            )
        if not self.mixed:
            return Outputs(real), stats
        share = jax.random.uniform(key, (fake.shape[0],) + (1,) * (fake.ndim - 1))
        return Outputs(share * real + (1 - share) * fake), stats


def _penalty(model: Model, centre: float) -> Any:
    """Returns (params, stats, at, *condition) -> the gradient penalty of the discriminator `model` at `at`."""

    def slope_penalty(params: PyTree, stats: PyTree, at: Array, *condition: Array) -> Array:
        def score(x: Array) -> Array:
            return model.apply(params, stats, x, *condition, train=False, key=jax.random.key(0))[0].logits

        return gradient_penalty(score, at, centre=centre)

    return slope_penalty


def _told_apart(fake: Array, real: Array) -> Array:
    """Returns 1 where the discriminator scores real above fake, 0 where below; 1/2 on average if it cannot tell."""
    return (real > fake).astype(jnp.float32) + 0.5 * (real == fake)


def _check(parts: Parts, kind: str, through: str, n_critic: int, penalty: str, fake: str, real: str) -> None:
    for name, value, choices in (("kind", kind, KINDS), ("penalty", penalty, PENALTIES)):
        if value not in choices:
            raise ValueError(f"Adversarial distillation: {name} {value!r} is unknown. {near(value, choices)}")
    if n_critic < 1:
        raise ValueError(f"n_critic counts the discriminator's updates in a step, at least 1; got {n_critic}.")
    _check_groups(parts.roles, through)
    if Path.parse(fake).call != "student" or Path.parse(real).call == "student":
        raise ValueError(f"fake is a value of the student and real is not; got fake={fake!r} and real={real!r}.")


def _check_groups(roles: Mapping[str, Role], through: str) -> None:
    if "between" in roles:
        raise ValueError("The name 'between' is taken by adversarial distillation: give the role another.")
    wanted = {"discriminator": "discriminator", **({through: "student"} if through else {})}
    for name, group in wanted.items():
        if name not in roles:
            raise ValueError(f"The role {name!r} is missing: give it as config.roles.{name}. {near(name, roles)}")
        if roles[name].group != group:
            raise ValueError(f"The role {name!r} must be of group {group!r}, its is {roles[name].group!r}.")
