"""What the runs in a real terminal share: ``llmchat`` with folders of its own."""

from __future__ import annotations

from tests.tui.conftest import environment

__all__ = ["environment"]
