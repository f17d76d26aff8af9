"""Text becomes rows of tokens: nothing is lost, labels stay in their document, splits share no document."""

import numpy as np
import pytest

from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound
from kd_jax.data.text import corpus
from kd_jax.data.text.tokenizing import END, START, UNKNOWN, characters, learned, make_codec

WORDS = ("in", "the", "beginning", "was", "word", "and", "light")


def write(path, documents=30, seed=0):
    rng = np.random.default_rng(seed)
    texts = [f"{i}: " + " ".join(rng.choice(WORDS, rng.integers(3, 12))) for i in range(documents)]
    path.write_text("\n\n".join(texts))
    return texts


def fields(path, **changes):
    return {"name": "text", "directory": str(path), "length": 16, "test": 0.2, "validation": 0.1, **changes}


@pytest.mark.parametrize("length", [4, 7, 100])
def test_packing_loses_nothing_and_never_crosses_documents(length):
    sequences = [[START, *range(10 * i, 10 * i + n), END] for i, n in enumerate((3, 9, 1, 6), start=1)]
    tokens, labels, segments = corpus.packed(sequences, length)
    real = segments > 0
    assert tokens.shape == labels.shape == segments.shape and tokens.shape[1] == length
    np.testing.assert_array_equal(tokens[real], np.concatenate([s[:-1] for s in sequences]))
    np.testing.assert_array_equal(labels[real], np.concatenate([s[1:] for s in sequences]))
    assert (labels[~real] == -1).all() and real.sum() == len(np.concatenate(sequences)) - 4
    assert not real.reshape(-1)[real.sum() :].any()  # only the end of the last row is padded
    for row in range(len(tokens)):
        for i in np.flatnonzero(tokens[row] == START):
            assert i == 0 or segments[row, i] == segments[row, i - 1] + 1
        changes = np.flatnonzero(np.diff(segments[row])) + 1
        assert all(tokens[row, i] == START or segments[row, i] == 0 for i in changes)
        assert all(labels[row, i - 1] == END for i in changes)


def test_padding_gives_every_document_rows_of_its_own():
    tokens, labels, segments = corpus.padded([[1, 5, 6, 2], [1, 7, 7, 7, 7, 7, 2]], 4)
    np.testing.assert_array_equal(tokens, [[1, 5, 6, 0], [1, 7, 7, 7], [7, 7, 0, 0]])
    np.testing.assert_array_equal(labels, [[5, 6, 2, -1], [7, 7, 7, 7], [7, 2, -1, -1]])
    np.testing.assert_array_equal(segments, [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("tokenizer", ["character", "bpe"])
def test_splits_hold_whole_documents_and_decode_to_them(tmp_path, tokenizer):
    texts = write(tmp_path / "text.txt")
    of_bpe = {"vocabulary": 300} if tokenizer == "bpe" else {}
    splits = load(fields(tmp_path / "text.txt", tokenizer=tokenizer, packing="padded", length=96, **of_bpe))
    texts_of = {}
    for source in splits:
        assert source.entry == "tokens" and source.per_token and source.images.dtype == np.int32
        assert source.images.max() < source.num_classes == splits.train.num_classes
        texts_of[source.split] = {source.decode(row[row >= 0]) for row in source.labels}
    assert {k: len(v) for k, v in texts_of.items()} == {"train": 21, "validation": 3, "test": 6}
    lost = set.union(*texts_of.values()) ^ set(texts)
    assert all("\N{REPLACEMENT CHARACTER}" in text for text in lost - set(texts))  # characters that train lacks
    again = load(fields(tmp_path / "text.txt", tokenizer=tokenizer, packing="padded", length=96, **of_bpe))
    np.testing.assert_array_equal(splits.test.images, again.test.images)
    other = load(fields(tmp_path / "text.txt", tokenizer=tokenizer, packing="padded", split_seed=1, **of_bpe))
    assert {other.test.decode(row[row >= 0]) for row in other.test.labels} != texts_of["test"]


def test_a_folder_of_files_and_a_tokenizer_of_ones_own(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    for i, text in enumerate(write(tmp_path / "all.txt", 10)):
        (folder / ("deep" if i % 2 else "") / f"{i}.txt").write_text(text)
    learned([p.read_text() for p in folder.rglob("*.txt")], 280).save(str(tmp_path / "tokenizer.json"))
    splits = load(fields(folder, tokenizer=str(tmp_path / "tokenizer.json")))
    assert splits.train.num_classes == 280 and splits.train.end == END


def test_characters_that_were_not_seen_are_unknown():
    codec = characters(["a", "b"])
    assert codec.encode(["abz"]) == [[4, 5, UNKNOWN]] and codec.decode([START, 4, 5, UNKNOWN, END]) == "ab\ufffd"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"tokenizer": "bpee"}, ValueError, "'bpe'"),
        ({"tokenizer": "none.json"}, DataNotFound, "no such file"),
        ({"tokenizer": "bpe", "vocabulary": 100}, ValueError, "256 bytes"),
        ({"packing": "pack"}, ValueError, "'packed'"),
        ({"test": 0.0}, ValueError, "0 to test on"),
        ({"directory": "/nowhere"}, DataNotFound, "apt-get install bible-kjv"),
        ({"length": 1}, ValueError, "at least 2"),
    ],
)
def test_bad_fields(tmp_path, changes, error, says):
    write(tmp_path / "text.txt")
    with pytest.raises(error, match=says):
        load(fields(tmp_path / "text.txt") | changes)


def test_the_bible_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(corpus.shutil, "which", lambda name: None)
    with pytest.raises(DataNotFound, match="apt-get install bible-kjv"):
        load(fields("bible"))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "<pad>": 1}, "a")).save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="no token that is"):
        make_codec(str(tmp_path / "t.json"), [], 0)
