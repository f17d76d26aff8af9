"""Rows of tokens of records: which tokens are learned, and how many bytes of the text each of those spells.

Bytes are of what messages say, completions and texts, without what a template puts around them, so that the networks of
different tokenizers and templates are scored on the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kd_jax.data.text.alignment import byte_offsets
from kd_jax.data.text.chat import Chat, Message, Span
from kd_jax.data.text.folder_tokenizer import FolderTokenizer
from kd_jax.data.text.records import Rule


class Row(NamedTuple):
    """Tokens, whether each is learned, and how many bytes it adds to what was spelled before it.

    -1 stands for tokens that spell nothing of what is said: those that begin or end a text, a template's.
    """

    tokens: Sequence[int]
    learned: Sequence[bool]
    bytes: Sequence[int]


class Text(NamedTuple):
    """A rendered text: the spans of characters that are learned, and the contents in them, in order."""

    text: str
    spans: Sequence[Span]
    contents: Sequence[str]


def rows_of(
    kind: str, records: Sequence[Mapping[str, Any]], places: Sequence[str], tokenizer: FolderTokenizer, rule: Rule
) -> list[list[Row]]:
    """Returns the rows of each record: one, or one an answer where the template changes earlier turns later on.

    The row of a prompt alone has its tokens and none that is learned. Raises ValueError, with the record's place, for
    messages that the template does not take.
    """
    if kind == "text":
        return [[_joined(tokenizer, [], row)] for row in _plain(tokenizer, [r["text"] for r in records])]
    if not rule.chat and kind != "messages" and isinstance(records[0]["prompt"], str):
        return _pairs(kind, records, tokenizer, rule)
    assert tokenizer.chat is not None  # records.check_template
    texts = []
    for place, record in zip(places, records, strict=True):
        try:
            texts.append(_texts(kind, *_as_messages(kind, record), tokenizer.chat, rule, _options(record)))
        except ValueError as e:
            raise ValueError(f"{place}: {e}") from e
    rendered = [t.text for some in texts for t in some]
    encodings = iter(tokenizer.tokenizer.encode_batch(rendered, add_special_tokens=False))
    return [[_row(text, next(encodings), tokenizer.stops) for text in some] for some in texts]


def _plain(tokenizer: FolderTokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Tokens of plain texts and the bytes that each adds."""
    encodings = tokenizer.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [(e.ids, added(text, e.offsets, [(0, len(text))])) for text, e in zip(texts, encodings, strict=True)]


def _joined(tokenizer: FolderTokenizer, prompt: list[int], answer: tuple[list[int], list[int]]) -> Row:
    """The tokens that begin a text, a prompt, and an answer with its end, which alone is learned."""
    before = [*tokenizer.start, *prompt]
    tokens, spelled = answer
    learned = [False] * len(before) + [True] * (len(tokens) + 1)
    return Row([*before, *tokens, tokenizer.stops[0]], learned, [-1] * len(before) + spelled + [-1])


def _pairs(kind: str, records: Sequence[Mapping[str, Any]], tokenizer: FolderTokenizer, rule: Rule) -> list[list[Row]]:
    """Prompt and completion are encoded apart, as they are when the model is asked."""
    prompts = _plain(tokenizer, [r["prompt"] for r in records])
    if kind == "prompt":
        rows = [[*tokenizer.start, *tokens] for tokens, _ in prompts]
        return [[Row(tokens, [False] * len(tokens), [-1] * len(tokens))] for tokens in rows]
    answers = _plain(tokenizer, [r["completion"] for r in records])
    if rule.loss_on == "all":
        whole = [(p + a, q + b) for (p, q), (a, b) in zip(prompts, answers, strict=True)]
        return [[_joined(tokenizer, [], row)] for row in whole]
    return [[_joined(tokenizer, p, row)] for (p, _), row in zip(prompts, answers, strict=True)]


def _as_messages(kind: str, record: Mapping[str, Any]) -> tuple[list[Message], int]:
    """The messages, and the number of those that are the prompt: only later answers are learned."""
    if kind == "messages":
        return list(record["messages"]), 0
    sides = [record["prompt"], record.get("completion", [])]
    roles = ("user", "assistant")
    lists: list[list[Message]] = [
        [{"role": r, "content": s}] if isinstance(s, str) else list(s) for r, s in zip(roles, sides, strict=True)
    ]
    return lists[0] + lists[1], len(lists[0])


