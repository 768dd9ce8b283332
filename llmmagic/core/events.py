"""What a running operation says: frozen dataclasses, one union per operation.

Every long operation of a session (load, train, chat, evaluate) is an iterator of these. A shell renders it with one
``match`` that ends in ``assert_never``. The last event of an operation tells how it ended; failure raises.

Units are in the names: ``_s`` seconds, ``_bytes`` bytes, ``_tokens`` tokens. Texts are untrusted model output or user
data: a shell escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, Union

LoadStage = Literal["download", "convert", "weights", "quantize", "adapter", "save", "check"]
"""What a loading bar counts: bytes fetched, a format converted, tensors read, quantised, tokens compared, ..."""

ProgressUnit = Literal["bytes", "tensors", "rows", "tokens", "steps"]
NoticeLevel = Literal["info", "warning"]
FinishReason = Literal["stop", "length", "context", "cancelled"]
"""Why a reply ended.

stop: an end token or a stop string. length: ``max_new_tokens`` reached. context: the context window is full.
cancelled: the user stopped it.
"""

FindingLevel = Literal["error", "warning"]
TokenKind = Literal["trained", "masked", "cut"]
TrainEndReason = Literal["completed", "cancelled"]
SegmentKind = Literal["template", "system", "pinned", "turn", "draft", "reserve", "free"]
Role = Literal["system", "user", "assistant", "tool"]


# --- any operation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that is no failure.

    Attributes:
        text: One sentence.
        level: ``warning`` when the user may want to act.
        topic: A stable short name (``"dtype"``, ``"prompt-prefix"``), for tests and for overriding by name.
    """

    text: str
    level: NoticeLevel = "info"
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The operation was stopped before it had a result; the session is as it was before."""

    operation: str


# --- load --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """One bar of a load.

    Attributes:
        stage: Which bar.
        done: How much is done, in ``unit``.
        total: How much there is; ``None`` while that is not known.
        unit: What is counted.
        detail: What is worked on now, a file name for instance.
    """

    stage: LoadStage
    done: int
    total: int | None
    unit: ProgressUnit
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something ``auto`` decided: ``Choice("dtype", "float32", "this CPU has no fast bfloat16")``."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Parity:
    """How near a converted model is to the one it was made of, on texts that neither has seen.

    Both get the same tokens (teacher forcing) and say at each one of a reply what they would go on with.

    Attributes:
        tokens: At how many tokens they were compared.
        agreement: Share of those where their first choices are the same token.
        mean_difference: Mean absolute difference of the log-probabilities, in nats, that both give the original's first
            choice.
        acceptable: Whether this is what the file's type explains; if not, the conversion went wrong.
    """

    tokens: int
    agreement: float
    mean_difference: float
    acceptable: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded.

    Attributes:
        model_id: The name the user gave.
        revision: Commit, branch or tag that was asked for; ``None`` for the default and for local folders.
        engine: ``"transformers"``, ``"llama.cpp"``, ``"openai"``.
        architecture: For instance ``"LlamaForCausalLM"``.
        parameters: Number of weights of the base model, counted unquantised.
        layers: Number of decoder layers.
        hidden_size: Width of the residual stream.
        vocab_size: V.
        quantization: ``"nf4"``, ``"fp4"``, ``"int8"``, ``"none"``, or the name of the model's own scheme (``"gptq"``).
        dtype: What it computes in, ``"float32"`` for instance.
        device: ``"cpu"``, ``"cuda:0"``.
        context_window: Tokens that prompt and reply may have together: the model's limit, or less if asked for.
        memory_bytes: What the weights take up.
        adapter: Name of the active adapter, if any.
        adapters: Names of all adapters that are loaded.
        choices: What ``auto`` chose, and why.
        from_cache: Whether the quantised weights came from the cache.
        chat_template: Whether the tokenizer has a chat template of its own.
        parity: Of a converted model: how near it is to the original, if that was measured.
        server: Host and port of the server that the model runs on; ``None`` if it runs on this machine, loaded by us.
            What a server does not tell (layers, memory, ...) is 0 or empty.
    """

    model_id: str
    revision: str | None
    engine: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    vocab_size: int
    quantization: str
    dtype: str
    device: str
    context_window: int
    memory_bytes: int
    adapter: str | None = None
    adapters: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    from_cache: bool = False
    chat_template: bool = True
    parity: Parity | None = None
    server: str | None = None


