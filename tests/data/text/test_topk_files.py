import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from topk_rows import rows

from kd_jax.data.load import load
from kd_jax.data.text import topk_files

CASES = json.loads(Path(__file__).with_name("distillkit.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[str(i) for i in range(len(CASES))])
def test_bytes_of_distillkit(case, tmp_path):
    """Bytes that DistillKit wrote are the values that it reads from them; its float16 sums are coarser."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa
    import yaml

    row = {"input_ids": [[7, 8]], "compressed_logprobs": [case["data"]], "bytepacked_indices": [case["packed"]]}
    parquet.write_table(pa.table(row), tmp_path / "data_0.parquet")
    (tmp_path / "compression_config.yaml").write_text(yaml.safe_dump(case["config"]))
    read = topk_files.read(tmp_path)
    tolerance = 1e-2 if case["config"]["term_dtype"] == "float16" else 1e-5
    np.testing.assert_allclose(read.log_probs[0], np.sort(case["values"])[:, ::-1], atol=tolerance)
    values = dict(zip(read.ids[0, 0].tolist(), read.log_probs[0, 0].tolist(), strict=True))
    assert values == pytest.approx(dict(zip(case["ids"][0], case["values"][0], strict=True)), abs=tolerance)
    assert read.vocabulary == 300 and read.tokens.tolist() == [[7]] and read.labels.tolist() == [[8]]


def same(one, other, exact=True):
    for name in ("tokens", "labels", "segments", "ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
    if exact:
        np.testing.assert_array_equal(one.log_probs, other.log_probs)


def test_what_is_written_for_distillkit_is_read(tmp_path):
    pytest.importorskip("pyarrow")
    topk_files.write_distillkit(tmp_path / "dk", rows())
    same(topk_files.read(tmp_path / "dk"), rows())


def test_what_is_written_for_maxtext_is_read_renormalised(tmp_path):
    topk_files.write_maxtext(tmp_path / "part.array_record", rows())
    read = topk_files.read(tmp_path)
    same(read, rows(), exact=False)
    want = rows().log_probs - np.logaddexp.reduce(rows().log_probs, axis=-1, keepdims=True)
    np.testing.assert_allclose(read.log_probs, want, atol=1e-5)


def test_raw_rows_of_distillkit(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    made = rows()
    columns = {"input_ids": [], "token_ids": [], "top_values": []}
    for i, length in enumerate((5, 9, 7)):
        columns["input_ids"].append([*made.tokens[i, :length].tolist(), int(made.labels[i, length - 1])])
        columns["token_ids"].append(made.ids[i, :length].tolist())
        columns["top_values"].append(made.log_probs[i, :length].tolist())
    parquet.write_table(pa.table(columns), tmp_path / "data_0.parquet")
    same(topk_files.read(tmp_path), made)


def test_pickles_are_not_read(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "old.array_record"), "group_size:1")
    writer.write(pickle.dumps({"tokens": np.zeros(3)}))
    writer.close()
    with pytest.raises(ValueError, match="holds pickles, which can run code and are not read"):
        topk_files.read(tmp_path)


def test_the_door_divides_rows(tmp_path):
    topk_files.write_maxtext(tmp_path / "part.array_record", rows())
    train, validation, test = load(
        {"name": "topk", "directory": str(tmp_path), "test": 0.34, "validation": 0.34, "split_seed": 1}
    )
    assert [len(s) for s in (train, validation, test)] == [1, 1, 1]
    assert train.per_token and train.fields["top_ids"].shape == (1, 9, 4)
    row = int(test.origin.rows[0])
    np.testing.assert_array_equal(test.images[0], rows().tokens[row])
    assert test.decode(test.images[0][:2]) == " ".join(map(str, rows().tokens[row][:2]))
