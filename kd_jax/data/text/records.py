"""Lines of language data: which kind they are, and what a tokenizer makes of each.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
    {"prompt": "12+30=", "completion": "42"}      or lists of messages in both places
    {"prompt": "12+30="}                          alone: the student writes the answer (on-policy)
    {"text": "..."}                               every token is learned

A file has one kind. `messages` may come with `tools` and `chat_template_kwargs`, which the template reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kd_jax.data.text.folder_tokenizer import FolderTokenizer
from kd_jax.resolve import near

KINDS = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "prompt": ("prompt",),
    "text": ("text",),
}
OPTIONS = ("tools", "chat_template_kwargs")  # of the template
FIELDS = ("messages", "prompt", "completion", "text", *OPTIONS)
LOSS_ON = ("answers", "last", "all")
# What other tools call the fields.
MEANT = {
    **dict.fromkeys(("response", "answer", "output", "target", "chosen"), "completion"),
    **dict.fromkeys(("instruction", "question", "input", "query"), "prompt"),
    **dict.fromkeys(("conversations", "conversation", "chat", "dialogue", "turns"), "messages"),
    **dict.fromkeys(("content", "document"), "text"),
}


class Rule(NamedTuple):
    """How records become tokens: `loss_on` is one of LOSS_ON; with `chat` plain prompts are a user's message.

    `apart` gives every answer a row of its own, whatever the template.
    """

    loss_on: str = "answers"
    chat: bool = False
    apart: bool = False


def kind_of(record: Any) -> str:
    """Returns the kind of a record; ValueError for what is none, with the fields that were meant."""
    if not isinstance(record, Mapping):
        raise ValueError(f"one object a line is expected, {{...}}, not {type(record).__name__}")
    there = {k for k, v in record.items() if v is not None}
    kinds, more = _kinds_of(there), sorted(there - set(FIELDS))
    meant = [f"{name!r} is called {MEANT[name]!r} here" for name in more if name in MEANT]
    if len(kinds) > 1:
        raise ValueError(f"{' and '.join(kinds)} in one line: a line is of one kind")
    if not kinds or (kinds == ["prompt"] and meant):
        wrong = ", ".join(meant) or near(", ".join(more), ("messages", "prompt and completion", "prompt", "text"))
        raise ValueError(f"the fields are {', '.join(map(repr, record)) or 'none'}: {wrong}")
    _check(kinds[0], record)
    return kinds[0]


def _kinds_of(names: set[str]) -> list[str]:
    """The kinds whose fields are all among these; a completion's prompt is not one alone."""
    kinds = [kind for kind, fields in KINDS.items() if names >= set(fields)]
    return [kind for kind in kinds if not (kind == "prompt" and "completion" in kinds)]


def _check(kind: str, record: Mapping[str, Any]) -> None:
    """Raises ValueError for contents that are no texts and no messages."""
    for name in KINDS[kind]:
        if kind == "messages" or not isinstance(record[name], str):
            _check_messages(name, record[name], kind)
    roles = [message["role"] for message in record["messages"]] if kind == "messages" else ["assistant"]
    if "assistant" not in roles:
        raise ValueError(
            f"no message has the role 'assistant', so there is nothing to learn; roles: {', '.join(roles)}"
        )
    if kind == "completion" and isinstance(record["prompt"], str) != isinstance(record["completion"], str):
        raise ValueError("prompt and completion are both texts, or both lists of messages")


def _check_messages(name: str, value: Any, kind: str) -> None:
    if kind == "text" or not isinstance(value, Sequence) or isinstance(value, str) or not len(value):
        raise ValueError(
            f"{name!r} is {'a text' if kind == 'text' else 'a list of messages, or a text'}: {value!r:.60}"
        )
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            fields = ", ".join(message) if isinstance(message, Mapping) else repr(message)[:60]
            raise ValueError(
                f"every message has a 'role' (system, user, assistant, ...) and 'content'; one has: {fields}"
            )
        if message.get("content") is None and not message.get("tool_calls"):
            raise ValueError(f"a message of the role {message['role']!r} has no content")


def check_template(kind: str, record: Mapping[str, Any], tokenizer: FolderTokenizer, rule: Rule) -> None:
    """Raises ValueError where messages need a template that the folder does not have."""
    if tokenizer.chat is None and (rule.chat or kind == "messages" or not isinstance(record[KINDS[kind][0]], str)):
        raise ValueError(
            f"{tokenizer.folder} has no chat template (chat_template.jinja, or in tokenizer_config.json), by which "
            "messages become text: set data.template to a file with one, or use prompt and completion."
        )


def unread(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the fields of records that nothing reads, such as an id."""
    return sorted({name for record in records for name in record} - set(FIELDS))
