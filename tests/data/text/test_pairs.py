"""Prompts and responses: what is learned, what is evaluated, and what an API tells of its model."""

import json

import numpy as np
import pytest
import scheme_checks

from kd_jax.data.load import load
from kd_jax.data.source import DataNotFound
from kd_jax.data.text import pairs
from kd_jax.data.text.tokenizing import START, learned

KNOWN = {"name": "pairs", "test": 0.2, "validation": 0.1, "length": 48}


def write(path, records):
    path.write_text("\n".join(json.dumps(r) for r in records))
    return KNOWN | {"directory": str(path)}


def traces(n=20):
    return [{"prompt": f"{i}+1=", "rationale": f"after {i} comes {i + 1}.", "answer": str(i + 1)} for i in range(n)]


def read(source, row):
    """(prompt, response) as text."""
    counted = source.labels[row] >= 0
    first = counted.argmax()
    assert source.images[row, 0] == START
    return source.decode(source.images[row, : first + 1]), source.decode(source.labels[row][counted])


@pytest.mark.parametrize(
    ("rationale", "response"), [("none", "{n}"), ("first", "after {i} comes {n}. {n}"), ("task", None)]
)
def test_what_is_learned_after_the_prompt(tmp_path, rationale, response):
    splits = load(write(tmp_path / "t.jsonl", traces()) | {"rationale": rationale})
    assert [len(s) for s in splits] == ([28, 2, 4] if rationale == "task" else [14, 2, 4])
    sizes = {s.num_classes for s in splits} | {load(KNOWN | {"directory": str(tmp_path / "t.jsonl")}).train.num_classes}
    assert len(sizes) == 1  # whatever is learned, the vocabulary is the same
    for source in splits:
        for row in range(len(source)):
            prompt, text = read(source, row)
            i = int(prompt.replace("[answer] ", "").replace("[explain] ", "").split("+")[0])
            if rationale == "task":
                explains = prompt.startswith("[explain] ")
                assert text == (f"after {i} comes {i + 1}." if explains else str(i + 1))
                assert source.split == "train" or not explains
            else:
                assert prompt == f"{i}+1=" and text == response.format(i=i, n=i + 1)
        last = source.labels >= 0
        assert (source.labels[np.arange(len(source)), last.shape[1] - 1 - last[:, ::-1].argmax(1)] == source.end).all()


def test_sums_are_right_and_disjoint():
    splits = load(KNOWN | {"directory": "arithmetic", "rationale": "first", "limit": 500, "eval_limit": 100})
    prompts = {}
    for source in splits:
        rows = [read(source, i) for i in range(len(source))]
        prompts[source.split] = {prompt for prompt, _ in rows}
        for prompt, text in rows:
            a, b = map(int, prompt[:-1].split("+"))
            *steps, answer = text.split(" ")
            assert int(answer) == a + b and all(eval(s[: s.index("=")]) == int(s[s.index("=") + 1 : -1]) for s in steps)
            assert int(steps[0].split("=")[1][:-1]) == a % 10 + b % 10
    assert not prompts["train"] & prompts["test"] and {k: len(v) for k, v in prompts.items()}["train"] == 500