def _options(record: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(record.get("chat_template_kwargs") or {})
    return {**options, "tools": record["tools"]} if record.get("tools") else options


def _said(message: Message) -> list[str]:
    """The texts of a message, without blanks around them, which templates cut."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
    return [part.strip() for part in parts if part.strip()]


def _said_by(messages: Sequence[Message]) -> list[str]:
    return [part for message in messages for part in _said(message)]


def _texts(
    kind: str, messages: list[Message], prompt: int, chat: Chat, rule: Rule, options: dict[str, Any]
) -> list[Text]:
    """The texts of a record, one a row."""
    if kind == "prompt":
        return [Text(chat.render(messages, begin_answer=True, **options), [], [])]
    if rule.loss_on == "all":
        text = chat.render(messages, **options)
        return [Text(text, [(0, len(text))], _said_by(messages))]
    return _answers(messages, prompt, chat, rule, options)


def _answers(messages: list[Message], prompt: int, chat: Chat, rule: Rule, options: dict[str, Any]) -> list[Text]:
    """The texts of which answers are learned: one, or one an answer where they differ or are to be apart."""
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    turns = [i for i in answers if i >= prompt][-1 if rule.loss_on == "last" else 0 :]
    contents = _said_by([messages[i] for i in turns])
    marked = None if rule.apart else chat.answers(messages, **options)
    if marked is not None:
        text, spans = marked
        return [Text(text, _of_turns(spans, answers, turns), contents)]
    rows = [_answer(messages[: turn + 1], chat, options) for turn in turns]
    whole = chat.render(messages, **options)
    if not rule.apart and all(whole.startswith(row.text) for row in rows):
        return [Text(whole, [span for row in rows for span in row.spans], contents)]
    return rows


def _of_turns(spans: Sequence[Span], answers: Sequence[int], turns: Sequence[int]) -> Sequence[Span]:
    """The spans of the answers that are learned, `turns` of all `answers`; ValueError where it cannot be told which."""
    if len(spans) == len(answers):
        return [span for i, span in zip(answers, spans, strict=True) if i in turns]
    if turns != answers:
        raise ValueError(
            f"the template marks {len(spans)} answers of {len(answers)}: which are of which turn is not known, so "
            "data.loss_on is 'answers' or 'all'"
        )
    return spans


def _answer(messages: list[Message], chat: Chat, options: dict[str, Any]) -> Text:
    """The text of messages that end in an answer, with the span of this answer."""
    whole, asked = chat.render(messages, **options), chat.render(messages[:-1], begin_answer=True, **options)
    same = next((i for i, (a, b) in enumerate(zip(whole, asked, strict=False)) if a != b), min(len(whole), len(asked)))
    if same < len(asked) and same < len(chat.render(messages[:-1], **options)):
        raise ValueError(
            "the template renders what comes before an answer otherwise when the answer is there, so the answer cannot "
            "be told apart; a template with {% generation %} around answers says it itself (data.template)"
        )
    return Text(whole, [(same, len(whole))], _said(messages[-1]))


def _row(text: Text, encoding: Any, stops: Sequence[int]) -> Row:
    """Tokens of a rendered text; a token counts as learned where it shares a character with a span.

    What follows the last stop of a span (a line break) is shown and not learned: nobody writes it.
    """
    tokens, learned = encoding.ids, [False] * len(encoding.ids)
    for begin, end in text.spans:
        inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > begin]
        ends = [i for i in inside if tokens[i] in stops]
        for i in inside:
            learned[i] = not ends or i <= ends[-1]
    spelled = added(text.text, encoding.offsets, _places(text))
    return Row(tokens, learned, [n if there else -1 for n, there in zip(spelled, learned, strict=True)])


def _places(text: Text) -> list[Span]:
    """Where the contents lie: each in a span, after the one before it."""
    places, at = [], 0
    for content in text.contents:
        for begin, end in text.spans:
            place = text.text.find(content, max(at, begin), end)
            if place >= 0:
                at = place + len(content)
                places.append((place, at))
                break
    return places


def added(text: str, offsets: Sequence[Span], places: Sequence[Span]) -> list[int]:
    """Returns how many bytes of the places in a text each token adds to what the tokens before it spelled.

    It is -1 for tokens outside of the places. The sum of the others is the number of bytes of all places, whatever the
    tokenizer: of tokens that share a character the first has its bytes, the others 0.
    """
    inside = np.zeros(len(text) + 1, np.int64)
    widths = np.diff(byte_offsets(text, [(0, i) for i in range(len(text) + 1)])[:, 1])
    for begin, end in places:
        inside[begin + 1 : end + 1] = widths[begin:end]
    spelled = np.cumsum(inside)
    ends = np.maximum.accumulate([0, *(end for _, end in offsets)])
    shares = [spelled[end] > spelled[begin] for begin, end in offsets]
    return np.where(shares, np.diff(spelled[ends]), -1).astype(int).tolist()
