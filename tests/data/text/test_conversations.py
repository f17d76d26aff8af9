"""Published language models' data: what is learned, what is cut, what lies in a row, and parity with transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language_folders import CHATML, HEADERS, MARKED, TALKS, TEXTS, THINKING, conversation, llama, opened, qwen

from kd_jax.data.text import folder_tokenizer, packing, records
from kd_jax.data.text import rows as rows_


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"))


def rows(source):
    return [np.asarray(x) for x in (source.images, source.labels, source.fields["segments"])]


def learned(source, tokenizer):
    return [tokenizer.tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=False) for row in source.labels]


def test_answers_of_every_turn_are_learned_with_the_token_that_ends_them(folder, tmp_path):
    made = opened(tmp_path, folder, [TALKS[0]] * 5).train
    tokenizer = folder_tokenizer.read(str(folder))
    assert learned(made, tokenizer)[0] == f"{TEXTS[1]}<|im_end|>{TEXTS[3]}<|im_end|>"
    last = opened(tmp_path, folder, [TALKS[0]] * 5, loss_on="last").train
    assert learned(last, tokenizer)[0] == f"{TEXTS[3]}<|im_end|>"
    whole = opened(tmp_path, folder, [TALKS[0]] * 5, loss_on="all").train
    assert learned(whole, tokenizer)[0].startswith("system\nYou answer")  # all but the first token
    tokens, labels, segments = rows(made)
    there = labels >= 0
    assert np.array_equal(labels[:, :-1][there[:, :-1]], tokens[:, 1:][there[:, :-1]])
    assert (labels[segments == 0] == -1).all() and (segments == 0).any()


def test_a_template_that_changes_earlier_turns_gives_a_row_an_answer(tmp_path):
    folder = qwen(tmp_path / "thinking", THINKING)
    made = opened(tmp_path, folder, [TALKS[0]] * 5, length=160).train
    tokenizer = folder_tokenizer.read(str(folder))
    assert sorted(set(learned(made, tokenizer))) == [
        f"<think>\n\n</think>\n\n{text}<|im_end|>" for text in (TEXTS[1], TEXTS[3])
    ]
    shown = tokenizer.tokenizer.decode(made.images[np.argmax((made.labels >= 0).argmax(1))].tolist(), False)
    assert shown.count("<think>") == 1, "an earlier answer is shown as the model sees it later, without its thoughts"


def test_a_conversation_is_in_one_split_with_all_its_rows(tmp_path):
    folder = qwen(tmp_path / "thinking", THINKING)
    talks = [conversation(f"Number {i}?", f"It is {i}.", "And then?", f"It was {i}.") for i in range(20)]
    made = opened(tmp_path, folder, talks, validation=0.2)

    def numbers(source):
        return {word for row in source.images for word in source.decode(row).split() if word.isdigit()}

    train, validation, test = (numbers(source) for source in made)
    assert not (train & validation or train & test or validation & test)
    assert len(made.train) == 2 * 12


@pytest.mark.parametrize("marked", [False, True])
def test_templates_render_as_those_of_transformers(folder, another, tmp_path, marked):
    auto = pytest.importorskip("transformers").AutoTokenizer
    places = [qwen(tmp_path / "marked", MARKED)] if marked else [folder, another, qwen(tmp_path / "t", THINKING)]
    for place in places:
        ours, theirs = folder_tokenizer.read(str(place)), auto.from_pretrained(str(place))
        assert theirs("two")["input_ids"] == [*ours.start, *ours.encode(["two"])[0]]
        for talk in TALKS:
            talk = talk["messages"]
            assert ours.chat.render(talk) == theirs.apply_chat_template(talk, tokenize=False)
            begun = theirs.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
            assert ours.chat.render(talk[:-1], begin_answer=True) == begun
            whole = theirs.apply_chat_template(
                talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked
            )
            if "think" in ours.chat.template and talk[-1]["role"] == "user":
                continue  # rows end with an answer then
            [made] = rows_.rows_of("messages", [{"messages": talk}], ["here"], ours, records.Rule())
            if marked:
                ids, mask, _ = made[0]
                assert mask == [bool(x) for x in whole["assistant_masks"]]
            assert made[-1][0] == list(whole["input_ids"])


def test_a_template_sees_tools_and_options_and_its_sandbox(tmp_path):
    auto = pytest.importorskip("transformers").AutoTokenizer
    template = (
        "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif -%}{{ '<' if loud is defined and loud else '' }}"
        "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{{ m.role }}:{{ m.content }};{% endfor %}"
    )
    folder = qwen(tmp_path / "tools", template)
    ours, theirs = folder_tokenizer.read(str(folder)).chat, auto.from_pretrained(str(folder))
    messages = [
        {"role": "user", "content": "ü<"},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": "b"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "description": "Adds <two>", "parameters": {}}}]
    want = theirs.apply_chat_template(messages, tools=tools, tokenize=False, loud=True)
    assert ours.render(messages, tools=tools, loud=True) == want
    escaped = qwen(tmp_path / "escape", "{{ messages.append(1) }}")
    with pytest.raises(ValueError, match="the chat template does not take messages of the roles user"):
        folder_tokenizer.read(str(escaped)).chat.render(messages[:1])


def test_the_folder_says_what_begins_ends_and_pads_a_text(folder, another, tmp_path):
    first, second = folder_tokenizer.read(str(folder)), folder_tokenizer.read(str(another))
    assert (first.start, first.stops, first.pad) == ((), (2, 0), 0)
    assert (second.start, second.stops, second.pad) == ((0,), (1, 4), 1)
    made = opened(tmp_path, another, [{"text": text} for text in TEXTS], length=32).train
    assert (made.images[:, 0] == 0).all() and 0 not in made.labels and made.end == (1, 4)
    bare = opened(tmp_path, folder, [{"text": text} for text in TEXTS], length=32).train
    assert bare.texts.entries(["two and"], bare.texts.tokenizer)["tokens"][0, 0] == first.encode(["two and"])[0][0]
    assert second.chat.render(TALKS[2]["messages"]).startswith("<|begin_of_text|><|start_header_id|>user")


def test_prompts_and_completions_are_encoded_apart(folder, another, tmp_path):
    pairs = [{"prompt": "2+2=", "completion": "4", "id": 3}] * 5
    tokenizer = folder_tokenizer.read(str(another))
    made = opened(tmp_path, another, pairs, length=12).train
    prompt, answer = tokenizer.encode(["2+2=", "4"])
    assert made.images[0, : len(prompt) + 2].tolist() == [0, *prompt, *answer]
    assert made.labels[0][made.labels[0] >= 0].tolist() == [*answer, 1]
    chat = opened(tmp_path, folder, pairs, length=32, chat=True).train
    assert chat.decode(chat.images[0]).startswith("user\n2+2=\nassistant\n4")
    lists = [{"prompt": TALKS[2]["messages"][:1], "completion": TALKS[2]["messages"][1:]}] * 5
    listed = opened(tmp_path, folder, lists).train
    assert learned(listed, folder_tokenizer.read(str(folder)))[0] == f"{TEXTS[3]}<|im_end|>"


def test_prompts_alone_are_whole_and_the_student_continues_them(folder, tmp_path, capsys):
    from kd_jax.schemes.continuations import prompts_of

    data = [{"prompt": [{"role": "user", "content": f"Say {i}"}]} for i in range(9)] + [
        {"prompt": TALKS[0]["messages"][:-1]}
    ]
    made = opened(tmp_path, folder, data, length=40, split_seed=1).train
    assert (made.labels == -1).all() and "are longer than 20 tokens" in capsys.readouterr().out
    prompts = prompts_of(made, 0)
    assert prompts.slots == 20 and prompts.new == 21 and prompts.end == (2, 0)
    batch = {"tokens": made.images, "label": made.labels, "segments": made.fields["segments"]}
    tokens, mask = prompts.of(jax.tree.map(jnp.asarray, batch))
    for row, there, whole, segments in zip(tokens, mask, made.images, made.fields["segments"], strict=True):
        assert row[there].tolist() == whole[segments > 0].tolist()
        assert made.decode(row[there]).endswith("assistant\n")


@pytest.mark.parametrize(("truncation", "number"), [("right", "0"), ("left", "29"), ("drop", None)])
def test_what_is_longer_than_a_row_is_cut_by_rule_and_said(folder, tmp_path, capsys, truncation, number):
    long = {"prompt": "Count:", "completion": " ".join(map(str, range(30)))}
    data = [{"prompt": "Count:", "completion": " 1"}] * 5 + [long]
    made = opened(tmp_path, folder, data, length=16, truncation=truncation, eval_path=str(tmp_path / "data.jsonl"))
    said = capsys.readouterr().out
    assert "of 6 rows" in said and ("1 were left out" if truncation == "drop" else f"cut on the {truncation}") in said
    answers = [made.train.decode(row[row >= 0]) for row in made.train.labels]
    assert len(answers) == (5 if number is None else 6)
    assert number is None or number in answers[-1].split()
    assert len(made.test) == len(made.train)


def test_packing_keeps_rows_whole_and_apart(folder, tmp_path):
    padded, packed = (opened(tmp_path, folder, TALKS * 5, packing=p, length=128).train for p in ("padded", "packed"))

    def texts(source):
        tokens, labels, segments = rows(source)
        pairs = []
        for i in range(len(tokens)):
            for n in range(1, segments[i].max() + 1):
                here = segments[i] == n
                assert np.ptp(np.flatnonzero(here)) + 1 == here.sum()
                pairs.append((tokens[i][here].tolist(), labels[i][here].tolist()))
        return sorted(pairs)

    assert texts(padded) == texts(packed)
    assert len(packed) < len(padded) and packed.fields["segments"].max() > 1


def test_packed_groups_fit_and_hold_everything_once():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 100, 300).tolist()
    groups = packing.packed(sizes, 100)
    assert sorted(i for group in groups for i in group) == list(range(300))
    loads = [sum(sizes[i] for i in group) for group in groups]
    assert max(loads) <= 100 and np.mean(loads) > 95


def test_attention_and_positions_stay_inside_a_packed_row(folder, tmp_path):
    from kd_jax.models.language.decoder_families import llama as network

    made = opened(tmp_path, folder, TALKS[2:] * 2, packing="packed", length=128).train
    tokens, _, segments = (jnp.asarray(x[:1]) for x in rows(made))
    module = network(made.num_classes, 16, 1, 2, hidden=16, tied=True)
    params = module.init(jax.random.key(0), tokens)
    whole = module.apply(params, tokens, segments)
    second = np.flatnonzero(np.asarray(segments[0]) == 2)
    alone = module.apply(params, tokens[:, second])
    np.testing.assert_allclose(whole[:, second], alone, atol=1e-5)


def test_running_texts_lose_no_token(folder, tmp_path):
    data = [{"text": " ".join(TEXTS)}] * 5
    made = opened(tmp_path, folder, data, length=16).train
    ids = folder_tokenizer.read(str(folder)).encode([data[0]["text"]])[0]
    labels = made.labels[made.labels >= 0]
    assert labels.tolist() == [*ids[1:], 2] * 4  # <|im_end|> ends each, nothing begins it


@pytest.mark.parametrize("template", [CHATML, HEADERS, THINKING, MARKED])
def test_labels_spell_the_bytes_of_the_answers_whatever_the_template(tmp_path, template):
    """So that networks of different tokenizers and templates are scored on the same bytes."""
    talks = [conversation("Wie spät?", " Zwölf – 十二 ✓ ", "And?", TEXTS[1])] * 5
    made = opened(tmp_path, qwen(tmp_path / "m", template, bos_token=""), talks, length=256, packing="packed").train
    spelled, label = made.fields["label_bytes"], made.labels
    assert (spelled[label == 2] == -1).all() and (spelled[label < 0] == -1).all()
    spelled = spelled[spelled >= 0]
    wanted = len("Zwölf – 十二 ✓".encode()) + len(TEXTS[1].encode())
    assert spelled.sum() == 4 * wanted


def test_texts_and_completions_spell_all_their_bytes(another, tmp_path):
    made = opened(tmp_path, another, [{"text": "Zwölf – 十二"}] * 5, length=64).train
    assert np.maximum(made.fields["label_bytes"], 0).sum() == 4 * len("Zwölf – 十二".encode())
    pairs = opened(tmp_path, another, [{"prompt": "ä", "completion": "öß"}] * 5, length=64).train
    assert np.maximum(pairs.fields["label_bytes"], 0).sum() == 4 * 4
