r"""Text that is already written as Llama-2 prompts, read back into messages.

``<s>[INST] <<SYS>>\nsystem\n<</SYS>>\n\nquestion [/INST] answer </s><s>[INST] ... [/INST] ... </s>``
(https://github.com/meta-llama/llama/blob/main/llama/generation.py, ``B_INST`` and ``B_SYS``).

Trained on as it stands, such text gets a second ``<s>`` from a tokenizer that adds one, a second end token from its
``"</s> "`` tail, and does not fit models with another template. As messages it goes through the model's own template.
"""

from __future__ import annotations

import re

Message = dict[str, str]

_TURN = re.compile(
    r"\s*(?:<s>)?\s*\[INST\](?P<user>.*?)\[/INST\](?P<answer>.*?)(?:</s>|(?=(?:<s>\s*)?\[INST\])|\Z)", re.DOTALL
)
_SYSTEM = re.compile(r"\s*<<SYS>>(?P<system>.*?)<</SYS>>(?P<user>.*)", re.DOTALL)


def looks_like_llama2(text: str) -> bool:
    """Whether a text is a Llama-2 prompt."""
    return "[INST]" in text and "[/INST]" in text


def parse_llama2(text: str) -> list[Message]:
    """Read a text back into messages.

    Args:
        text: One or more turns.

    Returns:
        Messages with ``role`` and ``content``. The last one is an empty assistant message when the text ends after
        ``[/INST]``: whether that is an error is for the caller to say.

    Raises:
        ValueError: It is not written that way; the message says where it goes wrong.
    """
    messages: list[Message] = []
    end = 0
    while text[end:].strip():
        turn = _TURN.match(text, end)
        if turn is None:
            raise ValueError(f"expected '[INST] question [/INST] answer' at {text[end:].strip()[:30]!r}")
        user = turn["user"]
        system = _SYSTEM.fullmatch(user)
        if system is not None:
            if messages:
                raise ValueError("a <<SYS>> block after the first turn")
            messages.append({"role": "system", "content": system["system"].strip()})
            user = system["user"]
        messages.append({"role": "user", "content": user.strip()})
        messages.append({"role": "assistant", "content": turn["answer"].strip()})
        end = turn.end()
    return messages
