"""A published detector, of any family, teaches a tiny one by its sure boxes: where its parity test ends."""

import numpy as np
import pytest


def teaches(folder, workdir, changes):
    """Trains a student by the detector of 12 classes in `folder`; `changes` are fields of the config by their path."""
    pytest.importorskip("faster_coco_eval")
    pytest.importorskip("sklearn")
    import kd_jax
    from kd_jax.config import files

    config = files.config_of(files.load(files.locate("detection.py")), "detr,tiny")
    for part in (config.teacher.model, config.teacher.initial):
        part.kwargs.path = str(folder)
    config.teacher.model.kwargs.chosen = tuple(range(10))
    config.terms.pseudo.kwargs.threshold = 0.01
    config.baseline = config.report = False
    config.data.limit, config.data.eval_limit = 64, 16
    config.update_from_flattened_dict(changes)
    results = kd_jax.run(config, workdir)
    assert results["models"]["teacher"]["last"]["test"]["ap"] is not None
    assert kd_jax.load(workdir).predict(np.zeros((1, 64, 64, 1), np.uint8))["boxes"].shape == (1, 20, 4)
