import numpy as np
import pytest
from digits_on_disk import class_folders, some
from PIL import Image

from kd_jax.data.load import load

datasets = pytest.importorskip("datasets")


def saved(root, counts, **columns):
    """What datasets.DatasetDict.save_to_disk writes of digits; "" is one split alone."""
    made, start = {}, 0
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=[f"digit{i}" for i in range(10)]),
            "age": datasets.Value("int64"),
            "by": datasets.Value("string"),
        }
    )
    for split, count in counts.items():
        images, labels = some(count, start)
        start += count
        rows = {"image": list(map(Image.fromarray, images)), "label": labels.tolist()}
        rows |= {"age": list(range(count)), "by": ["me"] * count}
        made[split] = datasets.Dataset.from_dict(rows, features=features)
    whole = made[""] if "" in made else datasets.DatasetDict(made)
    whole.save_to_disk(root, **({} if "" in made else {"num_shards": dict.fromkeys(made, 3)}))
    return {"name": "hf_dataset", "directory": str(root), "channels": 1}


def test_a_saved_data_set_is_read_without_its_library(tmp_path):
    fields = saved(tmp_path / "digits", {"train": 40, "validation": 10, "test": 15})
    train, validation, test = load(fields)
    images, labels = some(65)
    np.testing.assert_array_equal(train.images[..., 0], images[:40])
    np.testing.assert_array_equal(validation.labels, labels[40:50])
    np.testing.assert_array_equal(test.images[..., 0], images[50:])
    np.testing.assert_array_equal(train.fields["age"], np.arange(40))
    assert train.class_names[7] == "digit7"
    streamed = load(fields | {"image_size": 6}).train
    assert streamed.stamp and streamed.example(33)["age"] == 33 and streamed.example(33)["label"] == labels[33]


def test_one_split_is_divided_and_rows_may_be_selected(tmp_path):
    fields = saved(tmp_path / "digits", {"": 50})
    train, _, test = load(fields)
    assert (len(train), len(test)) == (40, 10)
    datasets.load_from_disk(tmp_path / "digits").select(range(10, 40)).save_to_disk(tmp_path / "fewer")
    train, _, test = load(fields | {"directory": str(tmp_path / "fewer")})
    assert sorted([*train.fields["age"], *test.fields["age"]]) == list(range(10, 40))


def test_a_folder_of_pictures_as_datasets_loads_it(tmp_path, monkeypatch):
    class_folders(tmp_path / "pictures", {"train": 30, "test": 10})
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    whole = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "pictures"), cache_dir=str(tmp_path / "cache"))
    whole.save_to_disk(tmp_path / "saved")  # the pictures' bytes go into the tables
    here = load({"name": "hf_dataset", "directory": str(tmp_path / "saved"), "channels": 1})
    there = load({"name": "folder", "directory": str(tmp_path / "pictures"), "channels": 1})
    np.testing.assert_array_equal(here.train.images, there.train.images)
    np.testing.assert_array_equal(here.test.labels, there.test.labels)
