"""A look at the session."""

from __future__ import annotations

from llmmagic.core.chat.words import about
from llmmagic.core.config import cache_dir
from llmmagic.core.events import SessionStatus
from llmmagic.magics.figures import bytes_text
from llmmagic.magics.views.card import Card, Note
from llmmagic.magics.views.load import model_facts


def status_card(status: SessionStatus) -> Card:
    """The card of ``%llm_status``."""
    info = status.model
    facts = [] if info is None else list(model_facts(info))
    memory = bytes_text(status.process_memory_bytes)
    facts.append(("This process", f"{memory} of memory"))
    if status.device_memory_bytes:
        facts.append(("On the GPU", f"{bytes_text(status.device_memory_bytes)} in use"))
    if status.cache_bytes:
        facts.append(("Model cache", f"{bytes_text(status.cache_bytes)} in {cache_dir()}"))
    for name, messages, tokens in status.conversations:
        counted = f", {about(status)}{tokens:,} tokens" if tokens else ""
        facts.append((f"Conversation {name}", f"{messages:,} {'message' if messages == 1 else 'messages'}{counted}"))
    notes = tuple(Note(text) for text in status.notes)
    if status.busy is not None:
        notes = (Note(f"A {status.busy} operation is running."), *notes)
    title = "No model is loaded (%llm_load demo loads one)" if info is None else info.model_id
    return Card(title, "running" if status.busy else "done", facts=tuple(facts), notes=notes)
