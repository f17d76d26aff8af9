"""Two tokenizers of the same conversations: the groups spell the same bytes, and the projection what a token spells."""

import numpy as np
import pytest
from language_folders import CHATML, TALKS, TEXTS, THINKING, conversation, jsonl, llama, qwen

from kd_jax.data import load
from kd_jax.data.text import folder_tokenizer
from kd_jax.data.text.projection import projection, weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return qwen(place / "qwen"), llama(place / "llama"), qwen(place / "thinking", THINKING)


def opened(place, student, teacher, data=TALKS, **fields):
    path = jsonl(place / "data.jsonl", data)
    asked = dict(length=120, test=0.2, packing="padded", cache=str(place / "cache"), path=str(path)) | fields
    return load.load(dict(name=load.CROSS, tokenizer=str(student), teacher_tokenizer=str(teacher), **asked))


def spelled(tokenizer, labels, groups):
    """{group: the text of its labels} of a row."""
    return {g: tokenizer.decode(labels[groups == g]) for g in sorted({*groups.tolist()} - {-1})}


@pytest.mark.parametrize("other", [1, 2])
def test_groups_of_both_sides_spell_the_same(folders, tmp_path, other):
    talks = [*TALKS, conversation("Wie spät?", "Zwölf – 十二 ✓", "And?", TEXTS[1])]
    made = opened(tmp_path, folders[0], folders[other], talks)
    ours, theirs = (folder_tokenizer.read(str(folders[i])) for i in (0, other))
    count = 0
    for source in (made.train, made.test):
        fields = source.fields
        for i in range(len(source)):
            a = spelled(ours, source.labels[i], fields["student_groups"][i])
            b = spelled(theirs, fields["teacher_label"][i], fields["teacher_groups"][i])
            assert a == b and len(a) == fields["group_valid"][i].sum()
            answer = "".join(a.values())
            assert answer and "<think>" not in answer
            count += len(a)
        assert fields["group_valid"].shape == (len(source), 121)
        sums = [np.maximum(fields[name], 0).sum() for name in ("label_bytes", "teacher_label_bytes")]
        assert sums[0] == sums[1] > 0, "both are scored on the same bytes"
    assert count > 20


def test_a_template_that_changes_earlier_turns_puts_answers_apart_on_both_sides(folders, tmp_path):
    made = opened(tmp_path, folders[0], folders[2], [TALKS[0]] * 5, test=0.4)
    assert len(made.train) == 6 and len(made.test) == 4


def test_a_projection_spells_every_token_of_the_student_by_the_teachers(folders):
    ours, theirs = (folder_tokenizer.read(str(folders[i])) for i in (0, 1))
    ids, values = weights(ours, theirs, 8)
    assert ids.shape == values.shape == (ours.size, 8)
    (token,), (same,) = (t.encode([" and"])[0] for t in (ours, theirs))
    assert ids[token, 0] == same and values[token, 0] > 0.5
    assert ids[2, 0] == theirs.stops[0] and values[2, 0] == 1, "what ends a text"
    np.testing.assert_allclose(values.sum(1)[values.sum(1) > 0], 1, rtol=1e-5)
    assert (values.sum(1) > 0).mean() > 0.95, "special tokens alone are spelled by none"
    again = projection(None, str(folders[0]), str(folders[1]))
    np.testing.assert_array_equal(again["projection_ids"], ids)
    identity, one = weights(ours, ours, 1)
    plain = one[:, 0] > 0
    assert (identity[plain, 0] == np.arange(ours.size)[plain])[3:].mean() > 0.95


def test_what_has_no_groups_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="data.packing='packed': texts of two tokenizers do not end together"):
        opened(tmp_path, *folders[:2], packing="packed")
    with pytest.raises(ValueError, match="data.teacher_tokenizer is ''"):
        opened(tmp_path, folders[0], "")
    with pytest.raises(ValueError, match="Prompts alone have no answers"):
        opened(tmp_path, *folders[:2], [{"prompt": "a"}] * 5)
    with pytest.raises(ValueError, match="data.teacher_tokenizer='.*' has no effect on data.text.conversations.load"):
        load.load(dict(name=load.CONVERSATIONS, teacher_tokenizer=str(folders[0])))
    assert CHATML


def test_cut_rows_keep_the_groups_that_both_sides_read(folders, tmp_path, capsys):
    made = opened(tmp_path, *folders[:2], [TALKS[0]] * 5, length=60, eval_path=str(tmp_path / "data.jsonl"))
    said = capsys.readouterr().out
    assert "5 of the student's and 5 of the teacher's were cut at data.length" in said
    whole = opened(tmp_path, *folders[:2], [TALKS[0]] * 5, length=120)
    assert 0 < made.train.fields["group_valid"].sum(1)[0] < whole.train.fields["group_valid"].sum(1)[0]
