"""The words behind the colon of --config=file.py:..., and `tiny`, which every config has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from kd_jax.resolve import near

TINY = "tiny"
HELP = "help"


class Variant(NamedTuple):
    """The words that were chosen, by kind; "" for a kind that the config does not have."""

    data: str
    knowledge: str
    variant: str
    flags: tuple[str, ...]


class Words(NamedTuple):
    """The words that there are, by kind; the first of data and variants is the default."""

    data: tuple[str, ...]
    knowledge: tuple[str, ...]
    variants: tuple[str, ...]
    flags: tuple[str, ...]


class HelpAsked(Exception):
    """Raised by `parse` on the word "help", with the words that there are: --list and :help show them."""

    def __init__(self, words: Words) -> None:
        super().__init__(f"The words are {', '.join(word for kind in words for word in kind)}.")
        self.words = words


def parse(
    arg: str,
    *,
    data: Sequence[str] = (),
    knowledge: Iterable[str] = (),
    variants: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Variant:
    """Returns the words of "cifar100,feature+response,tiny", which come in any order.

    The first of `data` and of `variants` holds where none is said, and the knowledge "response". "tiny" is always a
    flag; `finish` applies it. Raises ValueError for a word that is none of them, naming what was probably meant.
    """
    words = Words(tuple(data), tuple(knowledge), tuple(variants), (*flags, *(() if TINY in flags else (TINY,))))
    chosen: dict[str, str] = {}
    switches = []
    for word in filter(None, arg.split(",")):
        kind = _kind(word, words)
        if kind == "flags":
            switches.append(word)
        elif kind and kind in chosen:
            name = kind.removesuffix("s")
            raise ValueError(f"{name} is given twice: {chosen[kind]!r} and {word!r}.{_combines(kind)}")
        elif kind:
            chosen[kind] = word
        elif word == HELP:
            raise HelpAsked(words)
        else:
            bad = next(w for w in word.split("+") if w not in words.knowledge)
            exist = [word for kind in words for word in kind]
            raise ValueError(f"Unknown word {bad!r} in the config's variant {arg!r}. {near(bad, exist)}")
    first = {"data": words.data[:1], "knowledge": words.knowledge and ("response",), "variants": words.variants[:1]}
    source, learned, variant = (chosen.get(kind, "".join(default)) for kind, default in first.items())
    return Variant(source, learned, variant, tuple(switches))


def _kind(word: str, words: Words) -> str:
    """The field of `words` that the word belongs to, "" for none."""
    for kind in ("flags", "data", "variants"):
        if word in getattr(words, kind):
            return kind
    return "knowledge" if {*word.split("+")} <= {*words.knowledge} else ""


def _combines(kind: str) -> str:
    return " Knowledge combines with '+'." if kind == "knowledge" else ""


def finish(config: ConfigDict, variant: Variant, steps: int = 6, tiny: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the config; with the word "tiny" shortened to `steps`, and then with the (nested) fields of `tiny`."""
    if TINY in variant.flags:
        make_tiny(config, steps)
        config.update(tiny or {})
    return config


def make_tiny(config: ConfigDict, steps: int = 6) -> ConfigDict:
    """Returns the config with a few steps on a few images for every network: does everything work?"""
    config.data.update(dict(limit=256, eval_limit=64, labels=min(config.data.labels, 60)))
    teachers = (config.teacher, *config.teachers.values())
    for train in (config.train, *(t.train for t in teachers)):
        train.update(dict(batch_size=16, steps=steps, epochs=0.0))
    for teacher in teachers:
        if teacher.data.labels is not None:
            teacher.data.labels = min(teacher.data.labels, 60)
    config.log_every, config.eval_every, config.eval_batch_size = 2, steps, 64
    return config
