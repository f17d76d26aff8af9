"""teacher.mode="train": BatchNorm of a frozen teacher normalises by the batch while it teaches, and by its averages
while it is scored."""

import numpy as np
import pytest
from small_config import get_config

import kd_jax

MODEL = dict(name="models.vision.cifar_resnet.resnet8", kwargs=dict(widths=(4, 4, 4), stem_width=4))


def config_of(mode):
    config = get_config()
    config.teacher.model, config.teacher.mode = MODEL, mode
    return config


def test_what_it_teaches_changes_and_its_scores_and_averages_do_not(tmp_path):
    results = {}
    for mode in ("eval", "train"):
        config = config_of(mode)
        config.teacher.workdir = str(tmp_path / "teacher")
        results[mode] = kd_jax.run(config, tmp_path / mode)["models"]
    last = [models["teacher"]["last"] for models in results.values()]
    assert last[0] == last[1]
    taught = {mode: [point["kd"] for point in models["student"]["curve"]] for mode, models in results.items()}
    assert not np.allclose(taught["eval"][0], taught["train"][0], rtol=1e-3)


def test_a_cache_cannot_hold_what_depends_on_the_batch(tmp_path):
    config = config_of("train")
    config.teacher.cache.directory = "auto"
    with pytest.raises(
        ValueError, match="teacher.mode='train': its answers depend on the batch, and .*directory is set"
    ):
        kd_jax.run(config, tmp_path)
    with pytest.raises(ValueError, match="teacher.mode is 'eval' or 'train', not 'training'"):
        kd_jax.run(config_of("training"), tmp_path)
