"""Loading a model: a bar for each stage, and in the end a card that says what is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass

from typing_extensions import assert_never

from llmmagic.core.events import Cancelled, LoadEvent, LoadFinished, LoadProgress, LoadStage, ModelInfo, Notice, Parity
from llmmagic.magics.figures import bytes_text, count_text, seconds_text
from llmmagic.magics.views.card import STOPPING, Bar, Card, CardStatus, Note

_LABELS: dict[LoadStage, str] = {
    "download": "Download",
    "convert": "Convert",
    "weights": "Weights",
    "quantize": "Quantise",
    "adapter": "Adapter",
    "save": "Save",
    "check": "Compare",
}
_SETTLED_S = 1.0  # a time left that is computed from less is a guess


@dataclass(slots=True)
class _Stage:
    event: LoadProgress
    since_s: float
    done_at_first: int


class LoadView:
    """Folds the events of a load.

    Attributes:
        finished: The last event, once there.
    """

    def __init__(self, model_id: str, *, loaded_before: ModelInfo | None) -> None:
        """Begin.

        Args:
            model_id: What is to be loaded.
            loaded_before: What stays loaded if this is cancelled.
        """
        self.finished: LoadFinished | None = None
        self._model_id = model_id
        self._before = loaded_before
        self._status: CardStatus = "running"
        self._stages: dict[LoadStage, _Stage] = {}
        self._notes: list[Note] = []
        self._stopping = False

    def on(self, event: LoadEvent) -> None:
        """Take in an event."""
        match event:
            case LoadProgress(stage=stage):
                known = self._stages.get(stage)
                if known is None or known.event.total != event.total:
                    self._stages[stage] = _Stage(event, time.monotonic(), event.done)
                else:
                    known.event = event
            case Notice(text=text, level=level):
                self._notes.append(Note(text, level))
            case Cancelled():
                self._status = "stopped"
                kept = f"{self._before.model_id} is still loaded." if self._before else "No model is loaded."
                self._notes.append(Note(f"Stopped before it was loaded. {kept}"))
            case LoadFinished():
                self._status = "done"
                self.finished = event
            case _:
                assert_never(event)

    def stopping(self) -> None:
        """An end was asked for."""
        self._stopping = True

    def failed(self) -> None:
        """The operation raised."""
        self._status = "failed"

    def card(self) -> Card:
        """What there is to see now."""
        if self.finished is not None:
            return load_card(self.finished, notes=tuple(self._notes))
        title = {"running": "Loading", "stopped": "Stopped loading", "failed": "Could not load"}
        return Card(
            title=f"{title.get(self._status, 'Loading')} {self._model_id}",
            status=self._status,
            bars=tuple(_bar(stage) for stage in self._stages.values()),
            notes=(*self._notes, STOPPING) if self._stopping and self._status == "running" else tuple(self._notes),
        )


def _bar(stage: _Stage) -> Bar:
    event = stage.event
    figure = bytes_text if event.unit == "bytes" else count_text
    unit = "" if event.unit == "bytes" else f" {event.unit}"
    elapsed_s = time.monotonic() - stage.since_s
    per_s = (event.done - stage.done_at_first) / elapsed_s if elapsed_s > 0 else 0.0
    if event.total is None:
        parts = [f"{figure(event.done)}{unit}"]
    elif event.done >= event.total:
        parts = [f"{figure(event.total)}{unit}"]
    else:
        parts = [f"{figure(event.done)} of {figure(event.total)}{unit}"]
    if event.total is not None and event.done < event.total and elapsed_s > _SETTLED_S and per_s > 0:
        if event.unit == "bytes":
            parts.append(f"{bytes_text(round(per_s))}/s")
        parts.append(f"{seconds_text((event.total - event.done) / per_s)} left")
    if event.detail and not (event.total is not None and event.done >= event.total):
        parts.append(event.detail)
    done = min(event.done / event.total, 1.0) if event.total else None
    return Bar(_LABELS[event.stage], done, " · ".join(parts))


def load_card(finished: LoadFinished, *, notes: tuple[Note, ...] = ()) -> Card:
    """The card of a loaded model."""
    info = finished.info
    if finished.reused:
        notes = (*notes, Note("It was loaded already; nothing had to be done."))
    else:
        origin = " from the quantised copy in the cache" if info.from_cache else ""
        notes = (*notes, Note(f"Loaded in {seconds_text(finished.duration_s)}{origin}."))
    if not info.chat_template:
        notes = (*notes, Note("The model has no chat template; a plain one is used.", "warning"))
    return Card(title=info.model_id, status="done", facts=model_facts(info), notes=notes)


def _server_facts(info: ModelInfo) -> tuple[tuple[str, str], ...]:
    """A model that runs elsewhere: where, how much it can read, and whether that can be counted."""
    facts = {choice.name: f"{choice.value} ({choice.reason})" for choice in info.choices}
    window = f"{info.context_window:,} tokens"
    reason = next((f" ({choice.reason})" for choice in info.choices if choice.name == "context_window"), "")
    shown = [("Server", facts["server"]), ("Context window", f"{window}{reason}")]
    if info.parameters:
        shown.append(("Parameters", count_text(info.parameters)))
    return (*shown, ("Token counts", facts["token counts"]))


def parity_text(parity: Parity) -> str:
    """How near a converted model is to the original, in words."""
    return (
        f"same first choice at {parity.agreement:.1%} of {parity.tokens} tokens; log-probabilities differ by "
        f"{parity.mean_difference:.3f} on average"
    )


def model_facts(info: ModelInfo) -> tuple[tuple[str, str], ...]:
    """What is loaded, in words; what ``auto`` chose stands with its reason beside the value it led to."""
    if info.server is not None:
        return _server_facts(info)
    reasons = {choice.name: choice.reason for choice in info.choices}

    def because(name: str, value: str) -> str:
        reason = reasons.pop(name, "")
        return f"{value} (auto: {reason})" if reason else value

    facts = [
        ("Parameters", f"{count_text(info.parameters)} in {info.layers} layers ({info.architecture})"),
        ("Quantisation", because("quantization", info.quantization)),
        ("Computes in", because("dtype", info.dtype)),
        ("Device", because("device", info.device)),
        ("Memory", f"{bytes_text(info.memory_bytes)} of weights"),
        ("Context window", f"{info.context_window:,} tokens"),
    ]
    if info.revision:
        facts.append(("Revision", info.revision))
    if info.adapter:
        facts.append(("Adapter", info.adapter))
    if others := [name for name in info.adapters if name != info.adapter]:
        facts.append(("Other adapters", ", ".join(others)))
    if info.engine != "transformers":
        facts.append(("Engine", because("engine", info.engine)))
    if info.parity is not None:
        facts.append(("Against the original", parity_text(info.parity)))
    left = [choice for choice in info.choices if choice.name in reasons]
    facts += [(choice.name.capitalize(), because(choice.name, choice.value)) for choice in left]
    return tuple(facts)
