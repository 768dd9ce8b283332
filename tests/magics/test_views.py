"""Events in, cards out: what people get to read."""

from __future__ import annotations

import io

import matplotlib.image as mpimg
import pytest
from rich.console import Console

from llmmagic.core.events import (
    Cancelled,
    ChatFinished,
    ChatStarted,
    Choice,
    DataReport,
    FinishReason,
    GenerationStats,
    LoadFinished,
    LoadProgress,
    ModelInfo,
    Notice,
    PrefillProgress,
    Segment,
    TextDelta,
    TrainEval,
    TrainFinished,
    TrainSample,
    TrainStarted,
    TrainStep,
    WindowReport,
)
from llmmagic.magics.curve import curve_svg, sparkline
from llmmagic.magics.figures import bytes_text, count_text, rate_text, seconds_text
from llmmagic.magics.html import card_html
from llmmagic.magics.plot import curve_image, curve_png
from llmmagic.magics.screens.terminal import render_card
from llmmagic.magics.text import card_text, reply_text
from llmmagic.magics.views.card import STOPPING, Curve
from llmmagic.magics.views.load import LoadView
from llmmagic.magics.views.reply import ReplyView
from llmmagic.magics.views.train import TrainView

INFO = ModelInfo(
    model_id="demo",
    revision=None,
    engine="transformers",
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    layers=30,
    hidden_size=576,
    vocab_size=49_152,
    quantization="nf4",
    dtype="float32",
    device="cpu",
    context_window=8192,
    memory_bytes=112_000_000,
    choices=(Choice("dtype", "float32", "this CPU has no fast bfloat16"),),
    from_cache=True,
)
WINDOW = WindowReport(8192, 120, 512, (Segment("turn", 120), Segment("reserve", 512), Segment("free", 7560)))
STATS = GenerationStats(40, 0, 80, 0.234, 6.8, 12.34)
STARTED = TrainStarted(
    name="med",
    total_steps=100,
    epochs=1.25,
    batch_size=4,
    trainable_parameters=1_000_000,
    all_parameters=135_515_008,
    data=DataReport("train.jsonl", 320, "question/answer", {"question": "prompt"}, eval_rows=20, truncated_rows=3),
    settings={"lora_r": "16"},
    output_dir="runs/med",
)


def step(number: int, loss: float | None) -> TrainStep:
    return TrainStep(
        number, 100, number / 80, loss, 2e-4, 1.0, 812.5, 1_400_000_000, 3.5 * number, 3.5 * (100 - number)
    )


def finished(reason: str = "completed", steps: int = 100) -> TrainFinished:
    return TrainFinished("med", reason, steps, 100, 3.2, 2.1, 3.0, 2.4, 812.5, 350.0, 1_500_000_000, "runs/med")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(0), "0 bytes"),
        (bytes_text(97_800_000), "98 MB"),
        (bytes_text(999_600_000), "1.0 GB"),
        (bytes_text(14_300_000_000), "14.3 GB"),
        (seconds_text(0.234), "0.23 s"),
        (seconds_text(9.96), "10 s"),
        (seconds_text(59.7), "1 min 00 s"),
        (seconds_text(7_500), "2 h 05 min"),
        (count_text(8192), "8,192"),
        (count_text(134_515_008), "134.5 M"),
        (rate_text(12.34), "12.3"),
        (rate_text(1204.4), "1,204"),
    ],
)
def test_figures(text: str, expected: str) -> None:
    assert text == expected


def test_a_load_counts_bytes_and_then_says_what_is_loaded() -> None:
    view = LoadView("demo", loaded_before=None)
    view.on(LoadProgress("download", 31_000_000, 93_000_000, "bytes", "model.gguf"))
    view.on(LoadProgress("weights", 272, 272, "tensors"))
    bars = view.card().bars
    assert [bar.label for bar in bars] == ["Download", "Weights"]
    assert bars[0].done == pytest.approx(1 / 3)
    assert bars[0].text == "31 MB of 93 MB · model.gguf"
    assert bars[1].done == 1
    view.on(LoadFinished(INFO, reused=False, duration_s=3.21))
    card = view.card()
    assert not card.bars
    facts = dict(card.facts)
    assert facts["Parameters"] == "134.5 M in 30 layers (LlamaForCausalLM)"
    assert facts["Computes in"] == "float32 (auto: this CPU has no fast bfloat16)"
    assert facts["Quantisation"] == "nf4"
    assert facts["Context window"] == "8,192 tokens"
    assert card.notes[-1].text == "Loaded in 3.2 s from the quantised copy in the cache."


