"""What ``%llm_chat`` does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import EngineName
from llmmagic.core.errors import EngineError
from llmmagic.magics.fill import fill
from llmmagic.magics.follow import follow
from llmmagic.magics.results import Reply
from llmmagic.magics.views.load import LoadView
from llmmagic.magics.views.reply import ReplyView

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.screens.base import FrontEnd

_SAMPLING = ("max_new_tokens", "temperature", "seed")


def chat(
    session: Session, front_end: FrontEnd, settings: Namespace, prompt: str, variables: Mapping[str, Any]
) -> Reply:
    """Say something, and show the reply as it comes.

    Args:
        session: Holds the model and the conversation.
        front_end: Where to show it.
        settings: The parsed options.
        prompt: What to say.
        variables: Of the notebook, for ``--fill``.

    Returns:
        The reply; a stopped one as far as it got.

    Raises:
        LLMMagicError: A setting is at fault, no model is loaded, or generation failed.
    """
    _get_ready(session, front_end, settings.engine)
    view = ReplyView()
    operation = session.chat(
        fill(prompt, variables) if settings.fill else prompt,
        conversation=settings.conversation,
        system=settings.system,
        new=settings.new,
        engine=settings.engine,
        **{name: value for name in _SAMPLING if (value := getattr(settings, name)) is not None},
    )
    follow(operation, view, front_end.reply_screen(raw=settings.raw), live=not settings.no_stream)
    assert view.finished is not None  # a chat that does not raise ends with it
    return Reply(view.finished)


def _get_ready(session: Session, front_end: FrontEnd, engine: EngineName) -> None:
    """Convert the model before the first reply through another engine, with bars: that takes its time.

    Raises:
        LLMMagicError: It cannot be done.
        EngineError: It was stopped.
    """
    if session.engine_ready(engine):
        return
    assert session.info is not None  # otherwise nothing would be ready
    view = LoadView(session.info.model_id, loaded_before=session.info)
    follow(session.prepare_engine(engine), view, front_end.card_screen())
    if view.finished is None:
        raise EngineError("The conversion was stopped, and nothing was said.")
