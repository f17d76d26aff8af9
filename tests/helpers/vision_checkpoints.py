"""Small vision transformers of `transformers` with random weights, for tests: what is written, and what it answers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SIDE, PATCH, WIDTH, CLASSES = 16, 4, 16, 3
SIZES = dict(
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    image_size=SIDE,
    patch_size=PATCH,
)
RATIO = {k: v for k, v in SIZES.items() if k != "intermediate_size"}  # DINOv2 names the ratio instead
ANY = {k: v for k, v in SIZES.items() if k != "image_size"} | {"num_patches": (SIDE // PATCH) ** 2}
WINDOWS = dict(image_size=32, patch_size=PATCH, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4)
TEXT = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
TOWERS = dict(
    vision_config=SIZES, text_config=TEXT | dict(bos_token_id=1, eos_token_id=2), bos_token_id=1, eos_token_id=2
)
LABELS = dict(num_labels=CLASSES)
# A class, the class of its config, its fields.
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", SIZES | LABELS),
    "vit without a head": ("ViTModel", "ViTConfig", SIZES | dict(qkv_bias=False, hidden_act="gelu_new")),
    "deit": ("DeiTForImageClassification", "DeiTConfig", SIZES | LABELS),
    "deit with two heads": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", SIZES | LABELS),
    "deit without a head": ("DeiTModel", "DeiTConfig", SIZES),
    "dinov2": ("Dinov2Model", "Dinov2Config", RATIO),
    "dinov2 with a head": ("Dinov2ForImageClassification", "Dinov2Config", RATIO | LABELS),
    "dinov2 gated": ("Dinov2Model", "Dinov2Config", RATIO | dict(use_swiglu_ffn=True)),
    "dinov2 registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", RATIO | dict(num_register_tokens=2)),
    "dinov2 registers, head": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        RATIO | LABELS,
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", SIZES | dict(num_register_tokens=2)),
    "dinov3 gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        SIZES | dict(use_gated_mlp=True, query_bias=False, value_bias=False),
    ),
    "clip tower": ("CLIPVisionModel", "CLIPVisionConfig", SIZES),
    "clip tower, projected": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", SIZES | dict(projection_dim=6)),
    "clip": ("CLIPModel", "CLIPConfig", TOWERS | dict(projection_dim=6)),
    "clip with a head": ("CLIPForImageClassification", "CLIPConfig", TOWERS | LABELS),
    "siglip tower": ("SiglipVisionModel", "SiglipVisionConfig", SIZES),
    "siglip": ("SiglipModel", "SiglipConfig", TOWERS),
    "siglip with a head": ("SiglipForImageClassification", "SiglipConfig", TOWERS | LABELS),
    "siglip2 of any size": ("Siglip2VisionModel", "Siglip2VisionConfig", ANY),
    "swin": ("SwinForImageClassification", "SwinConfig", WINDOWS | LABELS),
    "swin without a head": ("SwinModel", "SwinConfig", WINDOWS),
    "swinv2": ("Swinv2ForImageClassification", "Swinv2Config", WINDOWS | LABELS),
    "swinv2 of other windows": ("Swinv2Model", "Swinv2Config", WINDOWS | dict(pretrained_window_sizes=[3, 2])),
}


def network(name: str, **changes: Any) -> Any:
    """A network of NETWORKS whose weights are all random: a bias of 0 or a scale of 1 would hide a swapped pair."""
    architecture, config, fields = NETWORKS[name]
    torch.manual_seed(0)
    made = getattr(transformers, architecture)(getattr(transformers, config)(**{**fields, **changes}))
    for value in made.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return made.eval()


def folder_of(network: Any, folder: Path) -> str:
    """The network, written as transformers writes it."""
    network.save_pretrained(folder)
    return str(folder)


def images(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, height, width, channels)).astype(np.float32)


def answers(network: Any, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(the main output, the hidden states after the embeddings and every layer) for images [n, height, width, 3]."""
    tower = getattr(network, "vision_model", network) if hasattr(network, "text_model") else network
    with torch.no_grad():
        outputs = tower(**_inputs(tower, images), output_hidden_states=True)
    if hasattr(network, "text_model") and hasattr(network, "visual_projection"):
        main = network.visual_projection(outputs.pooler_output)
    elif isinstance(network, (transformers.ViTModel, transformers.DeiTModel)):  # their pooler is not read
        main = outputs.last_hidden_state[:, 0]
    else:
        main = next(outputs[name] for name in ("logits", "image_embeds", "pooler_output") if name in outputs)
    return main.detach().numpy(), [h.numpy() for h in outputs.hidden_states]


def _inputs(tower: Any, images: np.ndarray) -> dict[str, Any]:
    if isinstance(tower, transformers.Siglip2VisionModel):
        side = tower.config.patch_size
        n, height, width, channels = images.shape
        rows, columns = height // side, width // side
        patches = images.reshape(n, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
        return {
            "pixel_values": torch.tensor(patches.reshape(n, rows * columns, -1)),
            "pixel_attention_mask": torch.ones(n, rows * columns),
            "spatial_shapes": torch.tensor([[rows, columns]] * n),
        }
    classifies = isinstance(tower, transformers.CLIPForImageClassification)  # it hands the argument on
    takes = classifies or "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
    pixels = {"pixel_values": torch.tensor(images.transpose(0, 3, 1, 2).copy())}
    return pixels | ({"interpolate_pos_encoding": True} if takes else {})
