"""RT-DETR from a folder of `transformers`, such as PekingU/rtdetr_r50vd: its network and the names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_jax.models.detection.rt_detr import RtDetr

MODEL_TYPE, BACKBONE_TYPE = "rt_detr", "rt_detr_resnet"
NORMALISED = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # what a folder without preprocessor_config.json is shown
# Names of earlier versions of transformers, and what they are now, beside those of DETR.
RENAMED = ((r"^(class|bbox)_embed\.", r"decoder.\1_embed."), (r"^encoder\.encoder\.", "encoder.aifi."))
# What training alone uses: noisy queries, and the class heads of all layers but the last (by `network_of`).
UNUSED = (r"^denoising_class_embed\.",)
STEM = "backbone.embedder.embedder.0.convolution"
# Fields of config.json and what is computed here, which is also their default; those of backbone_config follow.
COMPUTED = {
    "normalize_before": False,
    "learn_initial_query": False,
    "with_box_refine": True,
    "use_focal_loss": True,
    "encoder_activation_function": "gelu",
    "activation_function": "silu",
    "decoder_activation_function": "relu",
    "batch_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
}


def network_of(path: Any, config: Mapping[str, Any], classes: int, **answers: Any) -> RtDetr:
    """Returns the network of a config.json; ValueError in one line for what is not computed here."""
    body = config.get("backbone_config") or {}
    wrong = [f"{k}={config[k]!r}" for k, v in COMPUTED.items() if config.get(k, v) != v]
    if body.get("model_type") != BACKBONE_TYPE or body.get("hidden_act", "relu") != "relu":
        wrong = [f"backbone_config of {body.get('model_type')!r}, {body.get('hidden_act', 'relu')}"]
    stages, levels = len(body.get("depths", ())), len(config["encoder_in_channels"])
    last = [f"stage{i}" for i in range(stages - 2, stages + 1)]
    if not wrong and [*body.get("out_features", last)] != last:
        wrong = [f"out_features={body['out_features']}"]
    if not wrong and {levels, len(config["decoder_in_channels"]), config["num_feature_levels"]} != {3}:
        wrong = [f"{levels} levels of the encoder and {config['num_feature_levels']} of the decoder"]
    if wrong:
        raise ValueError(
            f"{path}: an RT-DETR with {wrong[0]} is not read; those of {BACKBONE_TYPE!r} and three levels are, with "
            "transformers' defaults for activations, norms and queries."
        )
    hidden = int(config["encoder_hidden_dim"] * config["hidden_expansion"])
    return RtDetr(
        num_classes=classes,
        backbone=dict(
            blocks=tuple(body["depths"]),
            widths=tuple(body["hidden_sizes"]),
            stem_width=body["embedding_size"],
            deep=body["layer_type"] == "bottleneck",
            stride_first=body["downsample_in_bottleneck"],
            first_stride=2 if body["downsample_in_first_stage"] else 1,
        ),
        encoder=dict(
            features=config["encoder_hidden_dim"],
            hidden=hidden,
            attention=(config["encoder_layers"], config["encoder_attention_heads"], config["encoder_ffn_dim"]),
            attended=tuple(config["encode_proj_layers"]),
            positions=config.get("eval_size") is None,
        ),
        width=config["d_model"],
        queries=config["num_queries"],
        decoder=tuple(config[f"decoder_{k}"] for k in ("layers", "attention_heads", "ffn_dim", "n_points")),
        **answers,
    )


def unused(module: RtDetr) -> tuple[str, ...]:
    """Returns patterns of the names that an evaluation does not read."""
    last = module.decoder[0] - 1
    return (*UNUSED, *(rf"^decoder\.class_embed\.{i}\." for i in range(last)))


def table_of(module: RtDetr) -> dict[str, str]:
    """Returns {path of a module here: its name there}."""
    layers = module.decoder[0]
    table = {
        "enc_dense": "enc_output.0",
        "enc_norm": "enc_output.1",
        "enc_score_head": "enc_score_head",
        f"class{layers - 1}": f"decoder.class_embed.{layers - 1}",
    }
    for i in range(3):
        table |= {f"encoder/input{i}/{k}": f"encoder_input_proj.{i}.{n}" for n, k in enumerate(("conv", "norm"))}
        table |= {f"input{i}/{k}": f"decoder_input_proj.{i}.{n}" for n, k in enumerate(("conv", "norm"))}
        table |= {f"enc_bbox_head/layer{i}": f"enc_bbox_head.layers.{i}"}
    table |= {f"query_pos_head/layer{i}": f"decoder.query_pos_head.layers.{i}" for i in range(2)}
    for i in range(layers):
        here, there = f"decoder{i}", f"decoder.layers.{i}"
        table |= _layer(here, there) | {f"{here}/encoder_attn_layer_norm": f"{there}.encoder_attn_layer_norm"}
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            table[f"{here}/encoder_attn/{name}"] = f"{there}.encoder_attn.{name}"
        table |= {f"bbox{i}/layer{n}": f"decoder.bbox_embed.{i}.layers.{n}" for n in range(3)}
    return table | _backbone(module) | _encoder(module)


def _layer(here: str, there: str) -> dict[str, str]:
    table = {f"{here}/fc{n}": f"{there}.mlp.fc{n}" for n in (1, 2)}
    table |= {f"{here}/{name}_layer_norm": f"{there}.{name}_layer_norm" for name in ("self_attn", "final")}
    return table | {f"{here}/self_attn/{k}_proj": f"{there}.self_attn.{k}_proj" for k in "qkvo"}


def _pairs(here: str, there: str, conv: str = "convolution", norm: str = "normalization") -> dict[str, str]:
    return {f"{here}/conv": f"{there}.{conv}", f"{here}/norm": f"{there}.{norm}"}


def _backbone(module: RtDetr) -> dict[str, str]:
    body, table = module.backbone, {}
    for i in range(3):
        table |= _pairs(f"backbone/stem{i}", f"backbone.embedder.embedder.{i}")
    before = body["stem_width"]
    for stage, (blocks, width) in enumerate(zip(body["blocks"], body["widths"], strict=True)):
        for i in range(blocks):
            here = f"backbone/stage{stage + 1}_block{i}"
            there = f"backbone.encoder.stages.{stage}.layers.{i}"
            for n in range(3 if body["deep"] else 2):
                table |= _pairs(f"{here}/conv{n + 1}", f"{there}.layer.{n}")
            stride = 1 if i else (2 if stage else body["first_stride"])
            pools = stride == 2 if body["deep"] else before != width
            table |= _pairs(f"{here}/shortcut", f"{there}.shortcut{'.1' if pools else ''}")
            before = width
    return table


def _encoder(module: RtDetr) -> dict[str, str]:
    layers, table = module.encoder["attention"][0], {}
    for n in range(len(module.encoder["attended"])):
        for i in range(layers):
            table |= _layer(f"encoder/attention{n}_{i}", f"encoder.aifi.{n}.layers.{i}")
    for i in range(2):
        for here, there in (("lateral", "lateral_convs"), ("halved", "downsample_convs")):
            table |= _pairs(f"encoder/{here}{i}", f"encoder.{there}.{i}", "conv", "norm")
        for here, there in (
            (f"encoder/down{i}", f"encoder.fpn_blocks.{i}"),
            (f"encoder/up{i}", f"encoder.pan_blocks.{i}"),
        ):
            for n in (1, 2, 3):
                table |= _pairs(f"{here}/conv{n}", f"{there}.conv{n}", "conv", "norm")
            for block in range(3):
                for n, size in ((1, 3), (2, 1)):
                    names = (f"{here}/block{block}_conv{size}", f"{there}.bottlenecks.{block}.conv{n}")
                    table |= _pairs(*names, "conv", "norm")
    return table
