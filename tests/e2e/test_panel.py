"""The chat panel in JupyterLab, in a real browser."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab, NotebookPage, Panel, pictures_folder, run_browser, run_lab, write_notebook
from tests.magics.test_safety import ATTACKS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# Conversations as a model could have written them, put into the session as the magics keep it.
FILL = """
session = get_ipython().magics_manager.registry["LLMMagics"].session
def fill(name, texts):
    talk = session.new_conversation(name)
    for number, text in enumerate(texts):
        talk.add("user" if number % 2 == 0 else "assistant", text)
"""
LONG = "A paragraph of **some** length about `bursae`, which is what a reply mostly is. " * 5
CODE = "Here it is:\n\n```python\ndef add(a: int, b: int) -> int:\n    # the sum\n    return a + b  # 3\n```\n\n"
TABLE = "| joint | bursae |\n| --- | --- |\n| knee | 11 |\n| shoulder | 8 |\n\n1. Rest.\n2. Ice.\n\n> Ask a physician."
HOSTILE = [
    *ATTACKS,
    "<img src=x onerror='window.hacked=1'>",
    "<script>window.hacked=1</script>",
    "<svg><script>window.hacked=1</script></svg>",
    "[click](javascript:window.hacked=1)",
    "<b>never closed <table><tr><td>",
    "x" * 30_000,
    "```\n" + "y" * 5_000 + "\n```",
]
FRAMES = """
async (log) => {
  const times = [];
  let last = performance.now();
  log.scrollTop = 0;
  const step = log.scrollHeight / 120;
  for (let frame = 0; frame < 120; frame++) {
    log.scrollTop += step;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}
"""
# From the press of the button to the frame in which there is text of the reply.
PAINTED = """
async (panel) => {
  const log = panel.querySelector(".log");
  const before = log.querySelectorAll("article").length;
  const pressed = performance.now();
  panel.querySelector(".composer .main").click();
  for (;;) {
    await new Promise(requestAnimationFrame);
    const all = log.querySelectorAll("article");
    const body = all.length >= before + 2 ? all[all.length - 1].querySelector(".body") : null;
    if (body && !body.querySelector(".waiting") && body.textContent.length)
      return [pressed, performance.now()].map((time) => (performance.timeOrigin + time) / 1000);
    if (performance.now() - pressed > 20000) throw new Error("no text");
  }
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with run_lab(tmp_path_factory.mktemp("lab"), theme="JupyterLab Light") as lab:
        yield lab


def open_panels(browser: Any, lab: Lab, name: str, cells: list[str]) -> NotebookPage:
    """Run a notebook whose first cells load a model."""
    write_notebook(lab.folder / name, cells)
    notebook = NotebookPage(browser, lab, name)
    notebook.run_all()
    notebook.wait()
    return notebook


def test_talking_overflowing_branching(browser: Any, lab: Lab, pictures: Path) -> None:
    notebook = open_panels(
        browser,
        lab,
        "talk.ipynb",
        [
            "%load_ext llmmagic",
            "%llm_load tiny-random --max-context 400",
            "%llm_chat --seed 1 --max-new-tokens 60",
            "%llm_chat",  # another one of the same conversation
        ],
    )
    panel, second = Panel(notebook, 0), Panel(notebook, 1)
    panel.ready()
    panel.say("What is bursitis?")
    assert panel.messages.count() == 2
    assert "tokens/s · first token after" in panel.state.inner_text()
    assert second.messages.count() == 2, "both panels show it"
    forecast = ""
    for number in range(8):
        panel.draft(f"And what else should I know, part {number}?")
        forecast = panel.root.locator(".forecast").inner_text()
        panel.send()
        if forecast:
            break
    assert forecast.startswith("Sending drops ")
    out = panel.root.locator(".message.out")
    out.first.wait_for(state="attached")
    cut = panel.root.locator(".cut")
    assert cut.inner_text() == f"the model no longer sees {out.count()} messages above"
    assert cut.evaluate("line => line.previousElementSibling.classList.contains('out')")
    cut.scroll_into_view_if_needed()
    notebook.picture(pictures / "panel-overflow-light.png")

    # Another reply beside the last one, and back, by keys alone.
    last = panel.messages.last
    first_text = last.locator(".body").inner_text()
    last.locator('[data-action="again"]').focus()
    notebook.page.keyboard.press("Enter")
    panel.root.get_by_text("2/2").wait_for()
    panel.ready()
    panel.messages.last.locator('[aria-label="Previous branch"]').press("Enter")
    panel.root.get_by_text("1/2").wait_for()
    assert panel.messages.last.locator(".body").inner_text() == first_text
    panel.messages.last.locator('[data-action="good"]').click()
    panel.root.locator('.message.last [data-action="good"][aria-pressed="true"]').wait_for()
    second.root.locator('.message.last [data-action="good"][aria-pressed="true"]').wait_for()
    panel.messages.last.locator('[data-action="better"]').click()
    panel.root.locator(".editor textarea").fill("A bursa that is inflamed.")
    notebook.page.keyboard.press("Control+Enter")
    panel.root.locator(".better", has_text="A bursa that is inflamed.").wait_for()
    notebook.page.close()


def test_stop_while_it_writes(browser: Any, lab: Lab) -> None:
    notebook = open_panels(
        browser,
        lab,
        "stop.ipynb",
        ["%load_ext llmmagic", "%llm_load tiny-random", "%llm_chat --seed 3 --temperature 1 --max-new-tokens 1900"],
    )
    panel = Panel(notebook, 0)
    panel.ready()
    stopped = False
    for attempt in range(5):  # a tiny model may come to its end by itself before the button is pressed
        panel.draft(f"go on, {attempt}")
        panel.press_send()
        panel.root.locator(".composer .stop").click()
        panel.ready()
        stopped = "stopped before its end" in panel.messages.last.inner_text()
        if stopped:
            break
    assert stopped
    before = panel.messages.last.locator(".body").inner_text()
    panel.messages.last.locator('[data-action="continue"]').click()
    panel.root.locator(".composer .stop").wait_for()
    panel.input.press("Escape")
    panel.ready()
    assert panel.messages.last.locator(".body").inner_text().startswith(before[:20])
    # d d deletes a cell in JupyterLab, but not while somebody reads here
    panel.root.locator(".log").focus()
    for key in ("d", "d", "Shift+Enter"):
        notebook.page.keyboard.press(key)
    assert notebook.page.locator(".jp-CodeCell").count() == 3
    notebook.page.close()


def test_a_panel_while_a_cell_trains_and_without_a_model(browser: Any, lab: Lab) -> None:
    rows = [{"question": f"What is {n}?", "answer": f"A number, {n}."} for n in range(24)]
    notebook = open_panels(
        browser,
        lab,
        "busy.ipynb",
        [
            "%load_ext llmmagic",
            "%llm_load tiny-random",
            "%llm_chat --max-new-tokens 30",
            f"rows = {rows!r}",
            "if 'started' in globals():\n"
            "    get_ipython().run_cell_magic('llm_train', 'med --data rows', 'max_steps: 100000\\noutput_dir: med')\n"
            "started = True",
            "if 'twice' in globals():\n    get_ipython().run_line_magic('llm_unload', '')\ntwice = True",
        ],
    )
    panel = Panel(notebook, 0)
    panel.ready()
    notebook.run_cell(4)
    panel.root.locator('xpath=self::*[@data-activity="busy"]').wait_for(timeout=60_000)
    assert "A train operation is running on this session." in panel.state.inner_text()
    panel.input.fill("are you there?")
    panel.input.press("Enter")
    panel.root.locator(".line", has_text="A train operation is running").wait_for()
    assert panel.input.input_value() == "are you there?"
    notebook.page.wait_for_selector('.jp-OutputArea-output :text("Loss")', timeout=120_000)
    notebook.interrupt()
    notebook.wait()
    panel.ready()
    assert panel.input.input_value() == "are you there?"
    assert panel.messages.count() == 0
    panel.send()
    assert panel.messages.count() == 2
    notebook.run_cell(5)
    panel.root.locator('xpath=self::*[@data-activity="none"]').wait_for()
    assert panel.state.inner_text().startswith("No model is loaded: %llm_load loads one.")
    notebook.run_cell(1)
    notebook.wait()
    panel.ready()
    panel.say("and now?")
    assert panel.messages.count() == 4
    notebook.page.close()


def test_restart_run_all_save_and_read_without_a_kernel(browser: Any, lab: Lab, pictures: Path) -> None:
    notebook = open_panels(
        browser, lab, "saved.ipynb", ["%load_ext llmmagic", "%llm_load tiny-random", "%llm_chat --max-new-tokens 20"]
    )
    Panel(notebook, 0).ready()
    notebook.restart_and_run_all()
    notebook.wait()
    panel = Panel(notebook, 0)
    panel.ready()
    panel.say("What is bursitis?")
    copy = notebook.output(2).locator('[class^="llmmagic-copy-"]')
    copy.get_by_text("What is bursitis?").first.wait_for(state="attached")
    assert not copy.is_visible(), "the panel shows it already"
    # The browser is closed and opened again: the panel comes back with everything that was said.
    notebook.save()
    notebook.page.reload()
    notebook.page.wait_for_selector(".llmmagic-panel .message", timeout=60_000)
    assert notebook.page.locator(".llmmagic-panel .message").first.inner_text().endswith("What is bursitis?")
    notebook.page.close()
    lab.stop_kernels()
    again = NotebookPage(browser, lab, "saved.ipynb", kernel=False)
    assert "What is bursitis?" in again.output(2).last.inner_text()
    again.picture(pictures / "panel-without-a-kernel.png")
    again.page.close()


def test_nothing_that_a_model_has_written_does_anything(browser: Any, lab: Lab, pictures: Path) -> None:
    texts = [text for attack in HOSTILE for text in ("show me", attack)]
    notebook = open_panels(
        browser,
        lab,
        "hostile.ipynb",
        [
            "%load_ext llmmagic",
            "%llm_load tiny-random",
            f"{FILL}\nfill('hostile', {texts!r})",
            "%llm_chat --conversation hostile",
        ],
    )
    loaded: list[str] = []
    dialogs: list[str] = []
    notebook.page.on("request", lambda request: loaded.append(request.url))
    notebook.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    panel = Panel(notebook, 0)
    panel.ready()
    assert panel.messages.count() == len(texts)
    for number in range(0, len(texts), 6):  # what is out of view is drawn when it comes into view
        panel.messages.nth(number).scroll_into_view_if_needed()
    body = panel.root.locator(".message .body")
    assert body.locator("img, script, iframe, style, svg, form, input").count() == 0
    assert "<script>window.hacked=1</script>" in panel.root.locator(".log").text_content()
    links = body.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links
    assert all(link.startswith("https://") for link in links), links
    assert notebook.page.evaluate("window.hacked") is None
    assert dialogs == []
    assert not [url for url in loaded if "evil" in url]
    assert panel.too_wide() == []
    notebook.picture(pictures / "panel-hostile.png")
    notebook.page.close()


def test_the_first_token_is_painted_at_once_and_500_messages_scroll(browser: Any, lab: Lab) -> None:
    notebook = open_panels(
        browser,
        lab,
        "fast.ipynb",
        [
            "%load_ext llmmagic",
            "%llm_load tiny-random",
            f"{FILL}\nfill('long', ['What is it?', {LONG!r} + {CODE!r}] * 250)",
            "%llm_chat --seed 1 --temperature 1 --max-new-tokens 40 --conversation fast",
            "%llm_chat --conversation long",
            "print([m.created.timestamp() for m in session.conversation('fast').path() if m.role == 'assistant'])",
        ],
    )
    panel, long = Panel(notebook, 0), Panel(notebook, 1)
    panel.ready()
    pressed_s, painted_s, engine_s = [], [], []
    for number in range(7):
        panel.draft(f"number {number}")
        pressed, painted = panel.root.evaluate(PAINTED)
        pressed_s.append(pressed)
        painted_s.append(painted)
        panel.ready()
        engine_s.append(float(panel.state.inner_text().rpartition("first token after ")[2].split()[0]))
    notebook.run_cell(5)
    notebook.wait()
    began_s = json.loads(notebook.output(5).inner_text())
    # A reply is made right before the engine is called: its first token is there so much later.
    late_s = [painted - (began + engine) for painted, began, engine in zip(painted_s, began_s, engine_s, strict=True)]
    whole_s = [painted - pressed for painted, pressed in zip(painted_s, pressed_s, strict=True)]
    print(f"painted {_ms(late_s)} ms after the engine had it, {_ms(whole_s)} ms after the press")  # noqa: T201
    assert statistics.median(late_s) < 0.1
    end = time.monotonic() + 60
    while long.messages.count() < 500:
        assert time.monotonic() < end
        notebook.page.wait_for_timeout(100)
    long.root.scroll_into_view_if_needed()
    frames = sorted(long.root.locator(".log").evaluate(FRAMES))
    print(f"frames: median {frames[60]:.1f} ms, 95 % {frames[114]:.1f} ms, longest {frames[-1]:.1f} ms")  # noqa: T201
    assert frames[60] < 34
    assert frames[114] < 100
    notebook.page.close()


def _ms(times_s: list[float]) -> str:
    return f"{1000 * statistics.median(times_s):.0f} (longest {1000 * max(times_s):.0f})"


LOOKS = [
    "%load_ext llmmagic",
    "%llm_load tiny-random",
    f"{FILL}\nfill('looks', ['What is bursitis?', {LONG!r}, 'Add two numbers in Python.', {CODE + TABLE!r}])\n"
    "talk = session.conversation('looks')\n_ = talk.pin(talk.path()[0].id)",
    "%llm_chat --conversation looks",
]


def test_how_it_looks(browser: Any, lab: Lab, pictures: Path) -> None:
    notebook = open_panels(browser, lab, "looks.ipynb", LOOKS)
    panel = Panel(notebook, 0)
    panel.ready()
    panel.draft("And why\nis that so?")
    notebook.picture(pictures / "panel-light.png")
    for tab in ("list", "system", "settings"):
        panel.root.locator(f'[data-tab="{tab}"]').click()
        panel.root.locator(".drawer > *").first.wait_for()
        last = panel.root.locator(".drawer button").last
        if tab != "list":  # which may be longer than there is room for
            assert inside(panel.root.locator(".drawer"), last)
        notebook.picture(pictures / f"panel-{tab}.png")
        notebook.page.keyboard.press("Escape")
        panel.root.locator(".drawer").wait_for(state="hidden")
    panel.messages.nth(2).hover()
    panel.messages.nth(2).locator('[data-action="edit"]').click()
    notebook.page.wait_for_timeout(300)
    assert inside(panel.root.locator(".log"), panel.root.locator(".editor"))
    notebook.picture(pictures / "panel-edit.png")
    notebook.page.keyboard.press("Escape")
    assert readable(panel)
    notebook.page.close()


def test_how_it_looks_dark_and_narrow(browser: Any, pictures: Path, tmp_path: Path) -> None:
    with run_lab(tmp_path / "dark", theme="JupyterLab Dark") as dark:
        notebook = open_panels(browser, dark, "looks.ipynb", LOOKS)
        panel = Panel(notebook, 0)
        panel.ready()
        panel.draft("And why\nis that so?")
        notebook.picture(pictures / "panel-dark.png")
        assert readable(panel)
        panel.root.locator('[data-tab="settings"]').click()
        panel.root.locator(".settings").wait_for()
        for width in (640, 400):
            notebook.page.set_viewport_size({"width": width, "height": 1400})
            notebook.page.wait_for_timeout(600)
            panel.root.scroll_into_view_if_needed()
            assert panel.too_wide() == []
            notebook.picture(pictures / f"panel-{width}-dark.png")
        notebook.page.close()


def readable(panel: Panel) -> bool:
    """Whether text stands out from the page."""
    ink, page = panel.root.evaluate("node => [getComputedStyle(node).color, getComputedStyle(node).backgroundColor]")
    return contrast(ink, page) >= 7


def inside(place: Any, thing: Any) -> bool:
    """Whether all of a thing can be seen in its place."""
    outer, inner = place.bounding_box(), thing.bounding_box()
    return bool(outer["y"] - 1 <= inner["y"] and inner["y"] + inner["height"] <= outer["y"] + outer["height"] + 1)


def contrast(one: str, other: str) -> float:
    """Of two colours, ``rgb(r, g, b)``, as WCAG 2.1 defines it."""

    def luminance(colour: str) -> float:
        channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)
