"""Vision transformers under the names of timm and of their authors: equal outputs, from files without a config."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import save_file  # noqa: E402
from torch_peers import ours  # noqa: E402
from vision_checkpoints import CLASSES, answers, images, network  # noqa: E402

from kd_jax.models.vision import pretrained  # noqa: E402

TOLERANCE = 1e-4
ONE_HEAD = dict(hidden_size=64, num_attention_heads=1)
# Names of transformers and what stands for them in timm; the first pattern that is in a name changes it.
BODY = {
    r"^(vit|deit|dinov2|dinov2_with_registers|swin)\.": "",
    r"^embeddings\.distillation_token": "dist_token",
    r"^embeddings\.cls_token": "cls_token",
    r"^embeddings\.register_tokens": "reg_token",
    r"^embeddings\.position_embedding(s|\.weight)": "pos_embed",
    r"^embeddings\.patch_embeddings?(\.projection)?": "patch_embed.proj",
    r"^embeddings\.norm": "patch_embed.norm",
    r"^encoder\.layers?\.(?=\d+\.(blocks|downsample))": "layers.",
    r"^encoder\.layers?\.": "blocks.",
    r"(layernorm_before|layer_norm1)": "norm1",
    r"(layernorm_after|layer_norm2)": "norm2",
    r"(attention\.output\.dense|self_attn\.out_proj)": "attn.proj",
    r"(attention\.attention|attention\.self|self_attn)\.": "attn.",
    r"intermediate\.dense": "mlp.fc1",
    r"(?<!attention\.)output\.dense": "mlp.fc2",
    r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
    r"^(layernorm|post_layernorm)": "norm",
    r"^(cls_)?classifier": "head",
    r"^distillation_classifier": "head_dist",
    r"^head\.probe": "attn_pool.latent",
    r"^head\.attention\.out_proj": "attn_pool.proj",
    r"^head\.layernorm": "attn_pool.norm",
    r"^head\.mlp": "attn_pool.mlp",
}
TIMM = BODY | {r"mlp\.weights_in": "mlp.fc1", r"mlp\.weights_out": "mlp.fc2"}
AUTHORS = BODY | {
    r"mlp\.weights_in": "mlp.w12",
    r"mlp\.weights_out": "mlp.w3",
    r"^reg_token": "register_tokens",
    r"^embeddings\.mask_token": "mask_token",
}


def renamed(theirs, names):
    """The arrays of a network of transformers under the names of another library; queries, keys, values in one."""
    folder = {}
    for name, value in theirs.items():
        for pattern, text in names.items():
            name = re.sub(pattern, text, name)
        folder[name] = value
    for name in [n for n in folder if re.search(r"attn\.(query|q_proj)\.", n)]:
        parts = [folder.pop(re.sub(r"(query|q_proj)", part, name)) for part in parts_of(name)]
        folder[re.sub(r"(query|q_proj)", "qkv", name)] = np.concatenate(parts)
    for leaf in ("weight", "bias"):
        if f"head.attention.in_proj_{leaf}" in folder:
            joined = folder.pop(f"head.attention.in_proj_{leaf}")
            folder[f"attn_pool.q.{leaf}"], folder[f"attn_pool.kv.{leaf}"] = np.split(joined, [len(joined) // 3])
    if "pos_embed" in folder and folder["pos_embed"].ndim == 2:
        folder["pos_embed"] = folder["pos_embed"][None]
    return {name: np.ascontiguousarray(value) for name, value in folder.items()}


def parts_of(name):
    return ("query", "key", "value") if "query" in name else ("q_proj", "k_proj", "v_proj")


def arrays_of(theirs, tmp_path):
    """What transformers writes, under the names of its files."""
    from safetensors.numpy import load_file

    theirs.save_pretrained(tmp_path / "folder")
    return load_file(tmp_path / "folder" / "model.safetensors")


ROWS = {
    "vit": ("vit", ONE_HEAD | dict(layer_norm_eps=1e-6), TIMM),
    "deit": ("deit with two heads", ONE_HEAD | dict(layer_norm_eps=1e-6), TIMM),
    "dinov2 gated, of its authors": ("dinov2 gated", ONE_HEAD, AUTHORS),
    "dinov2 gated, of timm": ("dinov2 gated", ONE_HEAD, TIMM),
    "dinov2 registers, of its authors": ("dinov2 registers", ONE_HEAD, AUTHORS),
    "siglip": ("siglip tower", ONE_HEAD | dict(hidden_act="gelu"), TIMM),
    "swin, of its authors": ("swin", dict(image_size=32), TIMM),
}


@pytest.mark.parametrize("row", list(ROWS))
def test_names_elsewhere(row, tmp_path):
    name, changes, names = ROWS[row]
    theirs = network(name, **changes)
    arrays = renamed(arrays_of(theirs, tmp_path), names)
    arrays = {k: v for k, v in arrays.items() if k != "embeddings.mask_token"}
    save_file(arrays, tmp_path / "model.safetensors")
    x = images(32, 32) if name == "swin" else images(16, 16)
    np.testing.assert_allclose(ours(tmp_path / "model.safetensors", x)[-1], answers(theirs, x)[0], atol=TOLERANCE)


SMALL = dict(embed_dim=64, depth=2, num_heads=1)
TIMM_NETWORKS = {
    "vit_tiny_patch16_224": SMALL | dict(img_size=32, num_classes=CLASSES),
    "deit_tiny_distilled_patch16_224": SMALL | dict(img_size=32, num_classes=CLASSES),
    "deit3_small_patch16_224": SMALL | dict(img_size=32, num_classes=CLASSES),
    "vit_small_patch14_dinov2": SMALL | dict(img_size=28),
    "vit_small_patch14_reg4_dinov2": SMALL | dict(img_size=28),
    "vit_giant_patch14_dinov2": SMALL | dict(img_size=28, mlp_ratio=4.0),
    "vit_base_patch16_siglip_224": SMALL | dict(img_size=32, num_classes=0),
    "vit_base_patch32_clip_224": SMALL | dict(img_size=64, num_classes=0),
    "vit_base_patch32_clip_quickgelu_224": SMALL | dict(img_size=64, num_classes=CLASSES),
    "swin_tiny_patch4_window7_224": dict(
        embed_dim=8, depths=(2, 2), num_heads=(2, 4), num_classes=CLASSES, img_size=56
    ),
}


@pytest.mark.parametrize("name", list(TIMM_NETWORKS))
def test_networks_of_timm(name, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(name, **TIMM_NETWORKS[name]).eval()
    for value in theirs.parameters():
        value.data += 0.2 * torch.randn_like(value)
    path = tmp_path / f"{name}.pth"
    torch.save(theirs.state_dict(), path)
    size = TIMM_NETWORKS[name]["img_size"]
    x = images(size, size)
    with torch.no_grad():
        wanted = theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()
    module, _, _, logits = ours(path, x)
    np.testing.assert_allclose(logits, wanted, atol=TOLERANCE)
    assert module.image_size == size


def test_which_clip_it_is_stands_in_its_name_alone(tmp_path):
    arrays = {"patch_embed.proj.weight": np.zeros((64, 3, 8, 8), np.float32), "cls_token": np.zeros((1, 1, 64))}
    arrays |= {"pos_embed": np.zeros((1, 5, 64)), "norm_pre.weight": np.zeros(64)}
    arrays |= {"blocks.0.attn.qkv.weight": np.zeros((192, 64)), "blocks.0.mlp.fc1.weight": np.zeros((256, 64))}
    arrays |= {"blocks.0.mlp.fc2.weight": np.zeros((64, 256))}
    for name, activation in (("vit_x_clip_quickgelu_224", "quick_gelu"), ("vit_x_clip_224", "gelu")):
        save_file(arrays, tmp_path / f"{name}.safetensors")
        assert pretrained.of(str(tmp_path / f"{name}.safetensors")).activation == activation
    save_file(arrays, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="is in its name alone"):
        pretrained.of(str(tmp_path / "weights.safetensors"))
