"""Adapters as a folder that PEFT loads on their base: `PeftModel.from_pretrained(base, folder)`.

Names and orientation are those of PEFT 0.21 (Hugging Face): lora_A.weight [rank, in], lora_B.weight [out, rank], each
under "base_model.model." and the name of the layer; the layer adds B A x alpha / rank.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from kd_jax.models.language.decoder import Decoder
from kd_jax.models.language.decoder_parts import HEAD, Options
from kd_jax.models.language.pretrained_decoders import JOINED, rules_of, sizes_of_parts
from kd_jax.models.lora import LoraModel
from kd_jax.models.safetensors_io import theirs_of
from kd_jax.types import PyTree

WEIGHTS, CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
ROUTERS = {"gpt_oss": "mlp.router"}  # layers that are no linear layers there: PEFT adapts their `weight`
Pair = tuple[np.ndarray, np.ndarray]


def save(folder: Path, base: str, family: str, model: LoraModel, params: PyTree) -> None:
    """Writes the adapters `params` of a decoder of the `family` (config.json's model_type), whose base lies in `base`.

    GPT-2 and Phi-3 hold several layers as one: its adapter has those of the adapted ones side by side, and the patterns
    of adapter_config.json say its rank. ValueError for a network that is no decoder.
    """
    if not isinstance(model.module, Decoder):
        raise ValueError(f"PEFT's names are known for decoders of kd_jax, not for {model.network!r}.")
    o, tensors, ranks, count, routers = model.module.options, {}, {}, Counter(), []
    for path, (a, b) in _joined(_layers(params, o), o, family).items():
        leaf = "embedding" if path == HEAD else "kernel"
        name = theirs_of(f"{path}/{leaf}", rules_of(family)).removesuffix(".weight")
        if family in ROUTERS and name.endswith(ROUTERS[family]):
            routers.append(f"{name}.weight")
        else:
            count[name.rpartition(".")[2]] += 1
        tensors[f"{PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(b.T)
        ranks[name] = a.shape[-1]
    short = all(number == o.depth for number in count.values()) and family not in JOINED
    other = {name: rank for name, rank in ranks.items() if rank != model.rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": model.rank,
        "lora_alpha": model.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": family == "gpt2",  # its layers hold their weights as [in, out]
        "inference_mode": True,
        "target_modules": sorted(count)
        if short
        else sorted({*ranks} - {name.removesuffix(".weight") for name in routers}),
        **({"target_parameters": sorted(routers)} if routers else {}),
        "rank_pattern": other,
        "alpha_pattern": {name: model.alpha * rank / model.rank for name, rank in other.items()},
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _layers(params: PyTree, o: Options) -> dict[str, Pair]:
    """{path of a layer: (A, B)}, those that a scan has stacked one by one."""
    flat: Mapping[str, Any] = traverse_util.flatten_dict(params, sep="/")
    pairs = {}
    for path in sorted({name.rpartition("/")[0] for name in flat}):
        a, b = (np.asarray(flat[f"{path}/{name}"], np.float32) for name in ("a", "b"))
        if path.startswith("layers/"):
            pairs |= {f"layer{i}/{path.removeprefix('layers/')}": (a[i], b[i]) for i in range(o.depth)}
        else:
            pairs[path] = a, b
    return pairs


def _joined(pairs: Mapping[str, Pair], o: Options, family: str) -> dict[str, Pair]:
    """The adapters of layers that the family holds side by side as one each; the others as they are."""
    made, sizes = dict(pairs), sizes_of_parts(o)
    for i, (whole, names) in itertools.product(range(o.depth), JOINED.get(family, {}).items()):
        there = {name: made.pop(f"layer{i}/{name}", None) for name in names}
        parts = {name: pair for name, pair in there.items() if pair is not None}
        rows = [
            np.concatenate([b if name == other else np.zeros((len(b), sizes[other]), b.dtype) for other in names], -1)
            for name, (_, b) in parts.items()
        ]
        if parts:
            a = np.concatenate([a for a, _ in parts.values()], -1)
            made[f"layer{i}/{whole}"] = a, np.concatenate(rows, 0)
    return made
