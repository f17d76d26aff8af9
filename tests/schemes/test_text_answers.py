"""What a report says of answers: the first of a row, whatever lies behind it; of prompts alone what is written."""

import numpy as np
import pytest
from language_folders import TALKS, TEXTS, opened, qwen
from text_parts import INPUTS

from kd_jax.data.text import conversations
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import llama
from kd_jax.schemes import continuations
from kd_jax.schemes.continuations import prompts_of
from kd_jax.schemes.text_summary import answers, first_answer
from kd_jax.types import Role


def test_the_first_answer_of_a_row_ends_where_the_next_prompt_begins():
    assert first_answer(np.array([-1, 3, 4, -1, 5])).tolist() == [3, 4]
    assert first_answer(np.array([3, 4])).tolist() == [3, 4]
    assert first_answer(np.array([-1, -1])).tolist() == []


@pytest.mark.parametrize("packing", ["padded", "packed"])
def test_answers_are_those_of_the_first_turn(tmp_path, packing, monkeypatch):
    made = opened(tmp_path, qwen(tmp_path / "m"), [TALKS[4]] * 5, length=96, packing=packing)
    role = Role(LinenModel(llama(made.train.num_classes, 8, 1, 2, hidden=8, tied=True)), INPUTS, group="student")
    replies = [["Three and two are five.", "Six."]]
    monkeypatch.setattr(
        "kd_jax.schemes.text_summary.written", lambda *args: ([""] * len(args[5]), replies[0][:1] * len(args[5]))
    )
    table, texts = answers({"student": role}, made._asdict())(None, {})
    assert table["rows"] == [["", "100.0%", 1, 1]]
    assert "(data: Three and two are five.)" in texts["texts"][0]


def test_prompts_alone_show_what_is_written(tmp_path):
    made = opened(tmp_path, qwen(tmp_path / "m"), [{"prompt": f"Say {i}"} for i in range(6)], length=16)
    role = Role(LinenModel(llama(made.train.num_classes, 8, 1, 2, hidden=8, tied=True)), INPUTS, group="student")
    assert callable(answers({"student": role}, made._asdict()))


@pytest.mark.parametrize("packing", ["padded", "packed"])
def test_running_texts_are_continued_not_compared(tmp_path, packing, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "kd_jax.schemes.text_summary.written",
        lambda state, role, name, source, prompts, rows, *more: asked.append(prompts) or (["a"] * len(rows),) * 2,
    )
    records = [{"text": text} for text in TEXTS * 3]
    made = opened(tmp_path, qwen(tmp_path / "m"), records, length=48, packing=packing)
    (section,) = answers({"student": None}, made._asdict())(None, {})
    assert section["title"] == "What they write" and len(section["texts"]) == min(3, len(made.test))
    (prompts,) = asked
    mask = prompts.of(continuations.rows_of(made.test, np.arange(len(made.test))))[1]
    assert prompts.running and 1 < prompts.slots <= 24 and np.asarray(mask).all()


def test_prompts_of_streamed_texts_are_those_in_memory(tmp_path, monkeypatch, capsys):
    """Of pairs, and of prompts alone, in more than one look at the rows."""
    monkeypatch.setattr(continuations, "AT_ONCE", 4)
    for records in (TALKS * 2, [{"prompt": f"Say {i}"} for i in range(9)]):
        made = opened(tmp_path, qwen(tmp_path / "m"), records, length=64)
        with monkeypatch.context() as patch:
            patch.setattr(conversations, "IN_MEMORY", 0)
            streamed = opened(tmp_path, qwen(tmp_path / "m"), records, length=64)
        assert streamed.train.images is None and made.train.images is not None
        capsys.readouterr()
        prompts = prompts_of(made.train, 0)
        said = capsys.readouterr().out
        assert prompts_of(streamed.train, 0) == prompts == prompts_of(streamed.train, 0)
        assert capsys.readouterr().out == said, "said once"
        assert streamed.train.labelled.tolist() == made.train.labelled.tolist()
        assert streamed.train.labelled.any() == ("messages" in records[0])
        rows = np.array([3, 0])
        ours, theirs = (continuations.arrays_of(source, rows) for source in (streamed.train, made.train))
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
