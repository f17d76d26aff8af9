"""Optimizer and learning-rate schedule from a config; names are looked up in optax."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kd_jax.ranges import BELOW_ONE, INSIDE, NOT_NEGATIVE, POSITIVE, check_numbers
from kd_jax.resolve import check_kwargs, near, pattern_of

SCHEDULES = ("constant", "cosine", "linear", "step")
MOMENTUM = 0.9  # of sgd, unless its kwargs say otherwise
RANGES = {
    "learning_rate": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": NOT_NEGATIVE,
    "warmup": BELOW_ONE,
    "boundaries": INSIDE,
    "decay": POSITIVE,
    # Of optax's functions, which declare nothing, by the names that they share.
    "kwargs": {
        **dict.fromkeys(("momentum", "b1", "b2", "b3"), BELOW_ONE),
        **dict.fromkeys(("eps", "weight_decay"), NOT_NEGATIVE),
    },
}


def make_schedule(config: Mapping[str, Any], total_steps: int) -> optax.Schedule:
    """Makes the learning rate of a step: linear warm-up over `warmup` of the run, then `schedule`.

    That is constant, cosine or linear to 0, or "step", which multiplies by `decay` at `boundaries`, fractions of the
    run (epoch 150 of 240 is 0.625). Raises ValueError for another schedule, and for numbers outside of RANGES.
    """
    name, peak = config["schedule"], config["learning_rate"]
    check_numbers("optimizer", config, RANGES)
    warmup = round(config["warmup"] * total_steps)
    rest = max(total_steps - warmup, 1)
    if name == "constant":
        main = optax.constant_schedule(peak)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(peak, rest)
    elif name == "linear":
        main = optax.linear_schedule(peak, 0.0, rest)
    elif name == "step":
        at: dict[int, float] = {}
        for boundary in config["boundaries"]:  # two may fall on one step of a short run
            step = max(round(boundary * total_steps) - warmup, 0)
            at[step] = at.get(step, 1.0) * config["decay"]
        main = optax.piecewise_constant_schedule(peak, at)
    else:
        raise ValueError(f"optimizer.schedule {name!r} is unknown. {near(name, SCHEDULES)}")
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def path_mask(pattern: str | re.Pattern[str], field: str, matching: bool = True):
    """Returns a function of params: `matching` for those whose path matches `pattern`, the opposite for the others.

    It raises ValueError where `pattern`, of optimizer.`field`, matches none: such an optimizer would do nothing.
    """

    def mask(params):
        paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(params)]
        if paths and not any(re.search(pattern, path) for path in paths):
            text = getattr(pattern, "pattern", pattern)
            raise ValueError(f"optimizer.{field}={text!r} matches no parameter. {near(text, paths)}")

        def keep(path, _):
            is_match = re.search(pattern, jax.tree_util.keystr(path, simple=True, separator="/")) is not None
            return is_match == matching

        return jax.tree_util.tree_map_with_path(keep, params)

    return mask


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
    factory = getattr(optax, name, None)
    if factory is None or not callable(factory):
        names = [n for n in dir(optax) if n.islower() and callable(getattr(optax, n)) and not n.startswith("_")]
        raise ValueError(f"optimizer.name {name!r} is not in optax. {near(name, names)}")
    return factory


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of an optimizer with the defaults that depend on its name written out.

    sgd has momentum 0.9. Where the optimizer decays weights itself (adamw, lion, lamb, ...), `weight_decay` moves to
    `kwargs.weight_decay`: decoupled from the gradient. What kwargs say already stays. Raises ValueError for a name that
    optax lacks.
    """
    kwargs, decay = dict(config["kwargs"]), config["weight_decay"]
    if config["name"] == "sgd":
        kwargs.setdefault("momentum", MOMENTUM)
    if "weight_decay" in inspect.signature(_factory(config["name"])).parameters:
        kwargs.setdefault("weight_decay", decay)
        decay = 0.0
    return {**config, "kwargs": kwargs, "weight_decay": decay}


def make_optimizer(config: Mapping[str, Any], total_steps: int) -> optax.GradientTransformation:
    """Makes the optimizer: clip -> weight decay -> optax.<name>(schedule, **kwargs) -> 0 for what is not trained.

    Weight decay is added to the gradient, as in torch.optim.SGD and Adam, unless the optimizer has a decay of its own
    (`with_defaults`). Raises ValueError for a name that optax lacks or an argument that it does not take.
    """
    config = with_defaults(config)
    name, kwargs = config["name"], config["kwargs"]
    factory = _factory(name)
    check_kwargs(f"optax.{name}", factory, kwargs)
    decayed = path_mask(pattern_of(config["decay_pattern"], "optimizer.decay_pattern"), "decay_pattern")
    if kwargs.get("weight_decay") and config["decay_pattern"] != ".*":
        check_kwargs(f"optax.{name}", factory, ["mask"])
        kwargs.setdefault("mask", decayed)
    parts = []
    if config["clip_norm"]:
        parts.append(optax.clip_by_global_norm(config["clip_norm"]))
    if config["weight_decay"]:
        parts.append(optax.add_decayed_weights(config["weight_decay"], mask=decayed))
    parts.append(factory(make_schedule(config, total_steps), **kwargs))
    if config["trained"] != ".*":
        trained = pattern_of(config["trained"], "optimizer.trained")
        parts.append(optax.masked(optax.set_to_zero(), path_mask(trained, "trained", matching=False)))
    return optax.chain(*parts)


def scales_with_rate(config: Mapping[str, Any]) -> bool:
    """Tells whether the updates of this optimizer are proportional to its learning rate, tried on three gradients."""
    tried = {**config, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.1, "decay_pattern": ".*"}
    ratios = []
    for rate in (0.01, 0.02):
        tx = make_optimizer({**tried, "learning_rate": rate}, 3)
        params = {"w": jnp.asarray([[0.5, -1.0], [2.0, 0.1]])}
        state = tx.init(params)
        for step in range(3):
            grads = jax.tree.map(lambda x, s=step: jnp.sin(x + s), params)
            updates, state = tx.update(grads, state, params)
            [update] = jax.tree.leaves(updates)
            ratios.append(update / rate)
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ratios[:3], ratios[3:], strict=True))
