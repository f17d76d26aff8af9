import numpy as np
import pytest

from kd_jax.data import order


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 2)])
def test_every_epoch_is_a_permutation(n, batch_size):
    steps = 3 * n
    batches = [order.batch_indices(n, batch_size, 5, step) for step in range(steps)]
    index, view = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert index.dtype == view.dtype == np.int32
    np.testing.assert_array_equal(view, np.arange(steps * batch_size) // n)
    epochs = index.reshape(-1, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(n), epochs.shape))
    if n >= 10:
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_is_a_function_of_seed_and_step_alone():
    late = order.batch_indices(1000, 64, 7, 123_456)
    for step in range(20):  # other epochs push the cached permutations out
        order.batch_indices(1000, 64, 7, step * 40)
    np.testing.assert_array_equal(late, order.batch_indices(1000, 64, 7, 123_456))
    assert (late[0] != order.batch_indices(1000, 64, 8, 123_456)[0]).any()


def test_mixed_batches_have_two_streams_with_views_of_their_own():
    labelled, others = np.array([3, 50, 7]), np.array([1, 2, 4, 5, 6, 8, 9, 10])
    batches = [order.mixed_indices(labelled, others, 8, 0.25, 0, step) for step in range(12)]
    first = np.concatenate([index[:2] for index, _ in batches]).reshape(-1, 3)
    np.testing.assert_array_equal(np.sort(first, axis=1), np.broadcast_to(np.sort(labelled), first.shape))
    np.testing.assert_array_equal(np.concatenate([view[:2] for _, view in batches]), np.arange(24) // 3)
    rest = np.concatenate([index[2:] for index, _ in batches]).reshape(-1, 8)
    np.testing.assert_array_equal(np.sort(rest, axis=1), np.broadcast_to(others, rest.shape))
    np.testing.assert_array_equal(np.concatenate([view[2:] for _, view in batches]), np.arange(72) // 8)


def test_one_stream_does_not_move_when_the_other_grows():
    labelled = np.arange(5)
    few = order.mixed_indices(labelled, np.arange(5, 20), 8, 0.5, 0, 3)
    many = order.mixed_indices(labelled, np.arange(5, 90), 8, 0.5, 0, 3)
    np.testing.assert_array_equal(few[0][:4], many[0][:4])


@pytest.mark.parametrize(("share", "rows"), [(0.0, 0), (0.25, 2), (0.3125, 3), (1.0, 8)])
def test_share_is_rounded_half_up(share, rows):
    assert order.labelled_rows(8, share) == rows
    index, _ = order.mixed_indices(np.arange(4), np.arange(4, 9), 8, share, 0, 0)
    assert (index < 4).sum() == rows and (index[:rows] < 4).all()


@pytest.mark.parametrize("share", [-0.1, 1.5, 0.01, 0.99])
def test_share_that_cannot_be_served(share):
    with pytest.raises(ValueError, match="labelled_share"):
        order.labelled_rows(8, share)


def test_no_examples():
    with pytest.raises(ValueError, match="no examples"):
        order.batch_indices(0, 4, 0, 0)
