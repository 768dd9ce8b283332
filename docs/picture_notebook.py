"""Make the pictures of the notebook from the real thing: ``python docs/picture_notebook.py``.

JupyterLab in headless Chromium, as the tests run it; the ``demo`` model trains for a few steps, and answers in a small
context window until older turns fall out of it. Takes some minutes.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
WIDTH = 980
MOST_BYTES = 200_000
QUESTIONS = ("What is bursitis?", "How is it treated?", "Write a Python function that adds two numbers.")
DRAFT = "What was the first thing I asked about?"


def train(notebook: Any) -> bytes:
    """A training cell in the middle of its run."""
    notebook.page.wait_for_selector('.jp-OutputArea-output svg[role="img"]', timeout=600_000)
    notebook.page.wait_for_timeout(20_000)
    cell = notebook.page.locator(".jp-CodeCell").nth(2)
    cell.scroll_into_view_if_needed()
    picture: bytes = cell.screenshot()
    notebook.wait()
    return picture


def talk(notebook: Any, panel: Any) -> bytes:
    """A conversation, with one more message typed and not yet sent."""
    panel.ready()
    for question in QUESTIONS:
        panel.say(question)
    panel.draft(DRAFT)
    notebook.page.wait_for_timeout(1000)
    cut = panel.root.locator(".cut")
    if cut.count():
        cut.scroll_into_view_if_needed()
    picture: bytes = panel.root.screenshot()
    return picture


def save(picture: bytes, path: Path) -> None:
    """Write a picture with as many colours as it needs, and few enough bytes."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path.name} has {size:,} bytes, more than {MOST_BYTES:,}")


def main() -> None:
    """Take both pictures."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tui")]
    from tests.e2e.lab import NotebookPage, Panel, run_browser, run_lab, write_notebook

    data = ROOT / "notebooks" / "data"
    cells = [
        "%load_ext llmmagic",
        "%llm_load demo --max-context 208",
        "%%llm_train medical --data data/medical_train.jsonl\nmax_steps: 12\nlearning_rate: 5e-4\nmax_length: 160\n"
        "output_dir: medical\nper_device_train_batch_size: 1\ngradient_accumulation_steps: 1\nlogging_steps: 1",
        "%llm_chat --temperature 0 --max-new-tokens 70",
    ]
    with tempfile.TemporaryDirectory() as folder, run_lab(Path(folder), theme="JupyterLab Light") as lab:
        (lab.folder / "data").symlink_to(data)
        write_notebook(lab.folder / "picture.ipynb", cells)
        with run_browser() as browser:
            notebook = NotebookPage(browser, lab, "picture.ipynb")
            notebook.page.set_viewport_size({"width": WIDTH, "height": 1200})
            notebook.run_all()
            IMAGES.mkdir(exist_ok=True)
            save(train(notebook), IMAGES / "training.png")
            save(talk(notebook, Panel(notebook, 0)), IMAGES / "panel.png")


if __name__ == "__main__":
    main()
