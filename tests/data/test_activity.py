"""Recordings of a watch: people are in one split only, nothing in the file is run, and what is missing is said."""

from __future__ import annotations

import importlib.util
import os
import pickle

import numpy as np
import pytest

from kd_jax.data import activity
from kd_jax.data.source import DataNotFound


def recordings(folder, people=10, **more):
    """A file of the form of seglearn's: two recordings a person, of which the second is too short for three windows."""
    rng = np.random.default_rng(0)
    subjects = [p for p in range(people) for _ in range(2)]
    fields = {
        "X": [rng.normal(size=(350 if i % 2 == 0 else 290, 6)) for i in range(2 * people)],
        "y": np.arange(2 * people) % 3,
        "subject": np.array(subjects),
        "side": np.array([float(i % 2) for i in range(2 * people)]),
        "y_labels": ["push", "pull", "row"],
        "X_labels": list("abcdef"),
    }
    np.save(folder / "watch.npy", np.array(fields | more, dtype=object), allow_pickle=True)
    return folder / "watch.npy"


def test_people_are_in_one_split_only(tmp_path):
    path = recordings(tmp_path)
    for seed in (0, 1):
        splits = activity.watch({"directory": str(path), "split_seed": seed})
        people = [set(np.unique(source.fields["subject"])) for source in splits]
        assert [len(p) for p in people] == [5, 2, 3] and len(set().union(*people)) == 10
    train, _, test = splits
    assert train.image_shape == (100, 1, 6) and train.noun == "example"
    assert len(train) == 5 * (3 + 2)  # whole windows of 350 and 290 samples
    np.testing.assert_allclose(train.images.mean((0, 1, 2)), train.mean, atol=1e-6)
    first = activity.read(path)
    person = test.fields["subject"][0]
    np.testing.assert_allclose(test.images[1, :, 0], first["X"][2 * person][100:200], rtol=1e-6)


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_the_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = recordings(tmp_path, X_labels=[Runs()])
    with pytest.raises(ValueError, match="is not the file of seglearn: it names .*mkdir, which is no part of an array"):
        activity.watch({"directory": str(path)})
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="is not the file of seglearn"):
        path.write_bytes(pickle.dumps({"X": 1}))
        activity.watch({"directory": str(path)})
    np.save(path, np.array({"X": [1]}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it lacks side, subject, y, y_labels"):
        activity.watch({"directory": str(path)})
    with pytest.raises(DataNotFound, match="there is no file .*pip install --no-deps seglearn"):
        activity.watch({"directory": str(tmp_path / "none.npy")})


@pytest.mark.skipif(importlib.util.find_spec("seglearn") is None, reason="pip install --no-deps seglearn")
def test_the_recordings_themselves():
    splits = activity.watch({})
    assert sum(map(len, splits)) == 2369 and splits.train.num_classes == 7
    assert splits.train.class_names == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
