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

from kd_jax.data.text.chat import Message
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
Row = tuple[list[int], list[bool]]  # tokens, and which of them are learned


class Rule(NamedTuple):
    """How records become tokens: `loss_on` is one of LOSS_ON; with `chat` plain prompts are a user's message."""

    loss_on: str = "answers"
    chat: bool = False


def kind_of(record: Any) -> str:
    """Returns the kind of a record; ValueError for what is none, with the fields that were meant."""
    if not isinstance(record, Mapping):
        raise ValueError(f"one object a line is expected, {{...}}, not {type(record).__name__}")
    there = {k for k, v in record.items() if v is not None}
    kinds = [kind for kind, fields in KINDS.items() if there >= set(fields)]
    kinds = [kind for kind in kinds if not (kind == "prompt" and "completion" in kinds)]
    more = sorted(there - set(FIELDS))
    meant = [f"{name!r} is called {MEANT[name]!r} here" for name in more if name in MEANT]
    if len(kinds) > 1:
        raise ValueError(f"{' and '.join(kinds)} in one line: a line is of one kind")
    if not kinds or (kinds == ["prompt"] and meant):
        wrong = ", ".join(meant) or near(", ".join(more), ("messages", "prompt and completion", "prompt", "text"))
        raise ValueError(f"the fields are {', '.join(map(repr, record)) or 'none'}: {wrong}")
    _check(kinds[0], record)
    return kinds[0]


def _check(kind: str, record: Mapping[str, Any]) -> None:
    """Raises ValueError for contents that are no texts and no messages."""
    for name in KINDS[kind]:
        value, messages = record[name], kind == "messages" or not isinstance(record[name], str)
        if not messages:
            continue
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
    roles = [message["role"] for message in record["messages"]] if kind == "messages" else ["assistant"]
    if "assistant" not in roles:
        raise ValueError(
            f"no message has the role 'assistant', so there is nothing to learn; roles: {', '.join(roles)}"
        )
    if kind == "completion" and isinstance(record["prompt"], str) != isinstance(record["completion"], str):
        raise ValueError("prompt and completion are both texts, or both lists of messages")


def check_template(kind: str, record: Mapping[str, Any], tokenizer: FolderTokenizer, rule: Rule) -> None:
    """Raises ValueError where messages need a template that the folder does not have."""
    if tokenizer.chat is None and (rule.chat or kind == "messages" or not isinstance(record[KINDS[kind][0]], str)):
        raise ValueError(
            f"{tokenizer.folder} has no chat template (chat_template.jinja, or in tokenizer_config.json), by which "
            "messages become text: set data.template to a file with one, or use prompt and completion."
        )


def rows_of(
    kind: str, records: Sequence[Mapping[str, Any]], places: Sequence[str], tokenizer: FolderTokenizer, rule: Rule
) -> list[list[Row]]:
    """Returns the rows of each record: one, or one an answer where the template changes earlier turns later on.

    The row of a prompt alone has its tokens and none that is learned. Raises ValueError, with the record's place, for
    messages that the template does not take.
    """
    if kind == "text":
        start, end = list(tokenizer.start), tokenizer.stops[0]
        return [
            [_learned([], [*start, *ids, end], len(start))] for ids in tokenizer.encode([r["text"] for r in records])
        ]
    plain = not rule.chat and kind != "messages" and isinstance(records[0]["prompt"], str)
    if plain:
        return _plain_rows(kind, records, tokenizer, rule)
    pieces = []
    for place, record in zip(places, records, strict=True):
        try:
            pieces.append(_rendered(kind, _as_messages(kind, record), tokenizer, rule, _options(record)))
        except ValueError as e:
            raise ValueError(f"{place}: {e}") from e
    return _encoded(pieces, tokenizer)


def _learned(prompt: list[int], answer: list[int], skipped: int = 0) -> Row:
    return [*prompt, *answer], [False] * (len(prompt) + skipped) + [True] * (len(answer) - skipped)


