"""The project around the code: versions, dependencies, commands, layers, notebooks, generated pages."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llmmagic

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("llmmagic", "tui", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def constraints() -> list[Requirement]:
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    return [Requirement(line) for line in lines]


def requirements(project: dict[str, Any]) -> list[Requirement]:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_one_version_everywhere(project: dict[str, Any]) -> None:
    newest = re.search(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert (project["version"], newest[1]) == (llmmagic.__version__, llmmagic.__version__)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("platform", "machine"), [("linux", "x86_64"), ("darwin", "arm64"), ("win32", "AMD64")])
def test_constraints_pin_every_dependency_once(
    project: dict[str, Any], constraints: list[Requirement], version: str, platform: str, machine: str
) -> None:
    environment = {
        "python_version": version,
        "python_full_version": f"{version}.9",
        "sys_platform": platform,
        "os_name": "nt" if platform == "win32" else "posix",
        "platform_machine": machine,
    }
    pins: dict[str, Requirement] = {}
    for pin in constraints:
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in pins, f"{name} is pinned twice"
            pins[name] = pin
    for needed in requirements(project):
        if needed.marker is None or needed.marker.evaluate(environment):
            pin = pins[canonicalize_name(needed.name)]
            (exact,) = pin.specifier
            assert exact.operator == "=="
            assert needed.specifier.contains(exact.version), f"{pin} is outside {needed}"


# What Colab brought in 2025, where it was behind everyone else; the rest it has in newer versions than we need.
@pytest.mark.parametrize(("name", "version"), [("ipython", "7.34.0"), ("ipykernel", "6.17.1"), ("ipywidgets", "7.7.1")])
def test_colab_need_not_upgrade_its_notebook(project: dict[str, Any], name: str, version: str) -> None:
    bounds = [needed for needed in requirements(project) if needed.name == name]
    assert bounds
    assert all(needed.specifier.contains(version) for needed in bounds)


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = dict(re.findall(r"<!-- run: (\w+) -->\n```sh\n(.+?)\n```\n", read("README.md")))
    assert commands["main"].startswith('pip install -c constraints.txt ".[notebook]" && ')
    assert commands["tests"] == 'pip install -c constraints.txt -e ".[dev]" && pytest'
    script = read(".ci/run")
    for name in commands:
        assert f"$(readme_command {name})" in script
    assert commands["tests"].partition(" && ")[0] in read("CONTRIBUTING.md")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def test_layers_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tui")]), "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, env=env, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_executed_and_static(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    # GitHub refuses to render a notebook whose widget state is incomplete; ours need none.
    assert "widgets" not in notebook["metadata"]
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        assert cell["execution_count"] == number + 1, "run it again from the top: python notebooks/execute.py"
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            if "text/html" in output.get("data", {}):
                assert "".join(output["data"]["text/plain"]).strip()


def test_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.render().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: python docs/generate.py"


def test_pages_link_to_what_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").rglob("*.md")]
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("https://", "mailto:")) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
