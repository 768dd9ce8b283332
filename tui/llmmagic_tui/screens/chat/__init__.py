"""The chat screen, in parts that build on one another.

`base` holds the state, `models` the model's life, `replies` sending, `marks` what is done with a message, `library` the
conversations as a whole, and `screen` lays it all out.
"""

from llmmagic_tui.screens.chat.screen import ChatScreen

__all__ = ["ChatScreen"]
