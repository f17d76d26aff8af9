"""How much the units of a transformer matter: by their weights, by gradients, by what they answer on a few batches.

magnitude    the norm of the weights of a unit
taylor       the squared change of the loss, to first order, where a unit is left out: (sum of gradient * weight)^2 of
             each of its arrays, averaged over batches. Molchanov et al., "Importance Estimation for Neural Network
             Pruning", 2019, arXiv 1906.10771; here of the mean gradient of a batch, not of an example
activation   what a unit answers: the norm of a head's answer, the size of an FFN unit, of a channel after the norms;
             the mean over tokens, then the root of the sum of squares over examples, summed over the norms. Layers:
             1 - cosine between what goes in and comes out (block importance). Muralidharan et al., "Compact Language
             Models via Pruning and Knowledge Distillation" (Minitron), 2024, arXiv 2407.14679; the block importance is
             that of Men et al., "ShortGPT", 2024, arXiv 2403.03853. Deviations from Minitron: heads and FFN units are
             ranked in each layer, an FFN unit is what the last matrix reads (after the gate), and what a head that
             goes had known is not added to others
perplexity   layers alone: the loss of the network without the layer (Minitron's PPL; Kim et al., "Shortened LLaMA",
             2024, arXiv 2402.02834)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax.compress.families import Family, axes_of, family_of
from kd_jax.compress.plan import module_of, with_module
from kd_jax.compress.transformer_units import Sizes, sizes_of, stacked, unscanned
from kd_jax.models.intercept import Layer, first_input, intercepted
from kd_jax.resolve import near
from kd_jax.types import Array, Model, Outputs, PyTree

SCORES = ("magnitude", "taylor", "activation", "perplexity")
Scores = dict[str, Array]  # "layers" [layers], "width" [width], "heads" [layers, heads], "hidden" [layers, hidden]
Batch = tuple[tuple[Any, ...], Mapping[str, Array]]  # (inputs of the network, the batch that they are of)
Loss = Callable[[Outputs, Mapping[str, Array]], Array]  # the mean over what counts in a batch
KEY = 0  # of the generator that evaluation asks for, and does not use


def check_score(score: str, units: Sequence[str]) -> None:
    """Raises ValueError for an unknown score, or one that says nothing of these units."""
    if score not in SCORES:
        raise ValueError(f"prune: score={score!r}. {near(score, SCORES)}")
    others = [unit for unit in units if unit != "layers"]
    if score == "perplexity" and others:
        raise ValueError(f"prune: score='perplexity' ranks layers alone, not {', '.join(others)}.")


def scores(model: Model, score: str, params: PyTree, stats: PyTree, batches: Iterable[Batch], loss: Loss) -> Scores:
    """Returns the scores of the units of a decoder or encoder in evaluation mode on the batches; higher matters more.

    "magnitude" reads no batch; of "taylor" and "perplexity" the `loss` is what counts. ValueError for an unknown score,
    and where there are no batches.
    """
    module = module_of(model)
    check_score(score, ())
    if score == "magnitude":
        return magnitude(module, params)
    module, params = unscanned(module, params)
    model = with_module(model, module)

    def answer(params: PyTree, batch: Batch) -> Outputs:
        return model.apply(params, stats, *batch[0], train=False, key=jax.random.key(KEY))[0]

    def lost(params: PyTree, batch: Batch) -> Array:
        return loss(answer(params, batch), batch[1])

    measures = {
        "taylor": partial(_taylor, module, lost),
        "activation": partial(_activation, module, answer),
        "perplexity": partial(_losses_without, lost, family_of(module).layer, sizes_of(module).layers),
    }
    measure, total, count = jax.jit(measures[score]), None, 0
    for batch in batches:
        values = measure(params, batch)
        total, count = values if total is None else jax.tree.map(jnp.add, total, values), count + 1
    if total is None:
        raise ValueError(f"prune: score={score!r} needs batches to calibrate on.")
    if score != "activation":
        return jax.tree.map(lambda x: x / count, total)
    roots = {unit: jnp.sqrt(total[unit]) for unit in ("heads", "hidden")}
    return {**roots, "width": jnp.sqrt(total["width"]).sum(0), "layers": total["layers"] / count}


def magnitude(module: nn.Module, params: PyTree) -> Scores:
    """Returns the norm of the weights of every unit."""
    squares = jax.tree.map(lambda x: jnp.square(x.astype(jnp.float32)), params)
    return jax.tree.map(jnp.sqrt, _by_unit(module, squares, lambda x: x))


def _taylor(module: nn.Module, lost: Callable[[PyTree, Batch], Array], params: PyTree, batch: Batch) -> Scores:
    """The squared first-order change of the loss of a batch where a unit is left out, summed over its arrays."""
    grads = jax.grad(lost)(params, batch)
    return _by_unit(module, jax.tree.map(lambda g, w: g * w, grads, params), jnp.square)


def _by_unit(module: nn.Module, values: PyTree, each: Callable[[Array], Array]) -> Scores:
    """Sums values of the parameters' shapes over every unit's part of an array, then each(sum) over the arrays."""
    family, now = family_of(module), sizes_of(module)
    outside, inside = stacked(module, values)
    layers = [each(x.reshape(now.layers, -1).sum(1)) for x in inside.values()]
    sums: dict[str, list[Array]] = {"layers": layers, "width": [], "heads": [], "hidden": []}
    for path, value in outside.items():
        for axis, unit in enumerate(axes_of(family, path)):
            if unit == "width":
                sums[unit].append(each(jnp.moveaxis(value, axis, 0).reshape(now.width, -1).sum(1)))
    for path, value in inside.items():
        for axis, unit in enumerate(axes_of(family, path)):
            if unit not in sums:
                continue  # keys and values that a group shares say nothing of one head
            moved = jnp.moveaxis(value, axis + 1, 1)
            parts = each(moved.reshape(now.layers, getattr(now, unit), -1).sum(2))
            sums[unit].append(parts.sum(0) if unit == "width" else parts)
    return {unit: jnp.stack(arrays).sum(0) for unit, arrays in sums.items() if arrays}


def _activation(module: nn.Module, answer: Callable[[PyTree, Batch], Any], params: PyTree, batch: Batch) -> Scores:
    """Of a batch the sums over examples of squared mean sizes, "width" by norm; "layers" is block importance."""
    family, now, sizes_by_unit = family_of(module), sizes_of(module), {}
    with _watched(family, now, sizes_by_unit):
        answer(params, batch)
    shape, further = sizes_by_unit["layers"][0].shape, batch[0][1:]
    real = (further[0] != 0 if further else jnp.ones(shape, bool)).astype(jnp.float32)  # of all tokens

    def squares(sizes: Array) -> Array:
        """Of sizes [batch, tokens, n]: the mean over real tokens, squared and summed over examples."""
        means = (sizes * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None]
        return jnp.square(means).sum(0)

    changes = [jnp.sum((1 - cosine) * real) / jnp.maximum(real.sum(), 1) for cosine in sizes_by_unit["layers"]]
    sums = {unit: jnp.stack([squares(x) for x in sizes_by_unit[unit]]) for unit in ("heads", "hidden", "width")}
    return {**sums, "layers": jnp.stack(changes)}


@contextlib.contextmanager
def _watched(family: Family, now: Sizes, sizes_by_unit: dict[str, list[Array]]) -> Generator[None]:
    """Fills `sizes_by_unit` {unit: sizes [batch, tokens, n], in the order of layers or norms} while a network runs."""
    sizes_by_unit |= {"heads": [], "hidden": [], "width": [], "layers": []}

    def watch(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        result = layer.call(*args, **kwargs)
        inside = re.sub(rf"^{family.layer}\d+/", "", layer.path)
        if re.fullmatch(rf"{family.layer}\d+", layer.path):
            sizes_by_unit["layers"].append(_cosine(first_input(layer, args), result))
        elif inside == family.heads_read:
            answers = first_input(layer, args).astype(jnp.float32)
            parts = answers.reshape(*answers.shape[:2], now.heads, now.head_width)
            sizes_by_unit["heads"].append(jnp.sqrt(jnp.square(parts).sum(-1)))
        elif inside == family.hidden_read:
            sizes_by_unit["hidden"].append(jnp.abs(first_input(layer, args).astype(jnp.float32)))
        elif re.fullmatch(family.norms, layer.path):
            sizes_by_unit["width"].append(jnp.abs(result.astype(jnp.float32)))
        return result

    with intercepted(watch):
        yield


def _cosine(before: Array, after: Array) -> Array:
    before, after = before.astype(jnp.float32), after.astype(jnp.float32)
    norms = jnp.sqrt(jnp.square(before).sum(-1) * jnp.square(after).sum(-1))
    return (before * after).sum(-1) / jnp.maximum(norms, 1e-12)


def _losses_without(
    lost: Callable[[PyTree, Batch], Array], name: str, layers: int, params: PyTree, batch: Batch
) -> dict[str, Array]:
    """{"layers" [layers]: what a network without one layer has `lost` on a batch}."""

    def one(number: Array) -> Array:
        with skipped(name, number):
            return lost(params, batch)

    return {"layers": jax.lax.map(one, jnp.arange(layers))}


@contextlib.contextmanager
def skipped(name: str, number: Array) -> Generator[None]:
    """Leaves out a layer while a network runs: it answers what it reads. Its number may be traced."""

    def skip(layer: Layer, /, *args: Any, **kwargs: Any) -> Any:
        result, match = layer.call(*args, **kwargs), re.fullmatch(rf"{name}(\d+)", layer.path)
        return result if match is None else jnp.where(number == int(match[1]), first_input(layer, args), result)

    with intercepted(skip):
        yield