def test_a_cancelled_load_says_what_is_still_there() -> None:
    view = LoadView("other", loaded_before=INFO)
    view.stopping()
    assert STOPPING in view.card().notes
    view.on(Cancelled("load"))
    assert card_text(view.card()) == "Stopped loading other\n  Stopped before it was loaded. demo is still loaded."


def test_training_shows_figures_while_it_runs() -> None:
    view = TrainView("med")
    view.on(STARTED)
    view.on(TrainEval(0, 3.0, 20.1, 20))
    for number, loss in ((1, 3.2), (2, None), (3, 2.9)):
        view.on(step(number, loss))
    card = view.card()
    assert card.title == "Training med"
    assert card.bars[0].text == "3 of 100 · 10 s · 5 min 40 s left"
    facts = dict(card.facts)
    assert facts["Loss"] == "2.900"
    assert facts["Held-out loss"] == "3.000"
    assert facts["Learning rate"] == "2.00e-04"
    assert facts["Data"] == "320 rows (question/answer) from train.jsonl; 20 held out; 3 rows cut off"
    assert card.curve == Curve(((1, 3.2), (3, 2.9)), ((0, 3.0),), 15), "the axis ends early at the beginning"
    view.on(step(30, 2.5))
    assert view.card().curve == Curve(((1, 3.2), (3, 2.9), (30, 2.5)), ((0, 3.0),), 100)


def test_the_summary_has_the_loss_before_and_after() -> None:
    view = TrainView("med")
    for event in (STARTED, step(1, 3.2), step(100, 2.1), finished()):
        view.on(event)
    card = view.card()
    assert card.title == "med: 100 steps in 5 min 50 s"
    assert card.status == "done"
    assert dict(card.facts)["Held-out loss"] == "3.000 → 2.400 (perplexity 20.1 → 11)"
    assert dict(card.facts)["Adapter"] == "runs/med"


def test_a_stopped_training_keeps_the_adapter_and_says_so() -> None:
    view = TrainView("med")
    for event in (STARTED, step(1, 3.2), finished("cancelled", 7)):
        view.on(event)
    assert view.card().title == "med: stopped at step 7 of 100, adapter kept"
    assert view.card().status == "stopped"


def chat_finished(reason: FinishReason = "stop", conversation: str = "default") -> ChatFinished:
    return ChatFinished(conversation, "m2", "Hello **there**", reason, STATS, WINDOW)


@pytest.mark.parametrize(
    ("reason", "ends"),
    [
        ("stop", "context 120 / 8,192 tokens]"),
        ("length", "cut off at 80 tokens (--max-new-tokens)]"),
        ("context", "cut off: the context window is full]"),
        ("cancelled", "stopped]"),
    ],
)
def test_the_line_beneath_a_reply(reason: FinishReason, ends: str) -> None:
    view = ReplyView()
    view.on(chat_finished(reason))
    line = reply_text(view.card()).splitlines()[-1]
    assert line.startswith("[12.3 tokens/s · first token after 0.23 s · context 120 / 8,192 tokens")
    assert line.endswith(ends)


def test_a_reply_grows_and_says_what_was_dropped() -> None:
    view = ReplyView()
    dropped = WindowReport(2048, 1500, 512, (), ("a", "b"), ("a", "b"), 340, 1)
    view.on(ChatStarted(conversation="default", message_id="m1", reply_id="m2", window=dropped))
    view.on(PrefillProgress(512, 1500, 0))
    assert view.card().status == "Reading the prompt: 512 of 1,500 tokens"
    assert (
        view.card().notes[0].text
        == "The context window is full: the model no longer sees the oldest turn (340 tokens)."
    )
    view.on(TextDelta("Hel"))
    view.on(TextDelta("lo"))
    view.on(Notice("careful", "warning"))
    assert view.card().text == "Hello"
    assert reply_text(view.card()).splitlines()[1] == "  Warning: careful"
    view.failed()
    assert reply_text(view.card()).endswith("Hello\n[broken off]")


