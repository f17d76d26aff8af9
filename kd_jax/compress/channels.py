"""Structured pruning of the channels of a CIFAR ResNet or a plain CNN: the network that is left has narrower layers.

Channels that a skip connection adds are one group: whoever writes into them and whoever reads them loses the same ones.
How many stay is a share of each group, so that the shapes are known before anything is trained; which ones, the scores
say. What is published with it: Li et al., "Pruning Filters for Efficient ConvNets", 2016, arXiv 1608.08710 (magnitude);
Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, arXiv 1906.10771 (Taylor); Fang et al.,
"DepGraph: Towards Any Structural Pruning", 2023, arXiv 2301.12900 (groups).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax.compress.plan import Network, Scores, Smaller, check_score, module_of, with_module
from kd_jax.compress.units import Cut, Gate, Units, count_left, sliced, strongest
from kd_jax.models.vision.cnn import CNN
from kd_jax.models.vision.resnet import ResNet
from kd_jax.resolve import near, pattern_of
from kd_jax.types import PyTree


def prune(network: Network, share: float, score: str = "magnitude", layers: str = "") -> Smaller:
    """Returns the network without the `share` of the channels of every group whose name matches `layers`.

    Groups of a ResNet are "stem", "stage1", ... (what the blocks of a stage add up) and "stage1/block0", ... (inside of
    a block); where the first stage adds to the stem's output, the stem is in "stage1". Those of a CNN are "stage1", ...
    and "hidden". The channels with the lowest `score` go: "magnitude", "taylor" or "activation"
    (kd_jax/schemes/compress_scores.py). Raises ValueError for a network that these rules do not know, layers that they
    do not reach, and a share that leaves a group empty.
    """
    check_score(score)
    module = module_of(network.model)
    units = channel_groups(network)
    chosen = tuple(u for u in units if pattern_of(layers, "prune: layers").search(u.name))
    if not chosen:
        raise ValueError(f"prune: no rule reaches layers={layers!r}. {near(layers, [u.name for u in units])}")
    counts = {u.name: count_left(f"prune: {u.name}", u.count, share) for u in chosen}
    narrow = narrowed(module, {u.name: u.count for u in units} | counts)

    def transform(params: PyTree, stats: PyTree, scores: Scores) -> tuple[PyTree, PyTree]:
        remaining = {name: strongest(scores[name], count) for name, count in counts.items()}
        return sliced(params, stats, chosen, remaining)

    where = f" of {layers}" if layers else ""
    label = f"prune {100 * share:g} % of the channels{where} ({score})"
    return Smaller(with_module(network.model, narrow), transform, label, chosen, score)


def channel_groups(network: Network) -> tuple[Units, ...]:
    """Returns the groups of channels that are cut together; ValueError for a network without rules."""
    module, arrays = module_of(network.model), network.arrays
    if isinstance(module, ResNet) and not module.bottleneck and module.groups == 1:
        return _of_resnet(module, arrays)
    if isinstance(module, CNN):
        return _of_cnn(module, arrays)
    raise ValueError(
        f"prune: there are rules for a plain CNN and for ResNets of two 3 x 3 convolutions a block (CIFAR's, ResNet-18 "
        f"and 34), not for this {type(module).__name__}."
    )


def narrowed(module: ResNet | CNN, counts: Mapping[str, int]) -> ResNet | CNN:
    """Returns the module with so many channels in each group."""
    if isinstance(module, CNN):
        widths = tuple(counts[f"stage{i + 1}"] for i in range(len(module.widths)))
        return module.clone(widths=widths, hidden=counts.get("hidden", 0))
    widths = tuple(counts[f"stage{i + 1}"] for i in range(len(module.widths)))
    inner = tuple(counts[name] for name, _, _ in _blocks(module))
    stem = counts.get("stem", widths[0])
    if "stem" in counts and module.first_stride == 1 and stem == widths[0]:
        raise ValueError(
            f"prune: stem and stage1 would both have {stem} channels, and the shortcut between them, which has weights "
            "now, would be the identity: prune them by other shares."
        )
    return module.clone(widths=widths, stem_width=stem, inner_widths=inner)


def _blocks(module: ResNet) -> list[tuple[str, int, int]]:
    """(name, stage, block) of every block, in order."""
    return [(f"stage{s + 1}/block{b}", s, b) for s, count in enumerate(module.blocks) for b in range(count)]


def _written(arrays: Mapping[str, Any], conv: str, norm: str) -> tuple[Cut, ...]:
    """The slices of a convolution's output channels: its kernel, its bias, and the norm after it (folded or not)."""
    first = _kernel(arrays, conv, 3)
    rest = [f"params/{conv}/bias"] + [f"params/{norm}/{name}" for name in ("scale", "bias")]
    rest += [f"stats/batch_stats/{norm}/{name}" for name in ("mean", "var")]
    return (first, *(Cut(path, 0) for path in rest if path in arrays))