def _plain_rows(kind: str, records: Sequence[Mapping[str, Any]], tokenizer: FolderTokenizer, rule: Rule) -> list:
    """Prompt and completion are encoded apart, as they are when the model is asked."""
    prompts = [[*tokenizer.start, *ids] for ids in tokenizer.encode([r["prompt"] for r in records])]
    if kind == "prompt":
        return [[(ids, [False] * len(ids))] for ids in prompts]
    answers = [[*ids, tokenizer.stops[0]] for ids in tokenizer.encode([r["completion"] for r in records])]
    rows = [_learned(p, a) for p, a in zip(prompts, answers, strict=True)]
    if rule.loss_on == "all":
        rows = [(ids, [i >= len(tokenizer.start) for i in range(len(ids))]) for ids, _ in rows]
    return [[row] for row in rows]


def _as_messages(kind: str, record: Mapping[str, Any]) -> tuple[list[Message], int]:
    """The messages, and the number of those that are the prompt: only later answers are learned."""
    if kind == "messages":
        return list(record["messages"]), 0
    sides = [record["prompt"], record.get("completion", [])]
    roles = ("user", "assistant")
    lists = [[{"role": r, "content": s}] if isinstance(s, str) else list(s) for r, s in zip(roles, sides, strict=True)]
    return lists[0] + lists[1], len(lists[0])


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(record.get("chat_template_kwargs") or {})
    return {**options, "tools": record["tools"]} if record.get("tools") else options


def _rendered(
    kind: str, asked: tuple[list[Message], int], tokenizer: FolderTokenizer, rule: Rule, options: dict[str, Any]
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Texts with the spans of characters that are learned, one a row."""
    messages, prompt = asked
    chat = tokenizer.chat
    assert chat is not None  # check_template
    if kind == "prompt":
        return [(chat.render(messages, begin_answer=True, **options), [])]
    if rule.loss_on == "all":
        text = chat.render(messages, **options)
        return [(text, [(0, len(text))])]
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and i >= prompt]
    turns = turns[-1:] if rule.loss_on == "last" else turns
    marked = chat.answers(messages, **options)
    if marked is not None:
        text, spans = marked
        answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if len(spans) == len(answers):
            spans = [span for i, span in zip(answers, spans, strict=True) if i in turns]
        elif turns != answers:
            raise ValueError(
                f"the template marks {len(spans)} answers of {len(answers)}: which are of which turn is not known, so "
                "data.loss_on is 'answers' or 'all'"
            )
        return [(text, spans)]
    whole, apart = chat.render(messages, **options), []
    for turn in turns:
        apart.append(_answer(messages[: turn + 1], tokenizer, options))
    if all(whole.startswith(text) for text, _ in apart):
        return [(whole, [span for _, spans in apart for span in spans])]
    return apart


def _answer(messages: list[Message], tokenizer: FolderTokenizer, options: dict[str, Any]) -> tuple[str, list]:
    """The text of messages that end in an answer, with the span of this answer."""
    chat = tokenizer.chat
    assert chat is not None
    whole, asked = chat.render(messages, **options), chat.render(messages[:-1], begin_answer=True, **options)
    same = next((i for i, (a, b) in enumerate(zip(whole, asked, strict=False)) if a != b), min(len(whole), len(asked)))
    if same < len(asked) and same < len(chat.render(messages[:-1], **options)):
        raise ValueError(
            "the template renders what comes before an answer otherwise when the answer is there, so the answer cannot "
            "be told apart; a template with {% generation %} around answers says it itself (data.template)"
        )
    return whole, [(same, len(whole))]


def _encoded(pieces: Sequence[list[tuple[str, list]]], tokenizer: FolderTokenizer) -> list[list[Row]]:
    """Tokens of rendered texts; a token counts as learned where it shares a character with a span.

    What follows the last stop of a span (a line break) is shown and not learned: nobody writes it.
    """
    texts = [text for some in pieces for text, _ in some]
    encodings = iter(tokenizer.tokenizer.encode_batch(texts, add_special_tokens=False))
    rows = []
    for some in pieces:
        rows.append([])
        for _, spans in some:
            encoding = next(encodings)
            ids, learned = encoding.ids, [False] * len(encoding.ids)
            for begin, end in spans:
                inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > begin]
                stops = [i for i in inside if ids[i] in tokenizer.stops]
                for i in inside:
                    learned[i] = not stops or i <= stops[-1]
            rows[-1].append((ids, learned))
    return rows


def unread(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the fields of records that nothing reads, such as an id."""
    return sorted({name for record in records for name in record} - set(FIELDS))
