"""Published vision transformers that are damaged, of another kind, or asked for what they have not."""

import json

import jax
import numpy as np
from mistakes import Mistake, check, config, each, run
from safetensors.numpy import load_file, save_file

import kd_jax
from kd_jax.models.vision.pretrained import load, of, save
from kd_jax.models.vision.pretrained.dinov3 import build as dinov3
from kd_jax.models.vision.swin import swin
from kd_jax.models.vision.vit import ViT, vit

KEY, SIDE, CLASSES = jax.random.key(0), 8, 4


def written(folder, module=None, **fields):
    """The path of a ViT of 4 classes, written with `fields` of its config.json changed."""
    module = vit(CLASSES, patch=4, width=8, depth=1, heads=2) if module is None else module
    params, stats = kd_jax.LinenModel(module).init(KEY, np.zeros((1, SIDE, SIDE, 3), np.float32))
    save(module, params, stats, folder / "checkpoint")
    path = folder / "checkpoint" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return str(path.parent)


def with_arrays(folder, change):
    """The path of a ViT whose arrays were changed in place."""
    path = written(folder)
    arrays = load_file(f"{path}/model.safetensors")
    change(arrays)
    save_file(arrays, f"{path}/model.safetensors")
    return load(of(path), KEY, path)


def images(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, SIDE, SIDE, 3)).astype(np.float32), (np.arange(n) % CLASSES).astype(np.int32)


def taught(folder, path, **fields):
    """A student of images taught by the checkpoint at `path`."""
    made = config(
        teacher__model__name="models.vision.pretrained.of",
        teacher__model__kwargs=dict(path=path),
        teacher__initial__name="models.vision.pretrained.load",
        teacher__initial__kwargs=dict(path=path),
        teacher__train__steps=0,
        **fields,
    )
    made.teacher.train.steps = 0
    data = kd_jax.from_arrays(train=images(), test=images(seed=1), validation=0.2)
    return run(folder, made, student=vit(CLASSES, patch=4, width=8, depth=1, heads=2), teacher=None, data=data)


def transposed(arrays):
    name = "vit.encoder.layer.0.intermediate.dense.weight"
    arrays[name] = np.ascontiguousarray(arrays[name].T)


def bare(folder, width, name="weights"):
    """The path of a state dict under timm's names, of zeros: enough to tell what it is."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "norm_pre.weight": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.0.mlp.fc2.weight": (width, 4 * width),
    }
    save_file({k: np.zeros(s, np.float32) for k, s in shapes.items()}, folder / f"{name}.safetensors")
    return of(str(folder / f"{name}.safetensors"))


def saved(folder, module):
    params, stats = kd_jax.LinenModel(module).init(KEY, np.zeros((1, SIDE, SIDE, 3), np.float32))
    save(module, params, stats, folder)


def shown(module, side=SIDE):
    kd_jax.LinenModel(module).init(KEY, np.zeros((1, side, side, 3), np.float32))


ROWS = [
    Mistake(
        "a vision checkpoint of a kind that is not read",
        "the model type is 'beit'. Did you mean 'deit' or 'vit'?",
        lambda folder: of(written(folder, model_type="beit")),
    ),
    Mistake(
        "a checkpoint without a tensor of its network",
        "missing: 'layernorm.bias' (here 'norm/bias')",
        lambda folder: with_arrays(folder, lambda arrays: arrays.pop("vit.layernorm.bias")),
    ),
    Mistake(
        "a checkpoint with a tensor that its network has not",
        "unexpected: 'adapter'",
        lambda folder: with_arrays(folder, lambda arrays: arrays.update({"vit.adapter": np.zeros(2, np.float32)})),
    ),
    Mistake(
        "a matrix of a checkpoint that stands on its side",
        "wrong shape: 'encoder.layer.0.intermediate.dense.weight' has (8, 32), here 'block0/mlp1/kernel' is (8, 32)",
        lambda folder: with_arrays(folder, transposed),
    ),
    Mistake(
        "a config.json of more layers than the file has",
        "missing: 'encoder.layer.1.",
        lambda folder: load(of(path := written(folder, num_hidden_layers=2)), KEY, path),
    ),
    Mistake(
        "a checkpoint for images that are no squares",
        "image_size is [8, 16]: only squares are read",
        lambda folder: of(written(folder, image_size=[8, 16])),
    ),
    Mistake(
        "a checkpoint with an activation that is not known",
        "activation 'glu'. Did you mean 'gelu'…",
        lambda folder: of(written(folder, hidden_act="glu")),
    ),
    Mistake(
        "a Swin with absolute positions",
        "use_absolute_embeddings must be false",
        lambda folder: of(written(folder, model_type="swin", use_absolute_embeddings=True)),
    ),
    Mistake(
        "a DINOv3 whose layers lack a bias",
        "proj_bias and mlp_bias must be true",
        lambda folder: of(written(folder, model_type="dinov3_vit", mlp_bias=False)),
    ),
    Mistake(
        "a state dict of timm that does not tell its heads",
        "a vision transformer 24 wide: how many heads it has is not known",
        lambda folder: bare(folder, 24),
    ),
    Mistake(
        "a CLIP of timm in a file that is called otherwise",
        "whether it computes quick_gelu or gelu is in its name alone",
        lambda folder: bare(folder, 64),
    ),
    Mistake(
        "weights of a ViT for a network of another kind",
        "is a ViT, the model a Swin: make it with of(",
        lambda folder: load(swin(CLASSES), KEY, written(folder)),
    ),
    Mistake(
        "a teacher's checkpoint that is no folder",
        "is no folder, and",
        lambda folder: taught(folder, "google/vit-nowhere"),
    ),
    Mistake(
        "a teacher whose checkpoint has other classes than the data",
        "it has 3 classes, 4 are asked: its head is new and random",
        lambda folder: of(written(folder, vit(3, patch=4, width=8, depth=1, heads=2)), CLASSES),
        goes_on=True,
    ),
    Mistake(
        "a ViT for transformers that it has no class for",
        "transformers has no class for this ViT. There is: …vit",
        lambda folder: saved(folder, ViT(CLASSES, 4, 8, 1, 2, pool="mean")),
    ),
    Mistake(
        "a DINOv3 with a head for transformers",
        "transformers has no DINOv3 with a classifier",
        lambda folder: saved(folder, dinov3(dict(hidden_size=8, num_attention_heads=2, num_labels=3, patch_size=4))),
    ),
    Mistake(
        "a pool of a ViT that does not exist",
        "ViT: pool='clas'. Did you mean 'class'…",
        lambda folder: shown(ViT(CLASSES, 4, 8, 1, 2, pool="clas")),
    ),
    Mistake(
        "a ViT without a class token whose head reads it",
        "pool='class' and a distillation token need class_token=True",
        lambda folder: shown(ViT(CLASSES, 4, 8, 1, 2, class_token=False)),
    ),
    Mistake(
        "images that are smaller than a patch",
        "image (4, 4) must be a multiple of patch=8",
        lambda folder: shown(ViT(CLASSES, 8, 8, 1, 2, image_size=16), 4),
    ),
    Mistake(
        "a Swin with more depths than heads",
        "have one number a stage",
        lambda folder: shown(swin(CLASSES, depths=(2, 2, 2), heads=(1, 2))),
    ),
]


@each(ROWS)
def test_vision_transformers(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
