import numpy as np
import pytest

from kd_jax.data import splits

LABELS = np.repeat([0, 1, 2, -1], [50, 30, 7, 13])


def test_hold_out_is_disjoint_exact_and_stratified():
    rest, held = splits.hold_out(LABELS, 0.2, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(100))
    assert len(held) == 18  # ceil(0.2 * 87)
    assert (LABELS[held] >= 0).all()
    share = np.bincount(LABELS[held]) - 18 / 87 * np.array([50, 30, 7])
    assert (np.abs(share) < 1).all()
    np.testing.assert_array_equal(held, splits.hold_out(LABELS, 0.2, 0)[1])
    assert set(held) != set(splits.hold_out(LABELS, 0.2, 1)[1])


def test_hold_out_nothing_and_too_much():
    assert len(splits.hold_out(LABELS, 0, 0)[1]) == 0
    for fraction in (1, -0.1):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            splits.hold_out(LABELS, fraction, 0)


def test_kept_labels_are_balanced_right_and_nested():
    small, large = (splits.keep_labels(LABELS, count, 3, (0, 0)) for count in (10, 17))
    assert sorted(np.bincount(small[small >= 0])) == [3, 3, 4]
    assert sorted(np.bincount(large[large >= 0])) == [5, 6, 6]
    assert ((large == LABELS) | (large == -1)).all()
    assert (large[small >= 0] >= 0).all()
    assert (small != splits.keep_labels(LABELS, 10, 3, (0, 1))).any()
    assert (small != splits.keep_labels(LABELS, 10, 3, (1, 0))).any()


@pytest.mark.parametrize("count", [24, 1000, -1])
def test_labels_that_are_not_there(count):
    with pytest.raises(ValueError, match="at most 21 can be kept in balance"):
        splits.keep_labels(LABELS, count, 3, (0, 0))