@dataclass(frozen=True, slots=True)
class LoadFinished:
    """The model is ready.

    Attributes:
        info: What is loaded.
        reused: True when exactly this was loaded already and nothing was done.
        duration_s: Wall time of the load.
    """

    info: ModelInfo
    reused: bool
    duration_s: float


# --- save --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveFinished:
    """What was asked for is on the disk.

    Attributes:
        path: The folder, or the GGUF file.
        format: ``"adapter"``, ``"merged"`` or ``"gguf"``.
        size_bytes: Of the weights.
        kind: What they are in: ``"float16"``, ``"q8_0"``.
        adapter: The adapter that is saved or merged in, if any.
        modelfile: For Ollama, beside a GGUF file.
        parity: Of a GGUF file: how near it is to the original.
    """

    path: str
    format: str
    size_bytes: int
    kind: str
    adapter: str | None = None
    modelfile: str | None = None
    parity: Parity | None = None


# --- generate and chat -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """The prompt is being read.

    Attributes:
        done_tokens: Prompt tokens whose keys and values are in the KV cache, the reused ones included.
        total_tokens: Length of the prompt.
        cached_tokens: How many of them were reused from the last prompt.
    """

    done_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely the model found a token, before temperature and every other setting.

    Attributes:
        token_id: The token that was chosen.
        logprob: Its log-probability, in nats.
        top: Ids and log-probabilities of the likeliest tokens, best first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the reply.

    Attributes:
        text: New text only, whole characters; may be empty while a character or a stop string is incomplete.
        token_ids: The tokens that were decoded since the last event.
        logprobs: One for each of them, if asked for (``GenerationConfig.logprobs``). Where several tokens make up one
            character, llama.cpp tells only that of the last.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Figures of one reply.

    Attributes:
        prompt_tokens: Length of the prompt.
        cached_tokens: Prompt tokens that were not read again.
        completion_tokens: Tokens generated, an end token included.
        time_to_first_token_s: From the call to the first token.
        duration_s: From the call to the end.
        tokens_per_s: Decoding speed: tokens after the first, by the time since the first. 0.0 with fewer than two.
        exact: Whether the tokens were counted; a server that does not tell them leaves us with an estimate.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    time_to_first_token_s: float
    duration_s: float
    tokens_per_s: float
    exact: bool = True


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    """The engine's last event.

    Attributes:
        text: The whole reply, without end token and stop string.
        token_ids: Every generated id, an end token included.
        finish_reason: Why it ended.
        stats: Figures.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: GenerationStats


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of the context window.

    Attributes:
        kind: What the tokens are for.
        tokens: How many.
        message_ids: The messages they belong to.
        label: A short text for people: ``"system prompt"``, ``"turn 3"``.
    """

    kind: SegmentKind
    tokens: int
    message_ids: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """What the model sees of a conversation, in tokens.

    The ``template``, ``system``, ``pinned``, ``turn`` and ``draft`` segments add up to ``prompt_tokens``; together with
    ``reserve`` and ``free`` to ``context_window``.

    Attributes:
        context_window: What the window holds.
        prompt_tokens: Length of the prompt, exactly.
        reserve_tokens: Kept free for the reply.
        segments: In the order of the prompt, then reserve, then free.
        dropped_message_ids: All messages the model no longer sees, oldest first.
        newly_dropped_message_ids: Those of them that this send drops.
        newly_dropped_tokens: What those took up in the window before this send; ``None`` where they are thousands that
            have never been counted (see `Session.message_tokens`).
        newly_dropped_turns: How many turns they are.
        message_tokens: What each message in the window takes up, its share of the template included; 0 for one that
            the template leaves out.
        exact: Whether the tokens were counted with the model's own tokenizer. Where only a server has that, they may be
            estimates; then every shell says "about".
    """

    context_window: int
    prompt_tokens: int
    reserve_tokens: int
    segments: tuple[Segment, ...]
    dropped_message_ids: tuple[str, ...] = ()
    newly_dropped_message_ids: tuple[str, ...] = ()
    newly_dropped_tokens: int | None = 0
    newly_dropped_turns: int = 0
    message_tokens: dict[str, int] = field(default_factory=dict)
    exact: bool = True

    @property
    def free_tokens(self) -> int:
        """Tokens that are neither prompt nor reserve."""
        return self.context_window - self.prompt_tokens - self.reserve_tokens


@dataclass(frozen=True, slots=True)
class ChatStarted:
    """The user's message is part of the conversation, and the reply begins.

    Attributes:
        conversation: Name of the conversation.
        message_id: Id of the user's message.
        reply_id: Id of the reply, which is empty so far.
        window: What the model gets to see, exactly.
    """

    conversation: str
    message_id: str
    reply_id: str
    window: WindowReport


@dataclass(frozen=True, slots=True)
class ChatFinished:
    """The reply is part of the conversation.

    Attributes:
        conversation: Name of the conversation.
        message_id: Id of the reply.
        text: The whole reply; where one was continued, with what it had before.
        finish_reason: Why it ended; a cancelled reply is kept as far as it got.
        stats: Figures.
        window: The window with the reply in it.
    """

    conversation: str
    message_id: str
    text: str
    finish_reason: FinishReason
    stats: GenerationStats
    window: WindowReport


# --- train -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read.

    Attributes:
        source: Where from.
        rows: Rows that are trained on.
        format: ``"messages"``, ``"question/answer"``, ``"llama-2 text"``, ...
        columns: What each column was taken for: ``{"question": "prompt"}``.
        eval_rows: Rows held out for evaluation; 0 when there are none.
        longest_tokens: Length of the longest example.
        total_tokens: Tokens of all examples, after truncation.
        truncated_rows: Rows cut off at ``max_length``.
        trained_tokens: Tokens that the loss is taken on.
    """

    source: str
    rows: int
    format: str
    columns: dict[str, str]
    eval_rows: int = 0
    longest_tokens: int = 0
    total_tokens: int = 0
    truncated_rows: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about training data that is wrong, or worth knowing.

    Attributes:
        name: A stable short name, by which it can be allowed: ``"empty-answer"``, ``"truncated"``.
        level: Training is refused on an ``error`` that is not allowed.
        text: One sentence, with figures.
        rows: The first rows it is about, counted from 1.
        allowed: The user knows and goes on.
    """

    name: str
    level: FindingLevel
    text: str
    rows: tuple[int, ...] = ()
    allowed: bool = False


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One token of an example.

    Attributes:
        text: What it says; empty for all but the last of the tokens that make up one character.
        kind: ``trained`` if a loss is taken on it, ``masked`` if it is only read, ``cut`` if ``max_length`` leaves it
            out.
        special: Whether it is one of the tokenizer's special tokens.
    """

    text: str
    kind: TokenKind
    special: bool = False


