"""What the three ways to start import: each package is on a list, so that a new one is a decision and no accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Start:
    """A way to start.

    Attributes:
        bare: What runs before, in any program of its kind.
        code: What starts.
        packages: Top-level packages that it may import besides the standard library, llmmagic and what `bare` has.
        ratio: How many times the CPU time of the bare program it may take up to then.
    """

    bare: str
    code: str
    packages: frozenset[str]
    ratio: float


STARTS = {
    "load_ext": Start(
        "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()",
        "shell.run_line_magic('load_ext', 'llmmagic')",
        frozenset({"IPython"}),
        1.6,
    ),
    "llmchat --help": Start(
        "import argparse, contextlib, io",
        "from llmmagic_tui.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])",
        frozenset(),
        4.0,
    ),
    "llmchat": Start(
        "import asyncio\n"
        "from textual.app import App\n"
        "from textual.widgets import Footer, Header, Input, Markdown\n"
        "class Bare(App):\n"
        "    def compose(self):\n"
        "        yield from (Header(), Markdown('# Hello'), Input(), Footer())\n"
        "async def look(app):\n"
        "    async with app.run_test(size=(120, 40)) as pilot:\n"
        "        await pilot.pause()\n"
        "asyncio.run(look(Bare()))",
        "from llmmagic_tui.app import ChatApp\n"
        "from llmmagic_tui.settings import Settings\n"
        "asyncio.run(look(ChatApp(Settings(model='tiny-random'))))",
        frozenset({"platformdirs", "rich", "textual", "typing_extensions"}),
        3.0,
    ),
}
REPORT = """
print(json.dumps({"bare_s": bare_s, "all_s": time.process_time(), "new": sorted(set(sys.modules) - before)}))
"""


def run(start: Start, folder: Path) -> dict[str, object]:
    """Start in a process of its own; CPU times in seconds, and the modules that came in."""
    before = "\nbefore, bare_s = set(sys.modules), time.process_time()\n"
    program = f"import json, sys, time\n{start.bare}{before}{start.code}{REPORT}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tui"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "LLMMAGIC_DATA_DIR": str(folder),
        "LLMMAGIC_CONFIG_DIR": str(folder),
        "IPYTHONDIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def cpu_ratio(found: dict[str, object]) -> float:
    """CPU time of the whole program, as a multiple of the bare one's."""
    return float(str(found["all_s"])) / float(str(found["bare_s"]))


@pytest.mark.parametrize("name", STARTS)
def test_starting_imports_only_what_is_listed_and_takes_no_longer(name: str, tmp_path: Path) -> None:
    start = STARTS[name]
    found = run(start, tmp_path)
    modules = found["new"]
    assert isinstance(modules, list)
    packages = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
    ours = {package for package in packages if package.startswith("llmmagic")}
    assert ours
    assert packages - ours - start.packages == set(), "not on the list of what starting may import"
    ratio = cpu_ratio(found)
    for _ in range(2):
        if ratio > start.ratio:  # something else ran: the smallest ratio is the truest
            ratio = min(ratio, cpu_ratio(run(start, tmp_path)))
    assert ratio <= start.ratio
