"""Published detectors as teachers, from a folder of `transformers`: DETR and RT-DETR (facebook/detr-resnet-50,
PekingU/rtdetr_r50vd and the like).

    model = LinenModel(of(FOLDER))
    params, stats = load(model, jax.random.key(0), FOLDER)

Their classes are those of the folder, or `chosen` of them. They teach (config.detection:detr) and are not trained here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.models.adapters import LinenModel
from kd_jax.models.detection import rt_detr_folder
from kd_jax.models.detection.detr import Detr
from kd_jax.models.detection.rt_detr import RtDetr
from kd_jax.models.vision.pretrained import conv_names, resnet
from kd_jax.models.vision.pretrained.checkpoint import Checkpoint, open_checkpoint
from kd_jax.models.vision.pretrained.preparing import IMAGENET, class_names, prepared_by
from kd_jax.types import Array, Model, PyTree

MODEL_TYPES = ("detr", rt_detr_folder.MODEL_TYPE)
# Names of earlier versions of transformers, and what they are now.
RENAMED = (
    (r"^model\.", ""),
    (r"^backbone\.(conv_encoder\.)?model\.", "backbone."),
    (r"\.out_proj\.", ".o_proj."),
    (r"(layers\.\d+)\.fc(\d)\.", r"\1.mlp.fc\2."),
    *rt_detr_folder.RENAMED,
)


def of(
    path: str | Path, num_classes: int | None = None, chosen: Sequence[int] = (), picture: Sequence[int] = ()
) -> Detr | RtDetr:
    """Returns the DETR or RT-DETR of a folder; `load` has its weights.

    `chosen` are the numbers of the folder's classes that stand for those of the data, in order. It is shown pictures of
    the data's size, with mean and std of its preprocessor_config.json; where config.teacher.preparation resizes them,
    `picture` is (height, width) of the data, in whose pixels its boxes are. ValueError where the folder is of another
    kind, and where its classes are not `num_classes`.
    """
    checkpoint = open_checkpoint(path)
    config, arrays = checkpoint.config, _renamed(checkpoint)
    if config.get("model_type") not in MODEL_TYPES:
        kinds = " and ".join(map(repr, MODEL_TYPES))
        raise ValueError(f"{path}: the model type is {config.get('model_type')!r}; detectors are read of {kinds}.")
    is_detr = config["model_type"] != rt_detr_folder.MODEL_TYPE
    names, head = class_names(config), "class_labels_classifier.bias" if is_detr else "enc_score_head.bias"
    count = len(names) or arrays[head].shape[0] - is_detr  # one of DETR's is "no object"
    if wrong := [i for i in chosen if not 0 <= i < count]:
        raise ValueError(f"{path}: chosen={tuple(chosen)}, and its classes are 0 to {count - 1}, not {wrong[0]}.")
    if num_classes not in (None, len(chosen) or count):
        raise ValueError(
            f"{path} has {count} classes ({', '.join(names[:4])}, ...), and the data {num_classes}: `chosen` names the "
            f"{num_classes} of them that are those of the data, in order."
        )
    answers: dict[str, Any] = {"picture": tuple(picture), "chosen": tuple(chosen)}
    if is_detr:
        module, default = _detr(checkpoint, count, answers), IMAGENET
    else:
        module = rt_detr_folder.network_of(path, config, count, **answers)
        default = IMAGENET | rt_detr_folder.NORMALISED
    said = prepared_by(checkpoint.folder, config, default)
    # Beside the fields, for Linen's modules are frozen. The size is that of the data: boxes are in its pixels.
    object.__setattr__(module, "preparation", {"mean": said["mean"], "std": said["std"]})
    return module


def _detr(checkpoint: Checkpoint, classes: int, answers: Mapping[str, Any]) -> Detr:
    config = checkpoint.config
    if config.get("position_embedding_type", "sine") != "sine" or config.get("dilation"):
        raise ValueError(f"{checkpoint.path}: learned positions and dilated backbones (DC5) are not read.")
    body = backbone_of(checkpoint)
    sizes = {
        side: (config[f"{side}_layers"], config[f"{side}_attention_heads"], config[f"{side}_ffn_dim"])
        for side in ("encoder", "decoder")
    }
    return Detr(
        num_classes=classes,
        blocks=body.blocks,
        widths=body.widths,
        stem_width=body.stem_width,
        bottleneck=body.bottleneck,
        stride_first=body.stride_first,
        first_stride=body.first_stride,
        width=config["d_model"],
        queries=config["num_queries"],
        **sizes,
        **answers,
    )


def load(model: Model | Detr | RtDetr, key: Array, path: str | Path) -> tuple[PyTree, PyTree]:
    """Returns (params, stats) of `of(path)` in float32; ValueError lists what is missing or of another shape."""
    del key
    module = model.module if isinstance(model, LinenModel) else model
    checkpoint = open_checkpoint(path)
    wanted = RtDetr if checkpoint.config.get("model_type") == rt_detr_folder.MODEL_TYPE else Detr
    if not isinstance(module, wanted):
        raise ValueError(
            f"{path} is of {checkpoint.config.get('model_type')!r}, the model a {type(module).__name__}: make it with "
            f"of({str(path)!r})."
        )
    arrays, unused = _renamed(checkpoint), ()
    if isinstance(module, RtDetr):
        table, stem, unused = rt_detr_folder.table_of(module), rt_detr_folder.STEM, rt_detr_folder.unused(module)
    else:
        body, timm = backbone_of(checkpoint), "backbone.conv1.weight" in arrays
        inner = resnet.torchvision_names(body, "fc") if timm else resnet.hugging_face_names(body)
        table = {f"backbone/{here}": f"backbone.{there}" for here, there in inner.items()} | _transformer(module)
        stem = f"backbone.{'conv1' if timm else 'embedder.embedder.convolution'}"
    try:
        return conv_names.read(arrays, table, module, stem, unused)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e


def _renamed(checkpoint: Checkpoint) -> Mapping[str, np.ndarray]:
    """The arrays under the names of today."""
    arrays = {}
    for name in checkpoint.arrays:
        new = name
        for pattern, put in RENAMED:
            new = re.sub(pattern, put, new)
        arrays[new] = checkpoint.arrays[name]
    return arrays


def backbone_of(checkpoint: Checkpoint) -> Any:
    """Returns the ResNet, without a head, of the config or of timm's names; ValueError for another backbone."""
    arrays = {k.removeprefix("backbone."): v for k, v in _renamed(checkpoint).items() if k.startswith("backbone.")}
    config = resnet.guess(arrays) or checkpoint.config.get("backbone_config")
    if not config or ("model_type" in config and config["model_type"] not in resnet.MODEL_TYPES):
        raise ValueError(f"{checkpoint.path}: its backbone is no ResNet, and only those are read.")
    return resnet.build({**config, "num_labels": 0})


def _transformer(module: Detr) -> dict[str, str]:
    table = {
        "input_projection": "input_projection",
        "query_position_embeddings": "query_position_embeddings.weight",
        "layernorm": "decoder.layernorm",
        "class_labels_classifier": "class_labels_classifier",
        **{f"bbox{i}": f"bbox_predictor.layers.{i}" for i in range(3)},
    }
    for side, (layers, *_) in (("encoder", module.encoder), ("decoder", module.decoder)):
        attentions = ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",)
        for i in range(layers):
            here, there = f"{side}{i}", f"{side}.layers.{i}"
            table |= {f"{here}/fc{n}": f"{there}.mlp.fc{n}" for n in (1, 2)}
            table |= {f"{here}/{name}_layer_norm": f"{there}.{name}_layer_norm" for name in (*attentions, "final")}
            for name in attentions:
                table |= {f"{here}/{name}/{k}_proj": f"{there}.{name}.{k}_proj" for k in "qkvo"}
    return table
