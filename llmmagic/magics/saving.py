"""What ``%llm_save`` does."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from llmmagic.core.events import SaveFinished
from llmmagic.magics.follow import follow
from llmmagic.magics.views.save import SaveView

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.screens.base import FrontEnd


def save(session: Session, front_end: FrontEnd, settings: Namespace) -> None:
    """Save the model, and show how far it is where that takes its time.

    Args:
        session: Holds the model.
        front_end: Where to show it.
        settings: The parsed options.

    Raises:
        LLMMagicError: A setting is at fault, there is no adapter, or it could not be written.
    """
    operation = session.save(settings.path, format=settings.format, name=settings.name, gguf_type=settings.gguf_type)
    if settings.format == "adapter":
        finished = operation.wait()
        assert isinstance(finished, SaveFinished)  # too short to be cancelled
        front_end.say(f"Saved the adapter to {finished.path}. Load it again with %llm_load {finished.path}")
        return
    assert session.info is not None  # otherwise there would be nothing to save
    follow(operation, SaveView(session.info.model_id), front_end.card_screen())
