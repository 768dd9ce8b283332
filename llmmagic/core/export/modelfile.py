"""A Modelfile: what Ollama needs beside a GGUF file to write prompts exactly as the model's own template does.

Ollama has templates of its own kind (Go's text/template) and guesses one by what it knows. So the one here is found out
from the model's: what stands before and after each role's messages is read off its prompts, and compared on several
conversations before it is believed. (https://github.com/ollama/ollama/blob/main/docs/modelfile.md)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.errors import ChatTemplateError

_SYSTEM, _USER, _ASSISTANT, _SECOND = "\ue000", "\ue001", "\ue002", "\ue003"
_QUOTES = '"""'
_LONGEST_WINDOW = 8192  # what Ollama takes memory for

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class PromptPieces:
    """What a template writes around the messages.

    Attributes:
        begin: Before everything.
        around: Role -> what stands before and after its text.
        opening: The beginning of a reply.
        default_system: The system prompt that the template adds by itself; empty if it adds none.
    """

    begin: str
    around: dict[str, tuple[str, str]]
    opening: str
    default_system: str

    def render(self, messages: Messages) -> str:
        """The prompt that these pieces make, as Ollama will put it together."""
        if self.default_system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.default_system}, *messages]
        parts = [self.around[message["role"]] for message in messages]
        texts = [before + message["content"] + after for message, (before, after) in zip(messages, parts, strict=True)]
        return self.begin + "".join(texts) + self.opening


def find_pieces(template: ChatTemplate) -> PromptPieces | None:
    """Read the pieces off a model's template.

    Args:
        template: Of the model.

    Returns:
        The pieces, checked; ``None`` for a template that is no such row of messages (that of Llama 2 puts the system
        prompt inside the first question, for instance).
    """
    if template.plain:
        return None
    try:
        pieces = _read_off(template)
        exact = pieces is not None and all(pieces.render(talk) == template.render(talk) for talk in _examples())
    except ChatTemplateError:
        return None
    return pieces if exact else None


def _read_off(template: ChatTemplate) -> PromptPieces | None:
    user, reply = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}
    system, second = {"role": "system", "content": _SYSTEM}, {"role": "user", "content": _SECOND}
    alone = template.render([user], add_generation_prompt=False)
    before_user, after_user = alone.split(_USER)
    opening = template.render([user])[len(alone) :]
    after_reply = template.render([user, reply], add_generation_prompt=False).split(_ASSISTANT)[1]
    whole = template.render([system, user, reply, second], add_generation_prompt=False)
    before_system, rest = whole.split(_SYSTEM)
    after_system, rest = rest.split(_USER)
    between, rest = rest.split(_ASSISTANT)
    head_user = rest.split(_SECOND)[0][len(after_reply) :]
    if not after_system.endswith(head_user) or not between.startswith(after_user):
        return None
    default, begin = "", before_user.removesuffix(head_user)
    if len(before_user) > len(before_system) + len(after_system) and before_user.startswith(before_system):
        default, begin = before_user[len(before_system) : -len(after_system)], ""
    around = {
        "system": (before_system.removeprefix(begin), after_system[: len(after_system) - len(head_user)]),
        "user": (head_user, after_user),
        "assistant": (between[len(after_user) :], after_reply),
    }
    return PromptPieces(begin, around, opening, default)


def _examples() -> list[Messages]:
    words = ["Hello there.", "Good day.\nHow are you?", "Fine: 3 < 4 & 5 > 2.", "I see.", "Say {{ it }} again."]
    talk = [{"role": "user" if number % 2 == 0 else "assistant", "content": text} for number, text in enumerate(words)]
    system = {"role": "system", "content": "You are brief.\nAnd kind."}
    return [talk[:1], talk[:3], talk, [system, *talk[:1]], [system, *talk]]


def modelfile(
    gguf_name: str, template: ChatTemplate, *, pieces: PromptPieces | None, adds_bos: bool, context_window: int
) -> str:
    """Write a Modelfile.

    Args:
        gguf_name: Name of the GGUF file, in the same folder.
        template: Knows what ends a reply.
        pieces: From `find_pieces`; ``None`` leaves the template to Ollama.
        adds_bos: Whether Ollama puts the first token before the prompt by itself: then it is not written twice.
        context_window: Of the model.

    Returns:
        Its text.
    """
    lines = [f"FROM ./{gguf_name}"]
    if pieces is not None:
        lines.append(f"TEMPLATE {_QUOTES}{_go_template(pieces, template.special_tokens.get('bos_token', ''), adds_bos)}"
                     f"{_QUOTES}")  # fmt: skip
        if pieces.default_system:
            lines.append(f"SYSTEM {_QUOTES}{pieces.default_system}{_QUOTES}")
    ends = [template.decode([token_id]) for token_id in template.eos_token_ids]
    lines += [f"PARAMETER stop {_quoted(text)}" for text in (*ends, *template.stop) if text]
    lines.append(f"PARAMETER num_ctx {min(context_window, _LONGEST_WINDOW)}")
    return "\n".join(lines) + "\n"


def _go_template(pieces: PromptPieces, bos: str, adds_bos: bool) -> str:
    begin, around = pieces.begin, dict(pieces.around)
    if adds_bos and bos and begin.startswith(bos):
        begin = begin.removeprefix(bos)
    elif adds_bos and bos:  # of a template that always has a system prompt: that comes first
        before, after = around["system"]
        around["system"] = (before.removeprefix(bos), after)
    roles = ""
    for number, (role, (before, after)) in enumerate(around.items()):
        word = "if" if number == 0 else "else if"
        roles += f'{{{{ {word} eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(after)}'
    return f"{_literal(begin)}{{{{ range .Messages }}}}{roles}{{{{ end }}}}{{{{ end }}}}{_literal(pieces.opening)}"


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
