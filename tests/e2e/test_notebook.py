"""The magics in JupyterLab, in a real browser: run, interrupt, save, open again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.e2e.lab import Lab, NotebookPage, pictures_folder, run_browser, run_lab, write_notebook
from tests.magics.conftest import ROWS
from tests.magics.test_safety import ATTACKS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# A reply as a model could write it, shown the way a reply is shown.
UNTRUSTED = f"""
from llmmagic.core.events import ChatFinished, GenerationStats, WindowReport
from llmmagic.magics.results import Reply
from llmmagic.magics.screens.kernel import KernelFrontEnd
from llmmagic.magics.views.card import Card, Note
attacks = {ATTACKS!r} + ["<img src=x onerror='window.hacked=1'>", "<script>window.hacked=1</script>"]
text = "\\n\\n".join(attacks)
stats, window = GenerationStats(1, 0, 1, 0.1, 0.1, 1.0), WindowReport(100, 1, 1, ())
KernelFrontEnd(get_ipython()).show(Card(text, "done", facts=tuple((a, a) for a in attacks), notes=(Note(text),)))
Reply(ChatFinished("default", "m", text, "stop", stats, window))
"""
CELLS = [
    "%load_ext llmmagic",
    "%llm_load tiny-random",
    f"rows = {ROWS!r}",
    "%%llm_train med --data rows --eval-data rows\nmax_steps: 40\noutput_dir: results",
    "%llm_chat --seed 1 --max-new-tokens 60 What is bursitis?",
    "%llm_status",
    UNTRUSTED,
    "%llm_load no-such-model",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with run_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with run_lab(tmp_path_factory.mktemp("lab"), theme="JupyterLab Light") as lab:
        write_notebook(lab.folder / "tour.ipynb", CELLS)
        write_notebook(
            lab.folder / "long.ipynb", [*CELLS[:3], "%%llm_train cut --data rows\nmax_steps: 100000\noutput_dir: cut"]
        )
        yield lab


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_folder(tmp_path_factory)


def test_run_all_save_and_open_again(browser: Any, lab: Lab, pictures: Path) -> None:
    notebook = NotebookPage(browser, lab, "tour.ipynb")
    notebook.run_all()
    notebook.wait()
    assert "90,624 in 2 layers" in notebook.output(1).inner_text()
    training = notebook.output(3)
    assert "med: 40 steps in" in training.inner_text()
    assert training.locator("img").evaluate("image => image.naturalWidth") > 100, "the loss curve"
    assert notebook.output(3).locator(".jupyter-widgets").count() == 0
    assert training.locator('[role="progressbar"]').count() == 0, "what is live has gone"
    assert "tokens/s · first token after" in notebook.output(4).inner_text()
    assert notebook.output(7).inner_text().startswith("ModelNotFoundError: 'no-such-model'")
    name, value = training.locator("td").nth(0).bounding_box(), training.locator("td").nth(1).bounding_box()
    assert name["x"] + name["width"] <= value["x"] + 1, "the columns stand beside each other"
    notebook.screenshot(pictures / "notebook-light.png")
    notebook.save()
    notebook.page.close()

    saved = nbformat.read(lab.folder / "tour.ipynb", as_version=4)
    assert "widgets" not in saved.metadata
    assert set(saved.cells[3].outputs[0].data) == {"text/html", "text/plain"}
    lab.stop_kernels()
    again = NotebookPage(browser, lab, "tour.ipynb")
    assert "med: 40 steps in" in again.output(3).inner_text()
    assert again.output(3).locator("img").evaluate("image => image.naturalWidth") > 100
    again.page.close()


def test_nothing_that_a_model_writes_does_anything(browser: Any, lab: Lab) -> None:
    notebook = NotebookPage(browser, lab, "tour.ipynb")
    loaded: list[str] = []
    notebook.page.on("request", lambda request: loaded.append(request.url))
    notebook.run_all()
    notebook.wait()
    output = notebook.page.locator(".jp-CodeCell").nth(6).locator(".jp-OutputArea-child")
    assert output.count() == 2
    assert notebook.page.evaluate("window.hacked") is None
    assert output.locator("img, script, iframe, style").count() == 0
    links = output.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert links
    assert all(link.startswith("https://") for link in links), links
    assert "<script>alert(1)</script>" in output.nth(1).inner_text()
    assert not [url for url in loaded if "evil" in url]
    notebook.page.close()


def test_the_stop_button_stops_training_and_keeps_the_adapter(browser: Any, lab: Lab, pictures: Path) -> None:
    notebook = NotebookPage(browser, lab, "long.ipynb")
    notebook.run_all()
    notebook.page.wait_for_selector('.jp-OutputArea-output :text("Loss")', timeout=120_000)
    bar = notebook.output(3).locator('[role="progressbar"]')
    assert bar.count() == 1
    notebook.screenshot(pictures / "notebook-training.png")
    notebook.interrupt()
    notebook.wait()
    shown = notebook.output(3).inner_text()
    assert "stopped at step" in shown
    assert "adapter kept" in shown
    assert bar.count() in (0, 1)
    assert (lab.folder / "cut" / "adapter_config.json").exists()

    # Once more, and the browser is closed while it runs: opened again, the notebook shows how it ended.
    notebook.run_cell(3)
    bar.wait_for(timeout=60_000)
    notebook.save()
    notebook.page.reload()
    notebook.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    notebook.page.wait_for_timeout(3000)
    notebook.interrupt()
    notebook.output(3).get_by_text("stopped at step").wait_for(timeout=60_000)
    notebook.page.close()


def test_dark_narrow_and_not_trusted(browser: Any, lab: Lab, pictures: Path, tmp_path: Path) -> None:
    with run_lab(tmp_path / "dark", theme="JupyterLab Dark") as dark:
        # another server has not signed it, so JupyterLab sanitises what it shows
        (dark.folder / "tour.ipynb").write_text(
            (lab.folder / "tour.ipynb").read_text(encoding="utf-8"), encoding="utf-8"
        )
        notebook = NotebookPage(browser, dark, "tour.ipynb")
        assert "med: 40 steps in" in notebook.output(3).inner_text()
        assert "Held-out loss" in notebook.output(3).inner_text()
        assert notebook.output(3).locator("img").evaluate("image => image.naturalWidth") > 100
        notebook.screenshot(pictures / "notebook-dark-untrusted.png")
        notebook.run_all()
        notebook.wait()
        notebook.screenshot(pictures / "notebook-dark.png")
        notebook.page.set_viewport_size({"width": 640, "height": 2400})
        notebook.page.wait_for_timeout(800)
        notebook.page.screenshot(path=pictures / "notebook-narrow.png")
        shown = notebook.page.locator(".llmmagic-card, .llmmagic-reply")
        assert shown.count() >= 5
        too_wide = shown.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length")
        assert too_wide == 0
        notebook.page.close()
