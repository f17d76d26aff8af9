"""Answers on disk: random access, and every way in which a folder can be another than it should."""

import json
import shutil

import numpy as np
import pytest

from kd_jax.data import answers
from kd_jax.data.answers import Answers, CacheError

VIEWS = np.array([3, 1, 2, 5, 1, 4, 2], np.int32)
FIELDS = {
    "logits": ((2, 5), "float32"),
    "ids": ((3,), "uint16"),
    "tail": ((), "float32"),
    "features:a/b": ((4,), "bfloat16"),
}
ABOUT, SIZE = {"teacher": {"parameters": "abc"}, "answers": {"k": 0}}, 4


def content(row: np.ndarray) -> dict[str, np.ndarray]:
    """What row r of every field holds: a function of r."""
    return {
        name: np.broadcast_to(row.reshape(-1, *(1 for _ in shape)) + 0.0, (len(row), *shape)).astype(
            answers.dtype_of(dtype)
        )
        for name, (shape, dtype) in FIELDS.items()
    }


def chunk(number: int) -> dict[str, np.ndarray]:
    return content(np.arange(number * SIZE, (number + 1) * SIZE))


def build(folder, chunks=range(5), finish=True) -> set[int]:
    """Writes the chunks that are not there; returns those that were."""
    planned = Answers(FIELDS, VIEWS)
    size, done = answers.begin(folder, planned, ABOUT, SIZE)
    writer = answers.Writer(folder, FIELDS, planned.rows, size, process=0)
    for number in set(chunks) - done:
        writer.write(number, chunk(number))
    writer.close()
    if finish:
        answers.finish(folder)
    return done


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    build(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def test_random_access_by_example_and_view(whole):
    opened = answers.open_answers(whole)
    assert (opened.rows, opened.row_bytes, opened.nbytes) == (18, 40 + 6 + 4 + 8, 18 * 58)
    index, view = np.array([3, 0, 6, 3, 5, 1]), np.array([4, 2, 0, 9, 1, 7])  # view 9 of 5 is view 4, view 7 of 1 is 0
    rows = np.array([6 + 4, 2, 16, 6 + 4, 12 + 1, 3])
    for name, values in opened.read(index, view).items():
        np.testing.assert_array_equal(values, content(rows)[name])
    for name, values in opened.whole().items():
        np.testing.assert_array_equal(values, content(np.arange(18))[name])
    assert set(opened.only(["tail"]).read(index, view)) == {"tail"}


def test_a_build_goes_on_where_it_was_and_ends_in_the_same_bytes(whole, tmp_path):
    assert build(tmp_path, chunks=(0, 3), finish=False) == set()
    with pytest.raises(CacheError, match="was begun and not finished.*--build_cache"):
        answers.open_answers(tmp_path)
    with pytest.raises(CacheError, match="Of the 5 chunks .* only 2 are on disk"):
        answers.finish(tmp_path)
    notes = tmp_path / answers.DONE / "0.jsonl"
    with open(notes, "a") as f:
        f.write('{"chunk": 1, "fi')  # killed while it noted a chunk
    (tmp_path / "logits" / "c" / "3" / "0" / "0").write_bytes(b"torn")  # and this one does not have its size any more
    assert build(tmp_path) == {0}
    assert contents(tmp_path) == contents(whole)
    assert not (tmp_path / answers.PLAN).exists() and not (tmp_path / answers.DONE).exists()


def test_another_build_in_a_folder_that_was_begun(tmp_path):
    build(tmp_path, chunks=(0,), finish=False)
    with pytest.raises(CacheError, match="teacher.parameters: expected 'xyz', the cache has 'abc'"):
        answers.begin(tmp_path, Answers(FIELDS, VIEWS), {**ABOUT, "teacher": {"parameters": "xyz"}}, SIZE)
    with pytest.raises(CacheError, match="views.rows: expected 19, the cache has 18"):
        answers.begin(tmp_path, Answers(FIELDS, VIEWS + (VIEWS == 5)), ABOUT, SIZE)


def test_nothing_is_finished_that_was_not_begun(tmp_path):
    with pytest.raises(CacheError, match="no build was begun there"):
        answers.finish(tmp_path)


def flip(path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["logits/c/1/0/0", "tail/c/4", "features%3Aa%2Fb/c/0/0", "ids/zarr.json", "views.npy"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_a_flipped_byte(copy, name, place):
    flip(copy / name, place)
    with pytest.raises(CacheError, match=r"has changed: its SHA-256 is \w+..., expected \w+.... Delete"):
        answers.open_answers(copy)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6])
def test_a_flipped_byte_of_a_cache_too_large_to_hash(copy, place):
    flip(copy / "logits" / "c" / "1" / "0" / "0", place)
    opened = answers.open_answers(copy, hash_below=0)
    opened.read(np.array([0]), np.array([0]))  # another chunk
    with pytest.raises(CacheError, match="is damaged.*[Dd]igest"):
        opened.whole()


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_manifest_that_was_changed(copy, place):
    flip(copy / answers.MANIFEST, place)
    with pytest.raises(CacheError, match="was changed after it was written|is not readable"):
        answers.open_answers(copy)


def test_torn_and_missing_files(copy):
    path = copy / "ids" / "c" / "2" / "0"
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(CacheError, match=rf"ids/c/2/0 is torn: {len(data) - 3} bytes, expected {len(data)} bytes"):
        answers.open_answers(copy)
    path.unlink()
    with pytest.raises(CacheError, match="ids/c/2/0 is missing"):
        answers.open_answers(copy)
    with pytest.raises(CacheError, match="is not there.*--build_cache"):
        answers.open_answers(copy / "elsewhere")


def test_the_manifest_says_what_is_there(whole):
    manifest = json.loads((whole / answers.MANIFEST).read_text())
    assert manifest["about"] == ABOUT and manifest["rows_per_chunk"] == SIZE
    assert manifest["fields"]["logits"] == {"shape": [2, 5], "dtype": "float32"}
    assert len(manifest["files"]) == 5 * len(FIELDS) + len(FIELDS) + 1


def test_long_rows_and_short_ones(tmp_path):
    """Blocks divide chunks whatever their sizes are."""
    fields = {"long": ((3000,), "float32"), "short": ((), "uint8")}
    planned = Answers(fields, np.ones(7, np.int32))
    answers.begin(tmp_path, planned, {}, 6)
    writer = answers.Writer(tmp_path, fields, 7, 6, 0)
    rows = np.arange(12)
    for number in (0, 1):
        part = rows[number * 6 : number * 6 + 6]
        writer.write(
            number, {"long": np.tile(part[:, None], (1, 3000)).astype(np.float32), "short": part.astype(np.uint8)}
        )
    writer.close()
    answers.finish(tmp_path)
    values = answers.open_answers(tmp_path).read(np.array([6, 2]), np.array([0, 0]))
    assert values["short"].tolist() == [6, 2] and values["long"][:, 17].tolist() == [6.0, 2.0]
