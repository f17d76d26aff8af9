"""A home without data, and a writer of small prepared TFDS folders."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kd_jax.data.arrays import from_arrays


@pytest.fixture(autouse=True)
def empty_home(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("KD_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rows_over():
    """count -> the sharding of [B, ...] over so many devices."""

    def make(count: int) -> NamedSharding:
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        return NamedSharding(mesh, PartitionSpec("data"))

    return make


@pytest.fixture
def toy():
    """70 training images of 4 classes, some without a label, and 21 test images: image i is full of i."""
    images = np.broadcast_to(np.arange(70, dtype=np.uint8)[:, None, None, None], (70, 4, 4, 1))
    labels = np.where(np.arange(70) % 7 == 0, np.arange(70) % 4, -1)
    return from_arrays(train=(images, labels), test=(images[:21], np.arange(21) % 4), names=4)


@pytest.fixture
def pictures():
    """(count, seed) -> colour images of different sizes."""

    def make(count: int, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [rng.integers(0, 256, (*rng.integers(12, 30, 2), 3), dtype=np.uint8) for _ in range(count)]

    return make


@pytest.fixture
def write_tfds(tmp_path):
    """Writes what `tfds build NAME --file_format=array_record` writes (PNG images), without TensorFlow."""

    def write(name, splits, class_names, *, shape=(None, None, 3), version="1.0.0", file_format="array_record"):
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordWriter
        from google.protobuf import json_format
        from tensorflow_datasets.core import naming
        from tensorflow_datasets.core.proto import dataset_info_generated_pb2 as proto

        folder = tmp_path / "tfds" / name / version
        folder.mkdir(parents=True)
        label = tfds.features.ClassLabel(names=class_names)
        tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), "label": label}).save_config(folder)
        infos = []
        for split, (images, labels) in splits.items():
            shards = np.array_split(np.arange(len(images)), 2)
            template = naming.ShardedFileTemplate(
                data_dir=folder, dataset_name=name, split=split, filetype_suffix=file_format
            )
            for number, rows in enumerate(shards):
                path = template.sharded_filepath(shard_index=number, num_shards=2)
                writer = ArrayRecordWriter(str(path), "group_size:1")
                for row in rows:
                    writer.write(_record(images[row], int(labels[row])))
                writer.close()
            infos.append(
                tfds.core.SplitInfo(
                    name=split, shard_lengths=[len(rows) for rows in shards], num_bytes=1, filename_template=template
                ).to_proto()
            )
        info = proto.DatasetInfo(name=name, version=version, file_format=file_format, splits=infos)
        for key in ("image", "label"):
            info.supervised_keys.tuple.items.add(feature_key=key)
        (folder / "dataset_info.json").write_text(json_format.MessageToJson(info))
        return str(tmp_path / "tfds")

    return write


def _record(image: np.ndarray, label: int) -> bytes:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
    example.features.feature["label"].int64_list.value.append(label)
    return example.SerializeToString()
