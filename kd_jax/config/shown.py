"""What --list and :help print."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config import files
from kd_jax.config.fields import base, settled
from kd_jax.config.presets import PRESETS
from kd_jax.config.terms import filled
from kd_jax.config.variants import Words
from kd_jax.system.workdir import flatten, plain

WIDTH = 116
KNOWLEDGE = "KNOWLEDGE"


def configs() -> str:
    """Returns two lines for every config: the first of its docstring, and the words that may stand behind its colon."""
    lines = []
    for path in sorted(files.folder().glob("*.py")):
        try:
            module = files.load(path)
        except (ValueError, OSError) as e:
            lines += [f"{path}  cannot be read: {e}"]
            continue
        lines += [f"{path}  {(module.__doc__ or '').strip().partition(chr(10))[0]}".rstrip()]
        if words := files.words_of(module):
            lines += [_wrapped("    ", "; ".join(_kinds(words).values()))]
    lines += ["", _wrapped("", f"{KNOWLEDGE}: {', '.join(PRESETS)}. Several are joined by +; the default is response.")]
    return "\n".join([*lines, f"--config={files.folder()}/FILE.py:help says what the words mean."])


def help_of(path: Path, variant: str) -> str:
    """Returns the docstring of a config, its words, and the fields in which the variant differs from base()."""
    module = files.load(path)
    config = files.config_of(module, variant)
    lines = [f"{path}: {(module.__doc__ or '').strip()}", ""]
    if words := files.words_of(module):
        lines += ["Words behind the colon, joined by commas in any order; the first variant and data are the default:"]
        lines += [_wrapped("    ", f"{kind}: {listed}") for kind, listed in _kinds(words).items()]
        lines += [_wrapped("    ", f"{KNOWLEDGE}: {', '.join(PRESETS)}")] if words.knowledge == (*PRESETS,) else []
        lines += [""]
    named = f"{path}:{variant}" if variant else str(path)
    lines += [f"Fields in which {named} differs from kd_jax.base(), each --config.FIELD=VALUE on the command line:"]
    before, after = (_flat(settled(fields)) for fields in (base(), config))
    lines += [f"    {field} = {_typed(after[field])!r}" for field in sorted(after) if before.get(field) != after[field]]
    return "\n".join(lines)


def _kinds(words: Words) -> dict[str, str]:
    """The words by kind, as one text a kind."""
    knowledge = KNOWLEDGE if words.knowledge == (*PRESETS,) else "+".join(words.knowledge)
    texts = {"variants": " | ".join(words.variants), "data": " | ".join(words.data), "knowledge": knowledge}
    return {kind: text for kind, text in (texts | {"flags": ", ".join(words.flags)}).items() if text}


def _wrapped(indent: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ", break_on_hyphens=False)


def _typed(value: Any) -> Any:
    """A value as it is typed: ml_collections wants tuples."""
    return tuple(map(_typed, value)) if isinstance(value, list) else value


def _flat(config: ConfigDict) -> dict[str, Any]:
    """{field: value}; of a term only what `fn` and `inputs` do not imply."""
    fields = plain(config)
    terms = fields.pop("terms")
    flat = {key: value for key, value in flatten(fields).items() if value != {}}
    for name, term in terms.items():
        implied = plain(filled(name, {"fn": "", "inputs": ()}))
        said = {key: value for key, value in term.items() if value != implied[key]}
        flat |= {f"terms.{name}.{key}": value for key, value in said.items()}
    return flat