def test_an_apis_probabilities_stand_at_their_labels(tmp_path):
    texts = ["Say hello", "Hello there!", "Good bye"] * 4
    tokenizer = learned(texts, 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = [tokenizer.decode([i]) for i in tokenizer.encode("Hello there!").ids]
    assert len(words) > 1
    tops = [{"Good": -3.0, word: -0.2, "no such token": -2.5} for word in words]
    tops[0] = {words[0]: -0.3}
    records = [{"prompt": f"Say {i}", "tokens": words, "top_logprobs": tops} for i in range(10)]
    config = write(tmp_path / "api.jsonl", records) | {"tokenizer": str(tmp_path / "tokenizer.json")}
    source = load(config).train
    ids, log_p = source.fields["top_ids"], source.fields["top_log_probs"]
    assert ids.shape == log_p.shape == (*source.labels.shape, 3)
    counted = source.labels >= 0
    assert (counted.sum(1) == len(words) + 1).all() and "".join(words) == read(source, 0)[1]
    np.testing.assert_array_equal(ids[counted][:, 0], source.labels[counted])  # the likeliest is what was written
    last = counted & (source.labels == source.end)  # where the API stopped the end is certain
    assert (last.sum(1) == 1).all() and (log_p[last][:, 0] == 0).all()
    np.testing.assert_allclose(np.exp(log_p[counted & ~last][:, 0]).max(), np.exp(-0.2), rtol=1e-6)
    mass = np.exp(log_p).sum(-1)
    assert (mass[~counted] == 0).all() and (mass[counted & ~last] < 1).all() and (mass[last] == 1).all()
    assert all(len(set(row)) == 3 for row in ids.reshape(-1, 3).tolist())  # distinct, as the loss wants them
    first = counted.argmax(1)
    np.testing.assert_allclose(mass[np.arange(len(first)), first], np.exp(-0.3), rtol=1e-6)
    records[3]["tokens"] = ["Hallelujah", *words[1:]]
    with pytest.raises(ValueError, match="'Hallelujah' of the prompt 'Say 3' is no token"):
        load(write(tmp_path / "api.jsonl", records) | {"tokenizer": str(tmp_path / "tokenizer.json")})


def bytes_of(tmp_path, text):
    """(a tokenizer of single bytes, its ids of a text, the texts that an API shows of them one by one)."""
    tokenizer = learned(["abc"], 260)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    return {"tokenizer": str(tmp_path / "tokenizer.json")}, ids, [tokenizer.decode([i]) for i in ids]


def test_bytes_inside_a_character_are_told_apart_by_ids_alone(tmp_path):
    fields, ids, words = bytes_of(tmp_path, "né")
    assert words == ["n", "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"] and len({*ids}) == 3
    record = {"prompt": "a", "answer": "né", "tokens": words, "top_logprobs": [{w: -0.5} for w in words]}
    with pytest.raises(ValueError, match=r"'�' of the prompt 'a' may be any of 128 tokens of data.tokenizer"):
        load(write(tmp_path / "api.jsonl", [record] * 10) | fields)
    named = [f"token_id:{i}" for i in ids]
    record |= {"tokens": named, "top_logprobs": [{n: -0.5, f"token_id:{ids[0] + 1}": -1.5} for n in named]}
    source = load(write(tmp_path / "api.jsonl", [record] * 10) | fields).train
    assert read(source, 0)[1] == "né"
    counted = source.labels >= 0
    assert source.labels[0][counted[0]].tolist() == [*ids, source.end]
    assert source.fields["top_ids"][0][counted[0]][:3].tolist() == [[i, ids[0] + 1] for i in ids]
    with pytest.raises(
        ValueError, match="do not spell its text: they are 'né' in data.tokenizer, and the text is 'ne'"
    ):
        load(write(tmp_path / "api.jsonl", [record | {"answer": "ne"}] * 10) | fields)


def test_an_alternative_of_bytes_counts_to_the_rest(tmp_path):
    fields, _, words = bytes_of(tmp_path, "ab")
    record = {"prompt": "a", "tokens": words, "top_logprobs": [{w: -0.5, "�": -1.5} for w in words]}
    source = load(write(tmp_path / "api.jsonl", [record] * 10) | fields).train
    values = source.fields["top_log_probs"][0][source.labels[0] >= 0]
    assert values[:2].tolist() == [[-0.5, pairs.NEVER]] * 2


@pytest.mark.parametrize("end", ["listed", "", "cut off", "unsaid"])
def test_the_end_of_an_answer_is_learned(tmp_path, end):
    fields, ids, words = bytes_of(tmp_path, "ab")
    record = {"prompt": "a", "tokens": words, "top_logprobs": [{w: -0.5} for w in words]}
    if end in ("listed", ""):
        text = "<end>" if end else ""
        record["tokens"] = [*words, text]
        record["top_logprobs"] = [{w: -0.5, text: -1.0} for w in words] + [{text: -0.2, "a": -1.8}]
    record |= {"finish_reason": "length"} if end == "cut off" else {}
    source = load(write(tmp_path / "api.jsonl", [record] * 10) | fields).train
    counted = source.labels[0] >= 0
    learned_ids, tops = source.labels[0][counted].tolist(), source.fields["top_log_probs"][0][counted]
    assert learned_ids == [*ids, *([] if end == "cut off" else [source.end])]
    assert source.decode(source.labels[0][counted]) == "ab"
    if end in ("listed", ""):
        np.testing.assert_allclose(tops[-1], [-0.2, -1.8], rtol=1e-6)
        assert source.fields["top_ids"][0][counted][0].tolist() == [ids[0], source.end]
    if end == "unsaid":
        assert tops[-1][0] == 0
    record = {"prompt": "a", "tokens": ["a", "<end>", "b"], "top_logprobs": [{"a": -0.5}] * 3}
    with pytest.raises(ValueError, match="of the prompt 'a' go on after the end, 2 of 4"):
        load(write(tmp_path / "api.jsonl", [record] * 10) | fields)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a"}', "line 2: no answer among prompt;"),
        ('["a", "b"]', "line 2: one object a line"),
        ("{prompt: 1}", "line 2: no JSON, Expecting property name"),
        ('{"prompt": "a", "answer": 3}', "line 2: prompt and answer are texts"),
        ('{"prompt": "a", "tokens": ["b"], "top_logprobs": []}', "line 2: 1 tokens and 0 top_logprobs"),
        ('{"prompt": "a", "tokens": "b", "top_logprobs": []}', "line 2: tokens are a list of texts"),
        (
            '{"prompt": "a", "tokens": ["b"], "top_logprobs": [null]}',
            "line 2: the top_logprobs of the token 'b' are None",
        ),
        ('{"prompt": "a", "tokens": ["b"], "top_logprobs": [{"b": 0.7}]}', "'b' are no log-probabilities"),
        ('{"prompt": "a", "tokens": ["b"], "top_logprobs": [{"b": 0, "a": -0.5}]}', "add up to 1.61"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n' + line)
    with pytest.raises(ValueError, match=says):
        load(KNOWN | {"directory": str(path)})


def test_bad_fields(tmp_path):
    config = write(tmp_path / "t.jsonl", traces())
    with pytest.raises(ValueError, match="'first'"):
        load(config | {"rationale": "frist"})
    with pytest.raises(ValueError, match="data.length is 4"):
        load(config | {"length": 4})
    with pytest.raises(DataNotFound, match="none.jsonl"):
        load(config | {"directory": str(tmp_path / "none.jsonl")})
    answers = write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "b"}] * 10)
    with pytest.raises(ValueError, match="comes without a rationale"):
        load(answers | {"rationale": "first"})
    assert pairs.RATIONALES == ("none", "first", "task")


def test_a_student_learns_what_an_api_lists(tmp_path):
    tokenizer = learned(["Hello there, hello."], 280)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words = [tokenizer.decode([i]) for i in tokenizer.encode("Hello there").ids]
    records = [{"prompt": f"{i}?", "tokens": words, "top_logprobs": [{w: -0.5} for w in words]} for i in range(60)]
    config = scheme_checks.config_module("api_teacher").get_config("tiny")
    config.data.update(write(tmp_path / "api.jsonl", records) | {"tokenizer": str(tmp_path / "tokenizer.json")})
    config.train.steps, config.train.optimizer.learning_rate = 40, 0.05
    config.data.length, config.report, config.log_every = 24, False, 10
    student = scheme_checks.train.run(config, tmp_path / "run")["models"]["student"]
    # Half of the loss wants probability 1, half exp(-0.5) = 0.61, of the token that was written.
    assert 0.02 < student["last"]["test"]["nll"] < 0.5 and student["curve"][-1]["kd"] < 0.5
