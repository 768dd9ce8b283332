"""The transcript: a conversation of any length, drawn line by line."""

from llmmagic_tui.widgets.transcript.drawing import WindowState
from llmmagic_tui.widgets.transcript.view import Transcript

__all__ = ["Transcript", "WindowState"]
