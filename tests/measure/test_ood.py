"""Out-of-distribution scores against scikit-learn."""

import numpy as np
import pytest

from kd_jax.measure import ood

metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_false_positives_are_scikit_learns(ties):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 200), rng.normal(0, 1, 150)
    if ties:
        inside, outside = inside.round(), outside.round()
    truth, scores = np.repeat([1, 0], [200, 150]), np.concatenate([inside, outside])
    assert ood.auroc(inside, outside) == pytest.approx(metrics.roc_auc_score(truth, scores))
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert ood.false_positives(inside, outside) == pytest.approx(false[np.flatnonzero(true >= 0.95)[0]])


def test_scores_by_hand():
    logits = np.log([[0.7, 0.3], [0.2, 0.8]]) + [[1.0], [3.0]]
    np.testing.assert_allclose(np.exp(ood.largest_probability(logits)), [0.7, 0.8])
    np.testing.assert_allclose(ood.energy(logits), [1.0, 3.0])


def test_others_keep_what_they_say():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 5, 4, 3), np.uint8)
    mixed = ood.shuffled(pictures, rng)
    as_sets = [[sorted(map(tuple, p.reshape(-1, 3))) for p in batch] for batch in (pictures, mixed)]
    assert as_sets[0] == as_sets[1] and (pictures != mixed).any()
    features = rng.normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(np.sort(ood.shuffled(features, rng), 0), np.sort(features, 0))
    assert ood.noise(pictures, rng).dtype == np.uint8 and ood.noise(features, rng).shape == features.shape
    assert ood.of_shape(pictures, (8, 8, 1)).shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(ood.of_shape(pictures[..., :1], (5, 4, 3)), np.repeat(pictures[..., :1], 3, -1))