def _kernel(arrays: Mapping[str, Any], layer: str, axis: int) -> Cut:
    path = f"params/{layer}/kernel"
    if path not in arrays:
        raise ValueError(f"prune: {layer} has no kernel that could be cut (low-rank factors come after pruning).")
    return Cut(path, axis)


def _of_resnet(module: ResNet, arrays: Mapping[str, Any]) -> tuple[Units, ...]:
    streams: list[tuple[str, list[Cut], list[Gate]]] = [
        ("stem", [*_written(arrays, "stem/conv", "stem/norm")], [Gate("stem")])
    ]
    units = []
    for name, stage, block in _blocks(module):
        cuts, gates = streams[-1][1:]
        cuts.append(_kernel(arrays, f"{name}/conv1/conv", 2))
        shortcut = f"params/{name}/shortcut/conv/kernel" in arrays
        if shortcut:
            cuts.append(_kernel(arrays, f"{name}/shortcut/conv", 2))
            streams.append((f"stage{stage + 1}", [], []))
            cuts, gates = streams[-1][1:]
            cuts += _written(arrays, f"{name}/shortcut/conv", f"{name}/shortcut/norm")
            gates.append(Gate(f"{name}/shortcut"))
        elif block == 0:
            streams[-1] = (f"stage{stage + 1}", cuts, gates)  # what came before is added to, so it is the same group
        cuts += _written(arrays, f"{name}/conv2/conv", f"{name}/conv2/norm")
        gates.append(Gate(f"{name}/conv2"))
        inner = (
            *_written(arrays, f"{name}/conv1/conv", f"{name}/conv1/norm"),
            _kernel(arrays, f"{name}/conv2/conv", 2),
        )
        width = arrays[inner[0].path].shape[3]
        units.append(Units(name, width, inner, (Gate(f"{name}/conv1"),)))
    streams[-1][1].append(_kernel(arrays, "head", 0))
    joined = [Units(n, arrays[c[0].path].shape[c[0].axis], tuple(c), tuple(g)) for n, c, g in streams]
    return (*joined, *units)


def _of_cnn(module: CNN, arrays: Mapping[str, Any]) -> tuple[Units, ...]:
    names = [f"stage{i + 1}" for i in range(len(module.widths))]
    after: Sequence[tuple[str, int]] = [(f"{name}/conv", 2) for name in names[1:]]
    after = [*after, ("hidden" if module.hidden else "head", 0)]
    units = []
    for name, (reader, axis) in zip(names, after, strict=True):
        cuts = (*_written(arrays, f"{name}/conv", f"{name}/norm"), _kernel(arrays, reader, axis))
        units.append(Units(name, arrays[cuts[0].path].shape[3], cuts, (Gate(name),)))
    if module.hidden:
        cuts = (_kernel(arrays, "hidden", 1), Cut("params/hidden/bias", 0), _kernel(arrays, "head", 0))
        units.append(Units("hidden", module.hidden, cuts, (Gate("hidden"),)))
    return tuple(units)
