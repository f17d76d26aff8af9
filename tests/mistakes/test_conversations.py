"""Records, templates, tokenizers and lengths of language data that do not fit."""

import gzip
import json

from language_folders import MARKED, TALKS, jsonl, llama, opened, qwen
from mistakes import Mistake, check, each

from kd_jax.data import load
from kd_jax.schemes.continuations import prompts_of

PAIR = {"prompt": "2+2=", "completion": "4"}
TURN = {"role": "user", "content": "Hello?"}


def reading(*lines, **fields):
    """Reads good records and these, with the fields."""
    return lambda folder: opened(folder, qwen(folder / "model"), [*[PAIR] * 4, *lines], **fields)


def only(*records, **fields):
    return lambda folder: opened(folder, qwen(folder / "model"), list(records), **fields)


def unread(**fields):
    """Loads conversations of a path in an empty folder."""

    def do(folder):
        asked = {k: str(folder / v) for k, v in fields.items()}
        return load.load(dict(name=load.CONVERSATIONS, tokenizer=str(qwen(folder / "model"))) | asked)

    return do


def written(name, content, **fields):
    """Reads a file of this content."""

    def do(folder):
        path = folder / name
        path.write_bytes(content)
        asked = dict(name=load.CONVERSATIONS, path=str(path), tokenizer=str(qwen(folder / "model")))
        return load.load(asked | dict(cache=str(folder / "cache")) | fields)

    return do


def of_folder(change, records=TALKS, **fields):
    """Reads with a model's folder that was changed."""

    def do(folder):
        model = qwen(folder / "model")
        change(model)
        return opened(folder, model, records, **fields)

    return do


def prompts_of_packed(folder):
    prompts_of(opened(folder, qwen(folder / "model"), TALKS * 3, packing="packed", length=160).train, 0)


def evaluated_apart(folder):
    records, held_out = [*[PAIR] * 4, PAIR | {"prompt": "long " * 9}], jsonl(folder / "eval.jsonl", [PAIR])
    opened(folder, qwen(folder / "model"), records, length=12, eval_path=str(held_out))


def no_end(model):
    (model / "tokenizer_config.json").write_text("{}")
    (model / "generation_config.json").write_text("{}")