def test_a_long_curve_stays_small_and_keeps_its_ends() -> None:
    train = tuple((i, 4.0 - i / 5_000) for i in range(1, 10_001))
    svg = curve_svg(Curve(train, ((0, 4.1), (10_000, 2.2)), 10_000))
    assert len(svg) < 8_000
    assert "Loss from 4.000 at step 1 to 2.000" in svg
    assert "10,000" in svg
    line = sparkline(Curve(train), width=20)
    assert len(line) == 20
    assert line[0] == "█"
    assert line[-1] == "▁"


def test_a_flat_curve_can_be_drawn() -> None:
    flat = Curve(((1, 2.0), (2, 2.0)), (), 2)
    assert "nan" not in curve_svg(flat)
    assert sparkline(flat) == "▁▁"


@pytest.mark.parametrize("held_out", [(), ((0, 3.1), (100, 0.9))])
def test_the_picture_of_a_curve_reads_on_white_and_on_black(held_out: tuple[tuple[int, float], ...]) -> None:
    curve = Curve(tuple((i, 3 / (1 + i / 20)) for i in range(1, 101)), held_out, 100)
    png = curve_png(curve)
    assert png == curve_png(curve)  # a kept notebook changes only where its content does
    assert len(png) < 60_000
    pixels = (mpimg.imread(io.BytesIO(png)) * 255).round().astype(int)  # (H, W, 4)
    assert pixels[2, 2, 3] == 0  # the ground is transparent
    assert pixels[60, 500, 3] < 10  # between the lines of the grid
    opaque = {tuple(pixel[:3]) for pixel in pixels.reshape(-1, 4) if pixel[3] == 255}
    assert (0x3B, 0x82, 0xF6) in opaque
    assert ((0xE8, 0x71, 0x0A) in opaque) == bool(held_out)
    assert not {(0, 0, 0), (255, 255, 255)} & opaque
    image = curve_image(curve)
    assert image.startswith('<img src="data:image/png;base64,')
    assert 'alt="Loss from 2.857 at step 1 to 0.500 at step 100"' in image


def test_sample_answers_are_shown_from_before_to_after_and_escaped() -> None:
    view = TrainView("med")
    view.on(STARTED)
    view.on(TrainSample(0, "What is <i>gout</i>?", "", "stop"))
    view.on(step(10, 3.0))
    view.on(TrainSample(10, "What is <i>gout</i>?", "A <b>king</b>\x1b[2J", "length"))
    (answers,) = view.card().answers
    assert answers.given == (("before", "(nothing)"), ("step 10", "A <b>king</b>\x1b[2J …"))
    for number in range(20, 100, 10):
        view.on(TrainSample(number, "What is <i>gout</i>?", f"Answer {number}", "stop"))
    view.on(TrainSample(100, "What is <i>gout</i>?", "Arthritis.", "stop"))
    view.on(step(100, 2.1))
    view.on(finished())
    card = view.card()
    assert [when for when, _ in card.answers[0].given] == ["before", "step 20", "step 50", "step 80", "after"]
    html = card_html(card)
    assert "What is &lt;i&gt;gout&lt;/i&gt;?" in html
    assert "Arthritis." in html
    plain = card_text(card)
    assert "  What is <i>gout</i>?\n    before   (nothing)\n    step 20  Answer 20" in plain
    assert "    after    Arthritis." in plain
    out = io.StringIO()
    Console(file=out, width=100).print(render_card(card))
    assert "after    Arthritis." in out.getvalue()


def test_an_answer_cannot_leave_its_place() -> None:
    view = TrainView("med")
    view.on(STARTED)
    view.on(TrainSample(0, "Q", "</td><script>alert(1)</script>\x1b]0;x\x07", "stop"))
    assert "<script" not in card_html(view.card())
    assert "\x1b" not in card_text(view.card()) + card_html(view.card())
