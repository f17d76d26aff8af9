"""What a report says of answers: the first of a row, whatever lies behind it; of prompts alone what is written."""

import dataclasses

import numpy as np
import pytest
from language_folders import TALKS, opened, qwen
from text_parts import INPUTS

from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import llama
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
    streamed = dataclasses.replace(
        made.train, images=None, labels=None, fetch=print, size=3, fields={}, token_labels=True
    )
    with pytest.raises(ValueError, match="data.jsonl/train is too large to be in memory"):
        prompts_of(streamed, 0)
