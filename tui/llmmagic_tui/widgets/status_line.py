"""One line about the model: what it is, how fast it is, what it is doing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.text import Text
from textual.widget import Widget

from llmmagic.core.sanitize import one_line
from llmmagic_tui.themes import Inks

if TYPE_CHECKING:
    from llmmagic.core.events import GenerationStats, ModelInfo

_ALWAYS = 2  # parts
Activity = Literal["none", "loading", "ready", "reading", "writing", "dead"]
_DOTS: dict[Activity, str] = {"none": "○", "loading": "◔", "ready": "●", "reading": "◑", "writing": "◑", "dead": "✕"}


def human_bytes(count: int) -> str:
    """``1_234_567_890`` as ``1.2 GB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


@dataclass(frozen=True)
class Status:
    """What the line says."""

    activity: Activity = "none"
    detail: str = ""
    info: ModelInfo | None = None
    tokens_per_s: float | None = None
    time_to_first_token_s: float | None = None
    memory_bytes: int | None = None


class StatusLine(Widget):
    """Model, quantisation, adapter, speed, memory."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "StatusLine { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.status = Status()

    def update(self, **changes: Any) -> None:
        """Change fields of the `Status`."""
        self.status = replace(self.status, **changes)
        self.refresh()

    def finished(self, stats: GenerationStats) -> None:
        """Show the figures of a reply."""
        self.update(
            activity="ready",
            detail="",
            tokens_per_s=stats.tokens_per_s or self.status.tokens_per_s,
            time_to_first_token_s=stats.time_to_first_token_s,
        )

    def render(self) -> Text:
        """Draw it; what does not fit is left out from the right, the name and what is going on excepted."""
        inks = Inks.of(self.app.get_css_variables())
        status = self.status
        ink = {"ready": inks.success, "dead": inks.error, "none": inks.muted}.get(status.activity, inks.warning)
        text = Text(no_wrap=True, overflow="ellipsis", end="")
        text.append(f"{_DOTS[status.activity]} ", ink)
        parts: list[tuple[str, Any]] = []
        info = status.info
        if info is not None and status.activity != "loading":
            parts.append((one_line(info.model_id, 40), inks.bold))
        if status.detail:
            parts.append((one_line(status.detail), ink))
        if info is not None and info.server is not None:
            parts.append((f"server {one_line(info.server, 40)}", inks.muted))
        elif info is not None:
            parts.append((info.quantization if info.quantization != "none" else "unquantised", inks.muted))
            if info.adapter:
                parts.append((f"adapter {one_line(info.adapter, 24)}", inks.pinned))
        if status.tokens_per_s:
            parts.append((f"{status.tokens_per_s:,.1f} tokens/s", inks.muted))
        if status.time_to_first_token_s is not None:
            parts.append((f"first token {status.time_to_first_token_s:.2f} s", inks.muted))
        if status.memory_bytes:
            parts.append((f"memory {human_bytes(status.memory_bytes)}", inks.muted))
        if info is not None and info.server is None:
            parts.append((f"{info.device} {info.dtype}", inks.muted))
        for index, (words, style) in enumerate(parts):
            between = " · " if index else ""
            if index >= _ALWAYS and text.cell_len + cell_len(between + words) > self.size.width:
                break  # half a figure is a wrong one
            text.append(between, inks.faint).append(words, style)
        return text
