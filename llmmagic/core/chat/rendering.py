"""Renders chat templates the way transformers does, without importing it.

A chat template is a Jinja program from the model's repository: untrusted, so it runs in Jinja's immutable sandbox. The
environment has what https://huggingface.co/docs/transformers/chat_templating_writing promises to templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import ChatTemplateError

if TYPE_CHECKING:
    from jinja2 import Template

_MAX_TEXT = 300


def raise_exception(message: str) -> None:
    """What a template calls to refuse messages."""
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter of that name escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(format: str) -> str:
    """The local time, for templates that tell the model today's date."""
    return datetime.now().strftime(format)


def _refuse_private(name: object) -> None:
    from jinja2.exceptions import SecurityError

    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"names in a namespace must not begin with an underscore, got {name!r}")


class _Dict:
    """``dict`` for templates: can be called, but leads nowhere."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


@lru_cache(maxsize=16)
def compile_template(source: str) -> Template:
    """Make a chat template ready to render.

    Args:
        source: Jinja text.

    Returns:
        The compiled template.

    Raises:
        ChatTemplateError: It is no valid Jinja.
    """
    from jinja2 import nodes
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}`` marks what the model says, for loss masks; its body has a scope of its own."""

        tags = {"generation"}  # noqa: RUF012 - the type that Jinja's base class declares

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Callable[[], str]) -> str:
            return caller()

    class GuardedNamespace(Namespace):
        """``namespace`` for templates: names with an underscore lead to Python's own machinery."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            values = dict(*args[1:], **kwargs)
            for name in values:
                _refuse_private(name)
            Namespace.__init__(args[0], values)

        def __setitem__(self, name: str, value: Any) -> None:
            _refuse_private(name)
            super().__setitem__(name, value)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=_Dict(), namespace=GuardedNamespace
    )
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as err:
        raise ChatTemplateError(f"The model's chat template is broken: {err.message} (line {err.lineno}).") from err


def render(
    template: Template, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], *, generation_prompt: bool
) -> str:
    """Render messages.

    Args:
        template: From `compile_template`.
        messages: With ``role`` and ``content``.
        variables: What else the template may use: ``bos_token``, ``eos_token``, ...
        generation_prompt: Whether to end with the beginning of a reply.

    Returns:
        The prompt's text.

    Raises:
        ChatTemplateError: The template refuses the messages or fails on them.
    """
    from jinja2.exceptions import TemplateError

    # Copies: templates may change what they are given, where the sandbox lets them.
    chat = [dict(message) for message in messages]
    try:
        return template.render(
            **{
                **variables,
                "messages": chat,
                "tools": None,
                "documents": None,
                "add_generation_prompt": generation_prompt,
            }
        )
    # Whatever Python operation the template attempts on a value of the wrong kind.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as err:
        reason = " ".join(str(err).split())[:_MAX_TEXT] or type(err).__name__
        raise ChatTemplateError(f"The model's chat template refuses these messages: {reason}") from err
