"""The confusion matrix and the mean F1 of classes, against scikit-learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from kd_jax.tasks import classify
from kd_jax.types import Outputs


def test_confusion_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50).astype(np.int32)
    labels[::9] = -1
    logits = jnp.asarray(rng.normal(size=(50, 5)), jnp.float32)  # the last class is no label
    mask = np.arange(50) < 45
    batch = {"label": jnp.asarray(labels), "mask": mask}
    task = classify.task(confusion=True)
    totals = task.sums(lambda: Outputs(logits, {}), batch, None, jax.random.key(0))
    values = task.finish({k: tuple(np.asarray(x) for x in v) for k, v in totals.items()}, {})
    counted = mask & (labels >= 0)
    answers = np.asarray(logits.argmax(-1))
    np.testing.assert_array_equal(
        values["confusion"], confusion_matrix(labels[counted], answers[counted], labels=range(5))
    )
    np.testing.assert_allclose(
        values["macro_f1"], f1_score(labels[counted], answers[counted], average="macro"), rtol=1e-6
    )
    assert "macro_f1" in task.rows and "macro_f1" not in classify.task().rows
    assert "confusion" not in classify.finish({k: v for k, v in totals.items() if k != "pairs/confusion"}, {})