@dataclass(frozen=True, slots=True)
class RowView:
    """A row as the model gets to see it: several views where a conversation is split."""

    row: int
    tokens: tuple[TokenPiece, ...]


@dataclass(frozen=True, slots=True)
class DataInspected:
    """Everything there is to know about training data before it is trained on.

    Attributes:
        report: Rows, format, mapping, tokens.
        findings: Errors first.
        views: Some rows, token by token.
        rows: Rows that were read.
        max_length: Most tokens of an example.
        examples: How many examples the rows became.
        masked_tokens: Tokens that are read only.
        cut_tokens: Tokens that ``max_length`` leaves out.
        end_labelled: Examples that teach the model to end its reply.
        most_bos: The most BOS tokens that an example begins with; more than 1 is an error.
        duplicate_rows: Rows that occurred before.
        empty_rows: Rows without a question, an answer or a text.
        longest_rows: (row, tokens before truncation), longest first.
        checked_prompts: Prompts that were compared with what the chat sends.
        identical_prompts: How many of them are the same, token for token.
    """

    report: DataReport
    findings: tuple[Finding, ...]
    views: tuple[RowView, ...]
    rows: int
    max_length: int
    examples: int
    masked_tokens: int
    cut_tokens: int
    end_labelled: int
    most_bos: int
    duplicate_rows: int
    empty_rows: int
    longest_rows: tuple[tuple[int, int], ...]
    checked_prompts: int
    identical_prompts: int


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """Data is being read, formatted and tokenised."""

    done: int
    total: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a training run will take up, estimated before its first step.

    Attributes:
        device: Where: ``"cpu"``, ``"cuda:0"``.
        weights_bytes: The model's weights; they are there already.
        adapter_bytes: The weights that are trained; they are there already.
        gradient_bytes: Their gradients.
        optimizer_bytes: What the optimiser keeps of each of them.
        activation_bytes: What the forward pass leaves for the backward pass, at the longest batch.
        free_bytes: What is free on the device.
        rows: Rows at once.
        row_tokens: Tokens of the longest.
    """

    device: str
    weights_bytes: int
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    free_bytes: int
    rows: int
    row_tokens: int

    @property
    def needed_bytes(self) -> int:
        """What is not there yet."""
        return self.gradient_bytes + self.optimizer_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether that is free."""
        return self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True)
