"""Loading the extension: instant, light, and gone without a trace."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.magics.conftest import ROOT, make_shell

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "pandas",
    "numpy",
    "ipywidgets",
    "pydantic",
    "rich",
    "yaml",
)
SCRIPT = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
# what takes as long on this machine now: one module of the standard library that is imported by few
started = time.perf_counter()
import xmlrpc.client, xml.dom.minidom, mailbox, pydoc_data.topics
baseline_s = time.perf_counter() - started
before = set(sys.modules)
started = time.perf_counter()
shell.run_line_magic("load_ext", "llmmagic")
load_s = time.perf_counter() - started
print(json.dumps({"load_s": load_s, "baseline_s": baseline_s, "new": sorted(set(sys.modules) - before)}))
"""


def measure() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_loading_is_instant_and_imports_nothing_heavy() -> None:
    measured = measure()
    new = measured["new"]
    assert isinstance(new, list)
    assert not {name.partition(".")[0] for name in new} & set(HEAVY)
    assert "llmmagic.core.session" not in new
    # 100 ms on an idle machine; on a busy one as much longer as other imports take
    best = min((measured, measure(), measure()), key=lambda run: float(str(run["load_s"])))
    assert float(str(best["load_s"])) < max(0.1, 3 * float(str(best["baseline_s"])))


def test_unloading_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    shell = make_shell()
    try:
        manager = shell.input_transformer_manager
        with_extension = len(manager.token_transformers), len(manager.cleanup_transforms)
        assert shell.find_line_magic("llm_chat") is not None
        shell.run_line_magic("load_ext", "llmmagic")
        assert (len(manager.token_transformers), len(manager.cleanup_transforms)) == with_extension, "only once"
        shell.run_line_magic("unload_ext", "llmmagic")
        for name in ("llm_load", "llm_train", "llm_chat", "llm_status", "llm_unload", "llm_save"):
            assert shell.find_line_magic(name) is None
            assert shell.find_cell_magic(name) is None
        assert (len(manager.token_transformers), len(manager.cleanup_transforms)) == tuple(
            n - 1 for n in with_extension
        )
        assert not shell.Completer.custom_matchers
        shell.run_line_magic("load_ext", "llmmagic")
        assert shell.find_cell_magic("llm_train") is not None
        shell.run_line_magic("unload_ext", "llmmagic")
    finally:
        InteractiveShell.clear_instance()


def test_every_magic_documents_its_options() -> None:
    shell = make_shell()
    try:
        for name in ("llm_load", "llm_train", "llm_chat", "llm_save"):
            magic = shell.find_line_magic(name)
            assert magic.__doc__ is not None
            assert magic.__doc__.startswith("::\n\n  %" + name)
            for action in magic.parser._actions:
                assert action.help, f"{name} {action.dest}"
    finally:
        shell.run_line_magic("unload_ext", "llmmagic")
        InteractiveShell.clear_instance()
