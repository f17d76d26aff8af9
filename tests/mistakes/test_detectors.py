"""Detectors that teach: folders of transformers that are not read, answers that are not cached, two shapes."""

import importlib.util
import json

import numpy as np
import pytest
from mistakes import Mistake, check, each
from safetensors.numpy import save_file
from scheme_checks import config_module

import kd_jax
from kd_jax.models.detection import pretrained

SCORED = pytest.mark.skipif(importlib.util.find_spec("faster_coco_eval") is None, reason="AP needs faster-coco-eval")
BODY = {
    "model_type": "rt_detr_resnet",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 8, 8],
    "embedding_size": 8,
    "layer_type": "basic",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
CONFIG = {
    "model_type": "rt_detr",
    "backbone_config": BODY,
    "id2label": {"0": "cat", "1": "dog"},
    "encoder_in_channels": [8, 8, 8],
    "decoder_in_channels": [8, 8, 8],
    "num_feature_levels": 3,
}


def run(folder, variant="response", **changes):
    config = config_module("detection").get_config(f"{variant},tiny")
    config.baseline = config.report = False
    config.data.limit = config.data.eval_limit = 64
    config.mesh.axes.data = 1
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return kd_jax.run(config, folder / "run")


def published(**changes):
    """Names a folder of transformers with this config.json."""

    def make(folder):
        (folder / "config.json").write_text(json.dumps(CONFIG | changes))
        save_file({"enc_score_head.bias": np.zeros(2, np.float32)}, folder / "model.safetensors")
        return pretrained.of(folder, num_classes=2)

    return make


ROWS = [
    Mistake(
        "an RT-DETR of version 2",
        "the model type is 'rt_detr_v2'; detectors are read of 'detr' and 'rt_detr'",
        published(model_type="rt_detr_v2"),
    ),
    Mistake(
        "an RT-DETR on another backbone",
        "an RT-DETR with backbone_config of 'hgnet_v2', relu is not read",
        published(backbone_config={"model_type": "hgnet_v2"}),
    ),
    Mistake(
        "an RT-DETR with learned queries",
        "an RT-DETR with learn_initial_query=True is not read",
        published(learn_initial_query=True),
    ),
    Mistake(
        "an RT-DETR of four levels",
        "an RT-DETR with 3 levels of the encoder and 4 of the decoder is not read",
        published(num_feature_levels=4),
    ),
]
RUNS = [
    Mistake(
        "the likeliest of a detector's answers in a cache",
        "teacher.cache.k=5 is of rows of logits, and this teacher answers several arrays: take k=0 and float32",
        lambda folder: run(folder, teacher__cache__directory="auto", teacher__cache__k=5),
    ),
    Mistake(
        "8 bits for a detector's answers",
        "teacher.cache.dtype='uint8' is of rows of logits, and this teacher answers several arrays",
        lambda folder: run(folder, teacher__cache__directory="auto", teacher__cache__dtype="uint8"),
    ),
    Mistake(
        "FGD's context of a map that is not aligned",
        "context_blocks adds to maps of one shape",
        lambda folder: run(
            folder,
            "fgd",
            student__model__kwargs__pyramid=4,
            terms__context0__inputs=("student.features:fpn0", "teacher.features:fpn0"),
        ),
    ),
]


@each(ROWS)
def test_folders(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@SCORED
@each(RUNS)
def test_runs(mistake, tmp_path, capsys):
    pytest.importorskip("sklearn")
    check(mistake, tmp_path, capsys)