class TrainStarted:
    """The first step is about to run.

    Attributes:
        name: Name of the adapter that is trained.
        total_steps: Optimizer steps to come.
        epochs: Passes over the data that these steps make.
        batch_size: Rows per optimizer step: per device, times accumulation, times processes.
        trainable_parameters: Weights that change.
        all_parameters: Weights in total.
        data: What is trained on.
        settings: Every setting that matters, as it takes effect: ``{"lora_r": "16", ...}``.
        output_dir: Where checkpoints and the adapter go.
        memory: What it will take up, where that can be told before.
        method: ``"sft"``, ``"pretrain"``, ``"dpo"``, ``"kto"`` or ``"grpo"``.
        full: All weights are trained, not those of an adapter.
    """

    name: str
    total_steps: int
    epochs: float
    batch_size: int
    trainable_parameters: int
    all_parameters: int
    data: DataReport
    settings: dict[str, str]
    output_dir: str
    method: str = "sft"
    full: bool = False
    memory: MemoryEstimate | None = None


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimizer step is done.

    Attributes:
        step: Steps done, counted from 1.
        total_steps: Steps in total.
        epoch: Passes over the data so far.
        loss: Mean loss of this step, per trained token; ``None`` on a step that was not logged.
        learning_rate: The one this step used.
        grad_norm: Before clipping; ``None`` when not known.
        tokens_per_s: Non-padding tokens per second since the start.
        memory_bytes: Device memory in use (CUDA), else the resident memory of the process.
        elapsed_s: Since the first step began.
        eta_s: Until the last step, by the speed so far.
        metrics: What the method measures besides the loss: ``margin``, ``accuracy``, ``kl``, ``reward``, ...
    """

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    tokens_per_s: float
    memory_bytes: int
    elapsed_s: float
    eta_s: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainSample:
    """What the model answers to a prompt at this point of its training.

    Attributes:
        step: After how many optimizer steps; 0 is the model before training.
        prompt: The question; of a conversation the last one.
        text: The answer, greedy.
        finish_reason: Why it ended; ``length`` when it was cut short.
    """

    step: int
    prompt: str
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class TrainEval:
    """An evaluation on held-out rows.

    Attributes:
        step: After how many optimizer steps; 0 is the model before training.
        loss: Mean loss per trained token; of preference methods per row, of ``grpo`` minus the mean reward.
        perplexity: ``exp(loss)``; ``None`` for methods whose loss is not one of tokens.
        rows: How many rows it was taken on.
        metrics: What the method measures besides: ``margin``, ``accuracy``, ``reward``, ...
    """

    step: int
    loss: float
    perplexity: float | None
    rows: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainFinished:
    """Training is over and the session chats with the adapter on.

    Attributes:
        name: Name of the adapter.
        reason: ``cancelled`` when it was stopped: the adapter is as far as it got.
        steps: Optimizer steps done.
        total_steps: Optimizer steps that were planned.
        first_loss: Of the first logged step; ``None`` when no step was done.
        last_loss: Of the last logged step.
        eval_loss_before: Held-out loss before training; ``None`` without evaluation data.
        eval_loss_after: Held-out loss after it.
        tokens_per_s: Non-padding tokens per second, over the whole run.
        duration_s: Wall time of the steps.
        peak_memory_bytes: The most memory that was in use.
        adapter_dir: Where the adapter is saved.
    """

    name: str
    reason: TrainEndReason
    steps: int
    total_steps: int
    first_loss: float | None
    last_loss: float | None
    eval_loss_before: float | None
    eval_loss_after: float | None
    tokens_per_s: float
    duration_s: float
    peak_memory_bytes: int
    adapter_dir: str


@dataclass(frozen=True, slots=True)
class EvalFinished:
    """What the model, with the adapter that is on, makes of held-out rows.

    Attributes:
        loss: Mean negative log-likelihood per trained token, in nats.
        perplexity: ``exp(loss)``.
        token_accuracy: Share of trained tokens that are the model's first choice.
        tokens: How many tokens that is over.
        rows: How many rows.
        adapter: The adapter that was on, if any.
        base: The same of the bare model, if an adapter was on and it was measured.
    """

    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int
    rows: int
    adapter: str | None
    base: EvalFinished | None = None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a model reaches in one task of lm-eval-harness.

    Attributes:
        task: Its name.
        metric: ``"acc"``, ``"exact_match"``, ...
        value: The score.
        stderr: Its standard error; ``None`` if the harness gives none.
    """

    task: str
    metric: str
    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """What the model, with the adapter that is on, reaches in tasks.

    Attributes:
        scores: One per task and metric.
        adapter: The adapter that was on, if any.
    """

    scores: tuple[TaskScore, ...]
    adapter: str | None


