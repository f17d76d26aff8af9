"""train.repeats: a batch has each of its examples several times, each time another picture."""

import numpy as np
import pytest
from small_config import get_config

import kd_jax
from kd_jax.data.order import batch_indices, repeated_indices


def test_every_example_of_a_batch_comes_three_times_with_views_of_its_own():
    index, view = repeated_indices(20, 12, seed=1, repeats=3, step=0)
    assert [*index] == [*np.repeat(index[::3], 3)] and len({*index}) == 4
    assert [*view] == [0, 1, 2] * 4


def test_batches_walk_through_all_examples_before_one_comes_again():
    """Batches of 8 do not divide by 3: an example goes on in the next; the order is that of single views."""
    steps = [repeated_indices(5, 8, seed=1, repeats=3, step=step) for step in range(4)]
    index, view = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    single, epoch = (np.concatenate(p) for p in zip(*(batch_indices(5, 1, 1, s) for s in range(11)), strict=True))
    np.testing.assert_array_equal(index, np.repeat(single, 3)[:32])
    assert len({*zip(index, view, strict=True)}) == 32  # no picture twice
    assert [*view[:15]] == [0, 1, 2] * 5 and [*view[15:30]] == [3, 4, 5] * 5 and [*epoch[:5]] == [0] * 5


def test_one_repeat_is_the_usual_order():
    for step in (0, 3):
        for a, b in zip(repeated_indices(7, 4, 2, 1, step), batch_indices(7, 4, 2, step), strict=True):
            np.testing.assert_array_equal(a, b)


def config_of(repeats, **data):
    config = get_config()
    config.train.repeats, config.train.batch_size = repeats, 24
    config.data.update(data)
    return config


def test_a_run_with_repeats(tmp_path):
    """Resident in one dispatch and batch by batch: the same run; another than without."""
    losses = {}
    for name, repeats, dispatch in (("one", 1, 1), ("three", 3, 1), ("dispatched", 3, 2)):
        config = config_of(repeats, labels=0)
        config.steps_per_dispatch, config.eval_every = dispatch, 4
        config.teacher.workdir = str(tmp_path / "teacher")
        curve = kd_jax.run(config, tmp_path / name)["models"]["student"]["curve"]
        losses[name] = [point["loss"] for point in curve]
    np.testing.assert_allclose(losses["three"], losses["dispatched"], rtol=1e-5)
    assert losses["one"] != losses["three"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(train=dict(repeats=0)), "repeats"),
        (lambda c: c.data.update(labels=100), "train.repeats=3: some examples of digits have a label and others none"),
        (lambda c: c.teacher.cache.update(directory="auto"), "train.repeats=3: a cache counts the views of an example"),
    ],
)
def test_what_does_not_fit(change, says, tmp_path):
    config = config_of(3, labels=0)
    change(config)
    with pytest.raises(ValueError, match=says):
        kd_jax.run(config, tmp_path)
    assert not list(tmp_path.rglob("metrics.jsonl"))
