"""What ``%llm_chat`` without a prompt does."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from llmmagic.core.config import GenerationConfig, replace_known
from llmmagic.magics.errors import MagicUsageError

if TYPE_CHECKING:
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.session import Session
    from llmmagic.magics.panel.hub import PanelHub

_SAMPLING = ("max_new_tokens", "temperature", "seed")
_NEED_A_PROMPT = {"no_stream": "--no-stream", "raw": "--raw", "fill": "--fill", "output": "-o"}


def open_panel(hub: PanelHub, settings: Namespace, *, attended: bool) -> None:
    """Show a panel, or where no one can use one the conversation as it is.

    Args:
        hub: Of the session.
        settings: The parsed options of ``%llm_chat``.
        attended: Whether someone is there to use it: nbclient and papermill run a notebook with nobody watching.

    Raises:
        MagicUsageError: An option that needs a prompt.
        LLMMagicError: A setting is at fault, or something else is running.
    """
    for name, option in _NEED_A_PROMPT.items():
        if getattr(settings, name):
            raise MagicUsageError(f"{option} needs a prompt.", hint="Without one, %llm_chat opens the chat panel.")
    if settings.engine != "auto":
        raise MagicUsageError(
            "--engine needs a prompt.",
            hint="The panel goes by the engine that the model was loaded with.",
        )
    values = {name: value for name in _SAMPLING if (value := getattr(settings, name)) is not None}
    generation: GenerationConfig = replace_known(GenerationConfig, values)
    talk = _prepare(hub.session, settings)
    if attended:
        from llmmagic.magics.panel.widget import PanelWidget

        PanelWidget(hub, settings.conversation, generation).show()
    else:
        from IPython.display import display

        from llmmagic.magics.panel.transcript import transcript_bundle

        display(transcript_bundle(talk, "llmmagic-copy"), raw=True)


def _prepare(session: Session, settings: Namespace) -> Conversation:
    """The conversation, made anew or made at all if need be."""
    from llmmagic.core.errors import ConversationNotFoundError

    name = settings.conversation
    if not name.strip():
        raise MagicUsageError("A conversation needs a name.")
    if settings.new:
        return session.new_conversation(name, system=settings.system)
    try:
        talk = session.conversation(name)
    except ConversationNotFoundError:
        return session.new_conversation(name, system=settings.system)
    if settings.system is not None:
        talk.system = settings.system
    return talk
