"""Files of records, the cache of their tokens, processes that share its making, and rows that are streamed from it."""

import jax
import numpy as np
import pytest
import several
from language_folders import HEADERS, TALKS, jsonl, opened, qwen

from kd_jax.data import batches, load
from kd_jax.data.text import conversations, folder_tokenizer, records, tokenised
from kd_jax.data.text import rows as rows_
from kd_jax.data.text.record_files import files_of, raw_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen(tmp_path_factory.mktemp("qwen"))


def rows(source):
    return [np.asarray(x) for x in (source.images, source.labels, source.fields["segments"])]


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet", "arrow", "stream", "folder"])
def test_forms_of_files_hold_the_same(folder, tmp_path, form):
    want = opened(tmp_path, folder, TALKS).train
    place = tmp_path / "other"
    place.mkdir()
    if form in ("jsonl.gz", "folder"):
        path = place / "a.jsonl.gz"
        jsonl(path, TALKS[:3] if form == "folder" else TALKS)
        if form == "folder":
            jsonl(place / "b.jsonl", TALKS[3:])
            path = place
    else:
        arrow = pytest.importorskip("pyarrow")
        table, path = arrow.Table.from_pylist(TALKS), place / f"a.{'parquet' if form == 'parquet' else 'arrow'}"
        if form == "parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, path)
        else:
            writer = arrow.ipc.new_file if form == "arrow" else arrow.ipc.new_stream
            with writer(str(path), table.schema) as file:
                file.write_table(table)
    fields = dict(length=96, test=0.2, packing="padded", cache=str(tmp_path / "cache2"))
    made = load.load(dict(name=load.CONVERSATIONS, path=str(path), tokenizer=str(folder), **fields)).train
    for a, b in zip(rows(want), rows(made), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tokens_are_made_once_and_again_where_something_changes(folder, tmp_path, monkeypatch):
    asked = []
    real = rows_.rows_of

    def counting(kind, some, *more):
        asked.append(len(some))
        return real(kind, some, *more)

    monkeypatch.setattr(tokenised, "rows_of", counting)
    first = opened(tmp_path, folder, TALKS)
    again = opened(tmp_path, folder, TALKS, length=64, packing="packed")
    assert asked == [len(TALKS)], "length and packing are no part of the tokens"
    assert first.train.num_classes == again.train.num_classes
    opened(tmp_path, folder, TALKS, loss_on="last")
    opened(tmp_path, folder, TALKS[:-1])
    template = tmp_path / "other.jinja"
    template.write_text(HEADERS.replace("bos_token", "''"))
    opened(tmp_path, folder, TALKS[:-1], template=str(template))
    assert asked == [6, 6, 5, 5]


def test_processes_tokenise_blocks_of_their_own(folder, tmp_path, monkeypatch):
    """Two processes that see one folder: each writes its blocks, and both read what one alone would have made."""
    monkeypatch.setattr(tokenised, "BLOCK", 4)
    monkeypatch.setattr(tokenised, "PAUSE", 0.01)
    path = jsonl(tmp_path / "data.jsonl", TALKS * 5)
    tokenizer, rule = folder_tokenizer.read(str(folder)), records.Rule()
    alone = tokenised.tokenised([path], tokenizer, rule, tmp_path / "alone")
    written = {0: [], 1: []}
    real = tokenised.write_block

    def process(number):
        monkeypatch.setattr(tokenised.jax, "process_count", lambda: 2)
        monkeypatch.setattr(tokenised.jax, "process_index", lambda: number)

    def write(block, at, *rest):
        written[tokenised.jax.process_index()].append(at)
        return real(block, at, *rest)

    monkeypatch.setattr(tokenised, "write_block", write)
    monkeypatch.setattr(tokenised, "PATIENCE", 0.05)
    process(1)
    with pytest.raises(TimeoutError, match="data.cache must be a folder that all processes see"):
        tokenised.tokenised([path], tokenizer, rule, tmp_path / "both")  # nobody writes the others
    process(0)
    first = tokenised.tokenised([path], tokenizer, rule, tmp_path / "both")
    process(1)
    second = tokenised.tokenised([path], tokenizer, rule, tmp_path / "both")
    assert written == {1: [1, 3, 5, 7], 0: [0, 2, 4, 6]}
    for both in (first, second):
        assert len(both) == len(alone) == 30
        for i in range(30):
            for a, b in zip(both.row(i), alone.row(i), strict=True):
                np.testing.assert_array_equal(a, b)


def test_two_real_processes_tokenise_one_file(folder, tmp_path, monkeypatch):
    path = jsonl(tmp_path / "data.jsonl", TALKS * 5)
    outputs = several.finish(several.start("tokens_worker.py", 2, path, folder, tmp_path / "both"))
    told = sorted(line for output in outputs for line in output.splitlines() if line.startswith("blocks"))
    assert told == ["blocks 0 2 4 6 rows 30", "blocks 1 3 5 7 rows 30"]
    monkeypatch.setattr(tokenised, "BLOCK", 4)
    monkeypatch.setattr(tokenised, "rows_of", None)  # nothing is left to do
    tokenizer, rule = folder_tokenizer.read(str(folder)), records.Rule()
    both = tokenised.tokenised([path], tokenizer, rule, tmp_path / "both")
    monkeypatch.undo()
    alone = tokenised.tokenised([path], tokenizer, rule, tmp_path / "alone")
    for i in range(30):
        for a, b in zip(both.row(i), alone.row(i), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_large_set_is_streamed_and_its_batches_are_the_same(folder, tmp_path, monkeypatch, workers):
    in_memory = opened(tmp_path, folder, TALKS * 3, packing="packed", length=128).train
    monkeypatch.setattr(conversations, "IN_MEMORY", 0)
    streamed = opened(tmp_path, folder, TALKS * 3, packing="packed", length=128).train
    assert streamed.images is None and streamed.per_token and len(streamed) == len(in_memory)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    options = dict(batch_size=2, seed=3, num_steps=3, sharding=sharding)
    ours = batches.train_batches(streamed, workers=workers, **options)
    for one, other in zip(ours, batches.train_batches(in_memory, **options), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    shapes = [batches.batch_shapes(source, 2) for source in (streamed, in_memory)]
    assert shapes[0] == shapes[1]


def test_records_keep_their_places(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    lines = [(raw.place, raw.value()) for raw in raw_records(files_of(str(path), "data.path"))]
    assert lines == [(f"{path}, line 1", {"text": "a"}), (f"{path}, line 3", {"text": "b"})]
