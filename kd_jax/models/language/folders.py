"""What the files of a published language model say of its tokens: how many there are, and whether two folders agree."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from kd_jax.models.hub import find_model

TOKENIZER, GENERATION, TEMPLATE = "tokenizer.json", "generation_config.json", "chat_template.jinja"
# What belongs to a tokenizer, in the versions 4 and 5 of transformers: copied as it is where a student is written.
TOKENIZER_FILES = (
    *(TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("tokenizer.model", TEMPLATE, "chat_template.json", "additional_chat_templates"),
)


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Returns the tokenizer of a folder; ValueError, with what is there, where it has none that can be read."""
    place = find_model(str(folder))
    path = place / TOKENIZER
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in place.iterdir())) or "nothing"
        raise ValueError(
            f"{place} has no {TOKENIZER} (it has {there}): AutoTokenizer.from_pretrained(...).save_pretrained(...) of "
            "transformers writes one."
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as e:  # a bare Exception, from Rust
        raise ValueError(f"{path} is no tokenizer that can be read: {e}") from e


def token_count(folder: str | Path) -> int:
    """Returns the number of tokens that exist by the tokenizer of a folder: the largest id and one."""
    return max(read_tokenizer(folder).get_vocab(with_added_tokens=True).values()) + 1


def require_alike(student: str | Path, teacher: str | Path) -> None:
    """Raises ValueError, with the first token that differs, unless the teacher numbers the student's tokens alike.

    The teacher may have further ones, after those; a folder without a tokenizer takes the student's.
    """
    first, second = find_model(str(student)), find_model(str(teacher))
    if first == second or not (second / TOKENIZER).is_file():
        return
    ours, theirs = (read_tokenizer(place).get_vocab(with_added_tokens=True) for place in (first, second))
    wrong = sorted((number, token) for token, number in ours.items() if theirs.get(token) != number)
    if wrong:
        number, token = wrong[0]
        there = theirs.get(token)
        raise ValueError(
            f"Student and teacher have different tokenizers: {token!r} is number {number} in {first} and "
            f"{'missing' if there is None else f'number {there}'} in {second}; {len(wrong)} of {len(ours)} tokens "
            "differ. Probabilities are compared token by token: take folders of one family, or configs/llm.py:cross."
        )
