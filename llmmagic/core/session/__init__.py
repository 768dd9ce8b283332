"""The one object that a shell holds: model, adapters, training and conversations."""

from llmmagic.core.session.session import Session

__all__ = ["Session"]