def strict(model):
    (model / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")


def hiding(model):
    text = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    (model / "chat_template.jinja").write_text("{% generation %}" + text + "{% endgeneration %}")


def unlike(model):
    template = "{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template)


RECORDS = [
    Mistake(
        "a message without a role",
        "data.jsonl, line 5: every message has a 'role' (system, user,",
        reading({"messages": [{"content": "a"}]}),
    ),
    Mistake(
        "a message of another form",
        "data.jsonl, line 5: every message has a 'role'…one has: from, value",
        reading({"messages": [{"from": "human", "value": "a"}]}),
    ),
    Mistake(
        "a message without content",
        "a message of the role 'user' has no content",
        reading({"messages": [{"role": "user"}]}),
    ),
    Mistake(
        "messages that are a text",
        "'messages' is a list of messages, or a text: 'Hello'",
        reading({"messages": "Hello"}),
    ),
    Mistake(
        "a conversation in which nobody answers",
        "no message has the role 'assistant', so there is nothing to learn; roles: user",
        reading({"messages": [TURN]}),
    ),
    Mistake(
        "two kinds in one file",
        "data.jsonl, line 5: text, and the first record is completion: a data set has one kind",
        reading({"text": "a"}),
    ),
    Mistake(
        "two kinds in one line",
        "line 5: messages and text in one line: a line is of one kind",
        reading({"text": "a", **TALKS[0]}),
    ),
    Mistake(
        "texts among lists of messages",
        "line 5: completion of messages, and the first record is completion",
        reading({"prompt": [TURN], "completion": [TURN]}),
    ),
    Mistake(
        "a prompt that is a list and a completion that is a text",
        "prompt and completion are both texts, or both lists of messages",
        reading({"prompt": [TURN], "completion": "a"}),
    ),
    Mistake(
        "an answer by another name",
        "the fields are 'prompt', 'response': 'response' is called 'completion' here",
        only({"prompt": "a", "response": "b"}),
    ),
    Mistake(
        "conversations by another name",
        "the fields are 'conversations': 'conversations' is called 'messages' here",
        only({"conversations": []}),
    ),
    Mistake(
        "fields that are of no kind",
        "the fields are 'a': There is: messages, prompt, prompt and completion, text",
        only({"a": 1}),
    ),
    Mistake("a number for a text", "'text' is a text: 3", only({"text": 3})),
    Mistake("a list a line", "one object a line is expected, {...}, not list", written("a.jsonl", b"[1]\n")),
    Mistake(
        "a field that nothing reads",
        "data.jsonl: id, source: nothing reads these fields",
        only(*[PAIR | {"id": 1, "source": "b"}] * 5),
        goes_on=True,
    ),
]
FILES = [
    Mistake("no file", "is not there", unread(path="a.jsonl")),
    Mistake("no path", "data.path is '': a file or folder of records is expected", unread()),
    Mistake(
        "no tokenizer", "data.tokenizer is '': the folder of a model is expected", written("a.jsonl", b"", tokenizer="")
    ),
    Mistake("an empty file", "a.jsonl: there is no record in it", written("a.jsonl", b"\n\n")),
    Mistake("a file of another form", "a file of records ends in .jsonl,", written("a.csv", b"a,b")),
    Mistake("a line that is no JSON", "a.jsonl, line 1: no JSON", written("a.jsonl", b"{'text': 3}\n")),
    Mistake("a text that is no UTF-8", "a.jsonl, line 1: no JSON", written("a.jsonl", b'{"text": "\xff"}\n')),
    Mistake(
        "a gzip file that is cut off",
        "a.jsonl.gz is no gzip file, or cut off",
        written("a.jsonl.gz", gzip.compress(json.dumps(PAIR).encode())[:-9]),
    ),
    Mistake("a name that is no gzip file", "a.jsonl.gz is no gzip file, or cut off", written("a.jsonl.gz", b"{}")),
    Mistake(
        "too few records for the splits", "2 records with data.test=0.2 and data.validation=0.0 leave", only(PAIR, PAIR)
    ),
    Mistake("a folder without files", "holds no file that ends in .jsonl", unread(path="")),
]
FOLDERS = [
    Mistake(
        "a model without a tokenizer",
        "tokenizer.json is not there. It is what save_pretrained of a fast tokenizer writes",
        of_folder(lambda model: (model / "tokenizer.json").unlink()),
    ),
    Mistake(
        "a tokenizer that cannot be read",
        "is no tokenizer.json that can be read",
        of_folder(lambda model: (model / "tokenizer.json").write_text("{}")),
    ),
    Mistake(
        "settings that are no JSON",
        "tokenizer_config.json is no JSON",
        of_folder(lambda model: (model / "tokenizer_config.json").write_text("{")),
    ),
    Mistake(
        "a model that says no end of a text",
        "no token ends a text: tokenizer_config.json has no eos_token",
        of_folder(no_end),
    ),
    Mistake(
        "messages without a template",
        "has no chat template (chat_template.jinja, or in tokenizer_config.json)",
        of_folder(lambda model: (model / "chat_template.jinja").unlink()),
    ),
    Mistake(
        "a template that is no template",
        "The chat template is no Jinja template",
        of_folder(lambda model: (model / "chat_template.jinja").write_text("{% for %}")),
    ),
    Mistake(
        "a role that the template does not take",
        "line 1: the chat template does not take messages of the roles system, user, assistant: System role not",
        of_folder(strict),
    ),
    Mistake(
        "a template that cannot be told apart",
        "the template renders what comes before an answer otherwise when the answer is there",
        of_folder(unlike),
    ),
    Mistake(
        "a file of a template that is not there",
        "there is no such file",
        of_folder(lambda model: None, template="none.jinja"),
    ),
    Mistake(
        "a template that hides which answer is which",
        "the template marks 1 answers of 2: which are of which turn is not known",
        of_folder(hiding, loss_on="last"),
    ),
    Mistake(
        "rows longer than the model",
        "data.length=96: …config.json says that the model has 64 positions",
        lambda folder: opened(folder, llama(folder / "m", max_position_embeddings=64), TALKS),
    ),
]
FIELDS = [
    Mistake("a truncation that is none", "data.truncation='middle'. There is", only(PAIR, truncation="middle")),
    Mistake("a packing that is none", "data.packing='pack'. Did you mean 'packed'", only(PAIR, packing="pack")),
    Mistake("a loss on something else", "data.loss_on='answer'. Did you mean 'answers'", only(PAIR, loss_on="answer")),
    Mistake(
        "turns of running text",
        "data.loss_on='last' has no effect on records of the kind 'text'",
        only(*[{"text": "a"}] * 5, loss_on="last"),
    ),
    Mistake(
        "a conversation of running text",
        "data.chat=True has no effect on records of the kind 'text'",
        only(*[{"text": "a"}] * 5, chat=True),
    ),
    Mistake(
        "prompts that fill every row",
        "no row is left: 1 rows of 47 to 47 tokens, of which 9 are read",
        only(*[PAIR | {"prompt": "long " * 9}] * 5, length=8),
    ),
    Mistake(
        "prompts that fill a row",
        "of 5 rows 1 are longer than 13 tokens (up to 47) and were cut on the right, 0 were left out for that, and",
        evaluated_apart,
        goes_on=True,
    ),
    Mistake(
        "fields of conversations on other data",
        "data.truncation='left' has no effect on digits: it is of data.text.conversations.load",
        lambda folder: load.load(dict(name="digits", truncation="left")),
    ),
    Mistake(
        "a name that is nearly right",
        "'data.text.conversation.load': no module 'kd_jax.data.text.conversation'. Did you mean 'conversations'",
        lambda folder: load.load(dict(name="data.text.conversation.load")),
    ),
    Mistake(
        "prompts of packed rows",
        "data.jsonl/train: 5 of 5 rows hold several texts, of which the first is continued; data.packing='padded' has",
        prompts_of_packed,
        goes_on=True,
    ),
]


@each(RECORDS + FILES + FOLDERS + FIELDS)
def test_conversations(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