DataEvent: TypeAlias = Union[Notice, Cancelled, PrepareProgress, DataInspected]
EvalEvent: TypeAlias = Union[Notice, Cancelled, PrepareProgress, EvalFinished, TasksFinished]
LoadEvent: TypeAlias = Union[LoadProgress, Notice, Cancelled, LoadFinished]
SaveEvent: TypeAlias = Union[LoadProgress, Notice, Cancelled, SaveFinished]
EngineEvent: TypeAlias = Union[Notice, PrefillProgress, TextDelta, GenerationFinished]
ChatEvent: TypeAlias = Union[Notice, ChatStarted, PrefillProgress, TextDelta, ChatFinished]
TrainEvent: TypeAlias = Union[
    Notice, Cancelled, PrepareProgress, DataInspected, TrainStarted, TrainStep, TrainEval, TrainSample, TrainFinished
]
Event: TypeAlias = Union[LoadEvent, SaveEvent, EngineEvent, ChatEvent, TrainEvent, EvalEvent, DataEvent]


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A look at the session.

    Attributes:
        model: What is loaded, if anything.
        busy: Name of the running operation, if any.
        conversations: Name, number of messages and prompt tokens of each conversation.
        device_memory_bytes: CUDA memory in use by this process; 0 on a CPU.
        process_memory_bytes: Resident memory of this process.
        cache_bytes: What converted and quantised models take up on the disk.
        exact: Whether the tokens of the conversations were counted, not estimated.
    """

    model: ModelInfo | None
    busy: str | None
    conversations: tuple[tuple[str, int, int], ...] = ()
    device_memory_bytes: int = 0
    process_memory_bytes: int = 0
    cache_bytes: int = 0
    notes: tuple[str, ...] = field(default=())
    exact: bool = True
