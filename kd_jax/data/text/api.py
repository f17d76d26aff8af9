"""What an API wrote, as token ids of the student's tokenizer: the tokens, their likeliest alternatives, and the end.

An answer is refused where its tokens do not spell its text: a position that holds another token than the API's would
learn the probabilities of something else.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.data.text.tokenizing import Codec

TOP = 20  # the most top_logprobs that are read at a token
NEVER = -1e9  # the log-probability of what fills up a short list: no mass, and finite
ID = re.compile(r"token_id:(\d+)")  # how servers write an id in place of a text
ANSWER = tuple[list[int], list[int], tuple[np.ndarray, np.ndarray]]  # prompt, response, (ids, log-probabilities)


def flaw(record: Mapping[str, Any]) -> str:
    """Returns what is wrong with the tokens and top_logprobs of a line, "" where nothing is."""
    tokens, tops = record["tokens"], record["top_logprobs"]
    if not isinstance(tokens, list) or not isinstance(tops, list) or not all(isinstance(t, str) for t in tokens):
        return "tokens are a list of texts, and top_logprobs a list"
    if len(tokens) != len(tops):
        return f"{len(tokens)} tokens and {len(tops)} top_logprobs; there is one for each token"
    for token, top in zip(tokens, tops, strict=True):
        if not isinstance(top, dict) or not top:
            return f"the top_logprobs of the token {token!r} are {top!r}, not {{text: log-probability, ...}}"
        if not all(isinstance(p, int | float) and p <= 1e-3 for p in top.values()):
            return f"the top_logprobs of the token {token!r} are no log-probabilities: {top!r}"
        if (mass := sum(map(math.exp, top.values()))) > 1.01:
            return f"the top_logprobs of the token {token!r} add up to {mass:.2f}, and natural logarithms to 1 at most"
    return ""


def answers(records: Sequence[Mapping[str, Any]], codec: Codec) -> tuple[list[ANSWER], int]:
    """Returns the answers of an API as token ids, and the number k of alternatives at a token.

    Raises ValueError for a token that the tokenizer does not have, or has under several ids, and for tokens that do not
    spell the text.
    """
    top = min(TOP, max(len(at_token) for record in records for at_token in record["top_logprobs"]), codec.size)
    ids, several = _ids_of_texts(codec)
    return [_answer(record, codec, ids, several, top) for record in records], top


def _ids_of_texts(codec: Codec) -> tuple[dict[str, int], dict[str, int]]:
    """({text: id} of the texts that one token has, {text: number of tokens} of those that several have)."""
    texts = [codec.decode([i]) for i in range(codec.size)]
    counts = collections.Counter(texts)
    single = {text: i for i, text in enumerate(texts) if counts[text] == 1}
    special = {**codec.special, "": codec.end}  # some servers write the end as no text
    return {**single, **special}, {t: n for t, n in counts.items() if n > 1 and t not in special}


def _answer(
    record: Mapping[str, Any], codec: Codec, ids: Mapping[str, int], several: Mapping[str, int], top: int
) -> ANSWER:
    response = [_id_of(text, record, codec, ids, several) for text in record["tokens"]]
    listed: list[Mapping[int, float]] = [_alternatives(tops, codec, ids) for tops in record["top_logprobs"]]
    if response and response[-1] in codec.special.values():  # whatever ends a turn there ends the text here
        listed = [{codec.end if i == response[-1] else i: p for i, p in tops.items()} for tops in listed]
        response[-1] = codec.end
    elif record.get("finish_reason") != "length":  # an answer that was cut off does not end
        response, listed = [*response, codec.end], [*listed, {codec.end: 0.0}]
    _check_text(record, response, codec)
    chosen = np.empty((len(response), top), np.int32)
    values = np.full(chosen.shape, NEVER, np.float32)
    for i, at_token in enumerate(listed):
        tops = sorted(((p, token) for token, p in at_token.items()), reverse=True)[:top]
        free = [t for t in range(top + len(tops)) if t not in at_token]
        chosen[i] = [*(token for _, token in tops), *free[: top - len(tops)]]
        values[i, : len(tops)] = [p for p, _ in tops]
    return [codec.start, *codec.encode([record["prompt"]])[0]], response, (chosen, values)


def _number(text: str, codec: Codec) -> int | None:
    """The id in "token_id:53"; None for another text, or an id that the tokenizer does not have."""
    match = ID.fullmatch(text)
    return int(match[1]) if match and int(match[1]) < codec.size else None


def _alternatives(tops: Mapping[str, float], codec: Codec, ids: Mapping[str, int]) -> dict[int, float]:
    """{id: log-probability} of those that are one token here; the others count to the rest."""
    named = {text: number for text in tops if (number := ids.get(text, _number(text, codec))) is not None}
    log_probs: dict[int, float] = {}
    for text, number in named.items():
        log_probs[number] = float(np.logaddexp(log_probs.get(number, -math.inf), tops[text]))
    return log_probs


def _id_of(
    text: str, record: Mapping[str, Any], codec: Codec, ids: Mapping[str, int], several: Mapping[str, int]
) -> int:
    number = ids.get(text, _number(text, codec))
    if number is not None:
        return number
    which = f"The API's token {text!r} of the prompt {record['prompt']!r}"
    if text in several:
        raise ValueError(
            f"{which} may be any of {several[text]} tokens of data.tokenizer (bytes inside a character have one text): "
            "ask the API for ids, written as token_id:53, or distil from the texts alone (prompt and answer)."
        )
    raise ValueError(
        f"{which} is no token of data.tokenizer: name the tokenizer of its model, or distil from the texts alone "
        "(prompt and answer)."
    )


def _check_text(record: Mapping[str, Any], response: Sequence[int], codec: Codec) -> None:
    """ValueError where the ids do not decode to the text of the answer, or of its tokens where it comes without."""
    spelled = codec.decode(response)
    if any(ID.fullmatch(text) for text in record["tokens"]):
        text = record.get("answer", spelled)
    else:
        written = [text for text in record["tokens"] if text not in codec.special]
        text = record.get("answer", "".join(written))
    which = f"The API's tokens of the prompt {record['prompt']!r}"
    if codec.end in response[:-1]:
        raise ValueError(f"{which} go on after the end, {response.index(codec.end) + 1} of {len(response)}.")
    if spelled != text:
        raise ValueError(
            f"{which} do not spell its text: they are {spelled!r} in data.tokenizer, and the text is {text!r}. Name "
            "the tokenizer of its model, or distil from the texts alone (prompt and answer)."
        )
