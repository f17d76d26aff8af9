"""Robustness to adversarial examples: FGSM and PGD on the network itself, within a largest change of each pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.evaluate import answer_at
from kd_jax.core.network import Network
from kd_jax.core.paths import Path
from kd_jax.data.augment import example_keys
from kd_jax.data.source import Source
from kd_jax.measure.subject import Batch, Measure, Measured, Subject, rows_until
from kd_jax.ranges import Count, NotNegative, Positive
from kd_jax.types import Array, PyTree

Gradient = Callable[[Array], Array]  # of the loss by the input


class Pixels(NamedTuple):
    """The picture that a network reads: its place among the inputs; lowest value, highest and 1 of 255, by channel."""

    place: int
    low: Array
    high: Array
    unit: Array


def measure(
    subject: Subject,
    eps: Positive[tuple[float, ...]] = (1.0, 2.0, 4.0, 8.0),
    steps: Count[int] = 10,
    examples: NotNegative[int] = 0,
) -> Measured:
    """Returns the accuracy on the test set under FGSM and PGD, where each pixel changes by at most eps / 255.

    Each network is attacked by its own gradients; the inputs are the prepared ones, kept in the range that pictures can
    have. PGD takes `steps` steps of 2.5 eps / steps from a random start, once. `examples` are how many of the first
    test examples are attacked, 0 for all. A network without gradients (stored answers, a function on the host) has
    None.
    """
    values, lines = {}, {}
    for role in subject.networks:
        network = subject.differentiable(role)
        pixels = None if network is None else pixels_of(network, subject.source("test"))
        if network is None or pixels is None:
            values[role] = {"fgsm": None, "pgd": None}
            continue
        accuracy = accuracies(subject, network, pixels, eps, steps, examples)
        values[role] = {
            f"{attack}_by_eps": dict(zip(map(str, eps), accuracy[attack], strict=True)) for attack in accuracy
        }
        values[role] |= {attack: accuracy[attack][-1] for attack in accuracy}
        lines[role] = [[e, 100 * a] for e, a in zip(eps, accuracy["pgd"], strict=True)]
    section = {
        "kind": "lines",
        "title": "Accuracy under attack",
        "lead": f"PGD with {steps} steps, each network attacked by its own gradients; results.json has FGSM too.",
        "x_label": "largest change of a pixel (1/255)",
        "y_label": "accuracy (%)",
        "lines": lines,
    }
    rows = {
        "fgsm": (f"accuracy under FGSM, {eps[-1]:g}/255", "%"),
        "pgd": (f"accuracy under PGD-{steps}, {eps[-1]:g}/255", "%"),
    }
    return Measured(values, rows, [section] if lines else [])


def accuracies(
    subject: Subject, network: Network, pixels: Pixels, eps: tuple[float, ...], steps: int, examples: int
) -> dict[str, list[float]]:
    """Returns {"fgsm": [accuracy for each eps], "pgd": ...} of one network, over test examples with a label."""
    attack, key = attack_of(network, pixels, steps), jax.random.key(subject.seed)
    hits, count = np.zeros((2, len(eps))), 0
    for batch in rows_until(subject.batches("test"), examples):
        prepared, counted = subject.prepared(batch), np.asarray(batch["mask"]) & (np.asarray(batch["label"]) >= 0)
        count += counted.sum()
        for i, size in enumerate(eps):
            answers = np.asarray(attack(network.variables, network.inputs(prepared), batch, key, size))
            hits[:, i] += ((answers == np.asarray(batch["label"])) & counted).sum(-1)
    return {name: (of / count).tolist() for name, of in zip(("fgsm", "pgd"), hits, strict=True)}


def attack_of(network: Network, pixels: Pixels, steps: int) -> Any:
    """Returns (variables, inputs, batch, key, eps) -> int [2, n]: what the network answers to FGSM and to PGD."""

    def logits(variables: tuple[PyTree, PyTree], inputs: tuple[PyTree, ...], picture: Array) -> Array:
        changed = (*inputs[: pixels.place], picture, *inputs[pixels.place + 1 :])
        return answer_at(network.path, network.model, *variables, changed)

    @jax.jit
    def attack(
        variables: tuple[PyTree, PyTree], inputs: tuple[PyTree, ...], batch: Batch, key: Array, eps: Array
    ) -> Array:
        clean, labels = inputs[pixels.place].astype(jnp.float32), jnp.maximum(batch["label"], 0)

        def loss(picture: Array) -> Array:  # a sum: the gradient of an example is its own
            log_p = jax.nn.log_softmax(logits(variables, inputs, picture).astype(jnp.float32))
            return -jnp.take_along_axis(log_p, labels[:, None], -1).sum()

        gradient, size = jax.grad(loss), eps * pixels.unit
        keys = example_keys(key, batch)
        start = jax.vmap(lambda k, x: jax.random.uniform(k, x.shape, minval=-1.0))(keys, clean) * size
        by_fgsm = fgsm(gradient, clean, size, pixels.low, pixels.high)
        by_pgd = pgd(gradient, clean, clean + start, size, 2.5 * size / steps, steps, pixels.low, pixels.high)
        return jnp.stack([logits(variables, inputs, picture).argmax(-1) for picture in (by_fgsm, by_pgd)])

    return attack


def fgsm(gradient: Gradient, clean: Array, eps: Array, low: Array, high: Array) -> Array:
    """Computes clip(clean + eps sign(gradient(clean)), low, high); sizes and bounds broadcast against the input.

    Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", 2015, arXiv 1412.6572.
    """
    return jnp.clip(clean + eps * jnp.sign(gradient(clean)), low, high)


def pgd(
    gradient: Gradient, clean: Array, start: Array, eps: Array, step: Array, steps: int, low: Array, high: Array
) -> Array:
    """Computes `steps` steps of the gradient's sign, each projected onto the ball of radius eps and onto low..high.

    Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
    arXiv 1706.06083; one restart.
    """

    def project(picture: Array) -> Array:
        return jnp.clip(jnp.clip(picture, clean - eps, clean + eps), low, high)

    return jax.lax.fori_loop(0, steps, lambda _, x: project(x + step * jnp.sign(gradient(x))), project(start))


def pixels_of(network: Network, source: Source) -> Pixels | None:
    """Returns where a network reads pictures and between which values they lie; None where it reads none.

    By its own preparation, or else by the mean and standard deviation of the data, of uint8 pictures / 255.
    """
    preparation = network.role.preparation
    entries = {} if preparation is None else {f"batch.{preparation.entry(n)}": preparation for n in preparation.entries}
    for place, path in enumerate(network.role.inputs):
        where = Path.parse(path)
        if path in entries:
            norm = entries[path]
            scale, mean, std = (1.0, (0.0,), (1.0,)) if norm.raw else (norm.scale, norm.mean, norm.std)
        elif where.kind == "batch" and where.owner == "image" and not where.rest:
            scale, mean, std = 255.0, source.mean, source.std
        else:
            continue
        low, high, unit = (
            (np.float32(v) / scale - np.array(m)) / np.array(std) for v, m in ((0, mean), (255, mean), (1, 0))
        )
        return Pixels(place, *(jnp.asarray(x, jnp.float32).reshape(1, 1, 1, -1) for x in (low, high, unit)))
    return None


def _check(subject: Subject, eps: tuple[float, ...], steps: int, examples: int) -> None:
    if not eps or list(eps) != sorted({*eps}):
        raise ValueError(f"config.measure_kwargs.attacks.eps are sizes in 1/255, each larger than the last, not {eps}.")


MEASURE = Measure(measure, needs=("classes", "pictures"), check=_check)
