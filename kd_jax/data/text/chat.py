"""Chat templates: messages -> the text that a model was tuned on, and which characters of it an assistant wrote.

A template is a program of the folder that it comes with. It runs in Jinja's immutable sandbox, with the functions that
`transformers` has there (raise_exception, strftime_now, tojson without HTML escapes, the block {% generation %}), and
renders what `apply_chat_template` renders.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Message = Mapping[str, Any]
Span = tuple[int, int]  # of characters, the end not included
START, END = "\ue000", "\ue001"  # of the private use area: where an answer begins and ends while a template renders


class Chat(NamedTuple):
    """A template, and the texts of the special tokens that it reads by name (bos_token, eos_token, ...)."""

    template: str
    special: Mapping[str, str]

    def render(self, messages: Sequence[Message], begin_answer: bool = False, **options: Any) -> str:
        """Returns the text of the messages; `begin_answer` adds what a model is shown before it answers.

        `options` are further names of the template: tools, enable_thinking. Raises ValueError with what the template
        says of messages that it does not take.
        """
        return self._render(messages, begin_answer, False, options)

    def answers(self, messages: Sequence[Message], **options: Any) -> tuple[str, list[Span]] | None:
        """Returns the text and the spans of its answers by {% generation %}; None where the template has no such block.

        Raises ValueError as `render` does.
        """
        if not has_generation(self.template):
            return None
        marked = self._render(messages, False, True, options)
        text, spans, begin = "", [], None
        for piece in re.split(f"([{START}{END}])", marked):
            if piece not in (START, END):
                text += piece
            elif (piece == START) != (begin is None):
                raise ValueError(f"messages hold the character U+{ord(piece):X}, which marks answers here")
            elif piece == START:
                begin = len(text)
            else:
                spans.append((begin, len(text)))
                begin = None
        return text, spans

    def _render(self, messages: Sequence[Message], begin: bool, marks: bool, options: Mapping[str, Any]) -> str:
        import jinja2

        plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
        names = {"tools": None, "documents": None, **self.special, **options}
        try:
            return compiled(self.template, marks).render(messages=plain, add_generation_prompt=begin, **names)
        except (jinja2.TemplateError, TypeError) as e:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ValueError(f"the chat template does not take messages of the roles {roles}: {e}") from e


def has_generation(template: str) -> bool:
    """Tells whether a template marks what an assistant wrote."""
    return any(word in template for word in ("{% generation", "{%- generation"))


@functools.lru_cache(maxsize=16)
def compiled(template: str, marks: bool = False) -> Any:
    """Returns the Jinja template; with `marks` the blocks {% generation %} stand between START and END.

    Raises ValueError for what is no template.
    """
    import jinja2
    from jinja2 import ext, nodes, sandbox

    class Generation(ext.Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            return f"{START}{caller()}{END}" if marks else caller()

    def stop(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    extensions = [Generation, ext.loopcontrols]
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = tojson
    names: dict[str, Any] = environment.globals
    names.update({"raise_exception": stop, "strftime_now": lambda form: datetime.datetime.now().strftime(form)})
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as e:
        raise ValueError(f"The chat template is no Jinja template: {e}") from e
