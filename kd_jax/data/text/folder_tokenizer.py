"""The tokenizer of a model's folder: its tokens, those that begin, end and pad a text, and its chat template.

All comes from the files that `transformers` writes: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
generation_config.json, config.json, chat_template.jinja (or chat_template.json). Nothing is guessed by a token's name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kd_jax.data.source import DataNotFound
from kd_jax.data.text.chat import Chat
from kd_jax.files import read_utf8
from kd_jax.models.hub import find_model


@dataclasses.dataclass(frozen=True)
class FolderTokenizer:
    """`start` are the tokens that the tokenizer itself puts before a text: () where the model has no such token.

    `stops` are all tokens that end what the model writes, the first is the tokenizer's own end; `pad` fills rows.
    `size` is the number of tokens that exist, which a network's head may exceed. `positions` is the longest text of
    the model, 0 where the folder does not say. `chat` is None where there is no template.
    """

    folder: str
    tokenizer: Tokenizer
    form: str  # the content of tokenizer.json
    start: tuple[int, ...]
    stops: tuple[int, ...]
    pad: int
    size: int
    positions: int
    chat: Chat | None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of texts, without tokens that begin or end them."""
        return [e.ids for e in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Any) -> str:
        """Returns the text of ids, without special tokens."""
        return self.tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True)


def read(name: str, template: str = "") -> FolderTokenizer:
    """Reads the tokenizer of a folder (see kd_jax.models.hub); `template` is a file that replaces its chat template.

    Raises DataNotFound where tokenizer.json or the template is missing, ValueError where a file cannot be read or no
    token ends a text.
    """
    folder = find_model(name)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataNotFound(
            f"data.tokenizer={name!r}: {path} is not there. It is what save_pretrained of a fast tokenizer writes."
        )
    form = read_utf8(path)
    try:
        tokenizer = Tokenizer.from_str(form)
    except Exception as e:  # a bare Exception, from Rust
        raise ValueError(f"{path} is no tokenizer.json that can be read: {e}") from e
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = {**_special(_json(folder, "special_tokens_map.json")), **_json(folder, "tokenizer_config.json")}
    special = _special(settings)
    generation, config = _json(folder, "generation_config.json"), _json(folder, "config.json")
    config = {**config, **(config.get("text_config") or {})}
    ids = {key: tokenizer.token_to_id(text) for key, text in special.items()}
    stops = _unique(ids.get("eos_token"), generation.get("eos_token_id"), config.get("eos_token_id"))
    if not stops:
        raise ValueError(
            f"{folder}: no token ends a text: tokenizer_config.json has no eos_token that is in tokenizer.json, and "
            "generation_config.json and config.json have no eos_token_id."
        )
    pads = _unique(ids.get("pad_token"), generation.get("pad_token_id"), config.get("pad_token_id"), stops[0])
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    chat = template_of(folder, settings, template)
    return FolderTokenizer(
        str(folder),
        tokenizer,
        form,
        _start(tokenizer, settings, ids.get("bos_token")),
        stops,
        pads[0],
        size,
        int(config.get("max_position_embeddings") or config.get("n_positions") or 0),
        Chat(chat, special) if chat else None,
    )


def template_of(folder: Path, settings: Mapping[str, Any], template: str = "") -> str:
    """Returns the chat template of a folder, "" where it has none; `template` is the path of another."""
    if template:
        if not Path(template).is_file():
            raise DataNotFound(f"data.template={template!r}: there is no such file.")
        return read_utf8(Path(template))
    if (folder / "chat_template.jinja").is_file():
        return read_utf8(folder / "chat_template.jinja")
    inside = _json(folder, "chat_template.json").get("chat_template") or settings.get("chat_template") or ""
    if isinstance(inside, list):  # several by name, as older files have them
        inside = {entry["name"]: entry["template"] for entry in inside}
    return inside.get("default", "") if isinstance(inside, dict) else inside


def _start(tokenizer: Tokenizer, settings: Mapping[str, Any], first: int | None) -> tuple[int, ...]:
    """What encoding a text with its special tokens puts before it; `add_bos_token` speaks where the file does not."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    before = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    if first is None or settings.get("add_bos_token") is False:
        return () if first is None else tuple(t for t in whole[:before] if t != first)
    return tuple(whole[:before]) or ((first,) if settings.get("add_bos_token") else ())


def _special(settings: Mapping[str, Any]) -> dict[str, str]:
    """{name: text} of the special tokens, which are texts or objects with their content."""
    contents = {k: v.get("content") if isinstance(v, dict) else v for k, v in settings.items() if k.endswith("_token")}
    return {k: v for k, v in contents.items() if isinstance(v, str)}


def _unique(*ids: Any) -> tuple[int, ...]:
    flat = [i for entry in ids for i in (entry if isinstance(entry, list) else [entry]) if i is not None]
    return tuple(dict.fromkeys(map(int, flat)))


def _json(folder: Path, name: str) -> dict[str, Any]:
    """The content of a file of the folder, {} where it is missing; ValueError for what is no object."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_utf8(path))
    except json.JSONDecodeError as e:
        raise ValueError(f"{path} is no JSON: {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return content
