"""What a running operation says: frozen dataclasses, one union per operation.

Every long operation of a session (load, train, chat, evaluate) is an iterator of these. A shell renders it with one
``match`` that ends in ``assert_never``. The last event of an operation tells how it ended; failure raises.

Units are in the names: ``_s`` seconds, ``_bytes`` bytes, ``_tokens`` tokens. Texts are untrusted model output or user
data: a shell escapes them.
"""

from __future__ import annotations

from typing import TypeAlias, Union

from llmmagic.core.events.chat import (
    ChatEvent,
    ChatFinished,
    ChatStarted,
    EngineEvent,
    FinishReason,
    GenerationFinished,
    GenerationStats,
    PrefillProgress,
    Role,
    Segment,
    SegmentKind,
    TextDelta,
    TokenLogprobs,
    WindowReport,
)
from llmmagic.core.events.common import Cancelled, Notice, NoticeLevel, ProgressUnit
from llmmagic.core.events.data import (
    DataEvent,
    DataInspected,
    DataReport,
    Finding,
    FindingLevel,
    PrepareProgress,
    RowView,
    TokenKind,
    TokenPiece,
)
from llmmagic.core.events.evaluate import EvalEvent, EvalFinished, TaskScore, TasksFinished
from llmmagic.core.events.load import (
    Choice,
    LoadEvent,
    LoadFinished,
    LoadProgress,
    LoadStage,
    ModelInfo,
    Parity,
    SaveEvent,
    SaveFinished,
)
from llmmagic.core.events.status import SessionStatus
from llmmagic.core.events.train import (
    MemoryEstimate,
    TrainEndReason,
    TrainEval,
    TrainEvent,
    TrainFinished,
    TrainSample,
    TrainStarted,
    TrainStep,
)

Event: TypeAlias = Union[LoadEvent, SaveEvent, EngineEvent, ChatEvent, TrainEvent, EvalEvent, DataEvent]

__all__ = [
    "Cancelled",
    "ChatEvent",
    "ChatFinished",
    "ChatStarted",
    "Choice",
    "DataEvent",
    "DataInspected",
    "DataReport",
    "EngineEvent",
    "EvalEvent",
    "EvalFinished",
    "Event",
    "Finding",
    "FindingLevel",
    "FinishReason",
    "GenerationFinished",
    "GenerationStats",
    "LoadEvent",
    "LoadFinished",
    "LoadProgress",
    "LoadStage",
    "MemoryEstimate",
    "ModelInfo",
    "Notice",
    "NoticeLevel",
    "Parity",
    "PrefillProgress",
    "PrepareProgress",
    "ProgressUnit",
    "Role",
    "RowView",
    "SaveEvent",
    "SaveFinished",
    "Segment",
    "SegmentKind",
    "SessionStatus",
    "TaskScore",
    "TasksFinished",
    "TextDelta",
    "TokenKind",
    "TokenLogprobs",
    "TokenPiece",
    "TrainEndReason",
    "TrainEval",
    "TrainEvent",
    "TrainFinished",
    "TrainSample",
    "TrainStarted",
    "TrainStep",
    "WindowReport",
]
