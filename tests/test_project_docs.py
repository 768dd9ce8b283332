"""The pages tell the truth: their code runs, the messages they explain exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block that cannot run here says why, in a comment above it.
CELL = re.compile(r"(?P<skipped><!-- not run: .+? -->\n)?```python\n(?P<code>.+?)```", re.DOTALL)


def cells(page: Path) -> list[str]:
    """The code of a page that is to be run, with a model that needs no download in the place of the real one."""
    found = [match["code"] for match in CELL.finditer(page.read_text(encoding="utf-8")) if not match["skipped"]]
    return [re.sub(r"\bdemo\b", "tiny-random", code) for code in found]


RUNNABLE = [page for page in PAGES if page.parent.name != "reference" and cells(page)]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A shell without a front end, in a folder that holds the notebooks' data."""
    (tmp_path / "data").mkdir()
    for file in (ROOT / "notebooks" / "data").glob("*.jsonl"):
        (tmp_path / "data" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    yield shell
    if "llmmagic" in shell.extension_manager.loaded:
        shell.extension_manager.unload_extension("llmmagic")
    InteractiveShell.clear_instance()


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_of_a_page_runs(shell: InteractiveShell, page: Path) -> None:
    for code in cells(page):
        result = shell.run_cell(code, store_history=False)
        assert result.success, f"{result.error_before_exec or result.error_in_exec}\n{code}"


def message_patterns() -> list[re.Pattern[str]]:
    """Every text in the sources that could be a message, with anything in the place of its variables."""
    patterns = []
    for path in (path for folder in ("llmmagic", "tui") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if sum(len(text) for text in texts if isinstance(text, str)) >= 12:
                pattern = "".join(re.escape(text) if isinstance(text, str) else ".+?" for text in texts)
                patterns.append(re.compile(pattern, re.DOTALL))
    return patterns


def test_messages_that_are_explained_exist() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(messages) > 10
    patterns = message_patterns()
    assert [message for message in messages if not any(pattern.fullmatch(message) for pattern in patterns)] == []
