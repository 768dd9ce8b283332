"""Write the reference pages from the code: ``python docs/generate.py``.

The pages in ``docs/reference/`` are kept in the repository, so that they can be read where the code is read;
``tests/test_project.py`` says when they are out of date.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

REFERENCE = Path(__file__).parent / "reference"
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
DO_NOT_EDIT = "<!-- Made from the code by docs/generate.py: change the docstrings, then run it. -->\n\n"


# --- docstrings -> Markdown --------------------------------------------------------------------------------------


def markdown(docstring: str) -> str:
    """A Google-style docstring as Markdown: sections become lists, doctests become code blocks."""
    blocks: list[str] = []
    section = ""
    for part in _parts(inspect.cleandoc(docstring)):
        head, _, body = part.partition("\n")
        if head.rstrip(":") in SECTIONS and head.endswith(":"):
            section = head.rstrip(":")
            body = textwrap.dedent(body)
            blocks.append(f"**{section}**\n\n{_section(section, body)}")
        else:
            blocks.append(_prose(part))
    return "\n\n".join(blocks)


def _parts(text: str) -> list[str]:
    """Paragraphs, where a section's heading keeps all that is indented under it."""
    parts: list[str] = []
    for line in text.splitlines():
        heads = line.rstrip(":") in SECTIONS and line.endswith(":")
        in_section = bool(parts) and parts[-1].partition("\n")[0].rstrip(":") in SECTIONS
        if heads or not parts or (in_section and line and not line.startswith(" ")):
            parts.append(line)
        elif not line and not in_section:
            parts.append("")
        else:
            parts[-1] = f"{parts[-1]}\n{line}" if parts[-1] else line
    merged: list[str] = []
    for part in filter(str.strip, parts):
        if merged and _is_drawing(part) and _is_drawing(merged[-1]):
            merged[-1] += f"\n\n{part}"
        else:
            merged.append(part)
    return [part.rstrip() for part in merged]


def _is_drawing(text: str) -> bool:
    return all(line.startswith("    ") or not line for line in text.splitlines())


def _section(name: str, body: str) -> str:
    if name == "Example":
        return f"```pycon\n{body.strip()}\n```"
    if name in ("Returns", "Yields"):
        return _inline(body.strip())
    items = re.split(r"\n(?=\S)", body.strip())
    lines = []
    for item in items:
        label, _, text = item.partition(":")
        lines.append(f"- `{label.strip()}`: {_inline(' '.join(text.split()))}")
    return "\n".join(lines)


def _prose(text: str) -> str:
    """A paragraph; one that is indented throughout is a drawing."""
    if _is_drawing(text):
        return f"```text\n{textwrap.dedent(text)}\n```"
    return _inline(text)


def _inline(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", re.sub(r"::$", ":", text))


def field_docs(source: str, class_name: str) -> dict[str, str]:
    """The strings under a class's fields, which Python itself does not keep."""
    tree = ast.parse(source)
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    docs: dict[str, str] = {}
    for statement, below in itertools.pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            docs[statement.target.id] = inspect.cleandoc(below.value.value)
    return docs


# --- pages -------------------------------------------------------------------------------------------------------


def classes_of(module_name: str) -> list[type]:
    """The public classes a module defines, in the order of its source."""
    module = importlib.import_module(module_name)
    found = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and not name.startswith("_")
        # A package has what its modules define and it exports.
        and (value.__module__ == module_name or value.__module__.startswith(f"{module_name}."))
    ]
    return sorted(found, key=lambda cls: (_place(module, cls), inspect.getsourcelines(cls)[1]))


def _place(package: ModuleType, cls: type) -> int:
    """Where a package's source first names the module that defines the class."""
    return inspect.getsource(package).find(cls.__module__)


def fields_table(cls: type, source: str, module: ModuleType) -> str:
    """The fields of a configuration class as a table."""
    docs = field_docs(source, cls.__name__)
    rows = ["| setting | type | default | |", "| --- | --- | --- | --- |"]
    for name, parameter in inspect.signature(cls).parameters.items():
        if name == "warnings":  # found by llmmagic, not set by anyone
            continue
        default = parameter.default
        shown = "" if default is inspect.Parameter.empty else f"`{default!r}`"
        if repr(default).startswith("<factory>"):
            shown = ""
        kind = _spelled(module, str(parameter.annotation)).replace("|", "\\|")
        rows.append(f"| `{name}` | `{kind}` | {shown} | {_inline(' '.join(docs.get(name, '').split()))} |")
    return "\n".join(rows)


def config_page() -> str:
    """The configuration classes, a table each."""
    module = importlib.import_module("llmmagic.core.config")
    parts = ["# Configuration", _inline(inspect.cleandoc(module.__doc__ or ""))]
    for cls in classes_of("llmmagic.core.config"):
        parts += [f"## `{cls.__name__}`", markdown(cls.__doc__ or "")]
        parts.append(fields_table(cls, inspect.getsource(module), module))
    return "\n\n".join(parts)


def _spelled(module: ModuleType, annotation: str) -> str:
    """A type, with the alias of a closed set replaced by its values."""
    values = get_args(getattr(module, annotation, None))
    return " | ".join(repr(value) for value in values) or annotation


_UNIONS = (
    ("load", "LoadEvent"),
    ("save", "SaveEvent"),
    ("inspect", "DataEvent"),
    ("train", "TrainEvent"),
    ("evaluate", "EvalEvent"),
    ("chat", "ChatEvent"),
)


def events_page() -> str:
    """Which operation says what, then every event."""
    events = importlib.import_module("llmmagic.core.events")
    rows = ["| operation | its events |", "| --- | --- |"]
    for operation, union in _UNIONS:
        names = ", ".join(f"[`{cls.__name__}`](#{cls.__name__.lower()})" for cls in get_args(getattr(events, union)))
        rows.append(f"| {operation} | {names} |")
    intro, _, rest = classes_page("Events", "llmmagic.core.events").partition("\n\n## ")
    return "\n\n".join([intro, "\n".join(rows), "## " + rest])


def classes_page(title: str, module_name: str) -> str:
    """Every public class of a module with its docstring."""
    module = importlib.import_module(module_name)
    parts = [f"# {title}", markdown(module.__doc__ or "")]
    for cls in classes_of(module_name):
        parts += [f"## `{cls.__name__}`", markdown(cls.__doc__ or "")]
    return "\n\n".join(parts)


def methods_of(cls: type) -> list[tuple[str, Any]]:
    """The documented public methods and properties of a class, its bases' own included, in the order of the sources."""
    found: dict[str, Any] = {}
    for owner in (*cls.__mro__[1:-1], cls):
        for name, value in vars(owner).items():
            if not name.startswith("_") and inspect.getdoc(getattr(value, "fget", value)) and name not in found:
                found[name] = value
    return list(found.items())


def python_page() -> str:
    """The session and the operations it returns."""
    session = importlib.import_module("llmmagic.core.session").Session
    operation = importlib.import_module("llmmagic.core.operation").Operation
    parts = ["# Python API", "`from llmmagic import Session, LoadConfig, GenerationConfig, TrainConfig, LLMMagicError`"]
    for cls in (session, operation):
        parts += [f"## `{cls.__name__}`", markdown(cls.__doc__ or "")]
        if cls is session:
            parts += [_signature("Session", cls.__init__), markdown(cls.__init__.__doc__ or "")]
        for name, value in methods_of(cls):
            if isinstance(value, property):
                parts += [f"### `{name}`", markdown(value.fget.__doc__ or "")]
            else:
                parts += [f"### `{name}`", _signature(name, value), markdown(value.__doc__ or "")]
    return "\n\n".join(parts)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [parameter for key, parameter in signature.parameters.items() if key != "self"]
    text = f"{name}{signature.replace(parameters=parameters)}"
    # Annotations are kept as texts, and shown as such: model: 'str'.
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).removesuffix(" -> None")
    return f"```python\n{text}\n```"


def options_table(actions: Iterable[argparse.Action]) -> str:
    """Arguments of a parser as a table. argparse's own help reads differently from one Python to the next."""
    rows = ["| option | |", "| --- | --- |"]
    for action in actions:
        if isinstance(action, argparse._HelpAction):
            continue
        choices = "\\|".join(map(str, action.choices or ()))
        value = "" if action.nargs == 0 else str(action.metavar or choices or action.dest)
        names = ", ".join(f"{name} {value}".strip() for name in action.option_strings) or value
        rows.append(f"| `{names}` | {_inline(' '.join((action.help or '').split()))} |")
    return "\n".join(rows)


def magics_page() -> str:
    """Every magic with its options."""
    module = importlib.import_module("llmmagic.magics.magics")
    tree = ast.parse(inspect.getsource(module))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "LLMMagics")
    table = module.LLMMagics.magics
    parts = [
        "# Magics",
        "`%load_ext llmmagic` adds them to a notebook or to IPython; `%llm_load?` shows the same as here.",
    ]
    for function in body:
        if not isinstance(function, ast.FunctionDef) or function.name not in {*table["line"], *table["cell"]}:
            continue
        marks = [mark for mark, kind in (("%", "line"), ("%%", "cell")) if function.name in table[kind]]
        parts.append("## " + " ".join(f"`{mark}{function.name}`" for mark in marks))
        # Not __doc__: @magic_arguments puts argparse's usage into it.
        parts.append(markdown(ast.get_docstring(function) or ""))
        parser = getattr(getattr(module.LLMMagics, function.name), "parser", None)
        if parser is not None:
            parts.append(options_table(parser._actions))
    return "\n\n".join(parts)


def llmchat_page() -> str:
    """Options, commands, settings and keys of the terminal app."""
    arguments = importlib.import_module("llmmagic_tui.cli_arguments")
    settings = importlib.import_module("llmmagic_tui.settings")
    bindings = importlib.import_module("llmmagic_tui.bindings")
    parser = arguments.chat_parser()
    usage = "\n".join(line.strip() for line in str(parser.usage).splitlines())
    parts = ["# llmchat", f"```text\n{usage}\n```", parser.description, options_table(parser._actions)]
    parts.append("## Commands")
    for name, command in arguments.COMMANDS.items():
        own = [action for action in arguments.command_parser(name)._actions if action.dest != "data_dir"]
        parts += [f"### `llmchat {name}`", f"{command.help[0].upper()}{command.help[1:]}.", options_table(own)]
    parts += ["## Settings", markdown(settings.__doc__ or "")]
    parts += [fields_table(settings.Settings, inspect.getsource(settings), settings)]
    parts += ["## Keys", "The names are what the `[keys]` table of the settings goes by."]
    for title, group in bindings.GROUPS:
        rows = ["| key | name | |", "| --- | --- | --- |"]
        rows += [f"| {_keys(b.key)} | `{b.id}` | {b.tooltip} |" for b in group]
        parts += [f"### {title}", "\n".join(rows)]
    return "\n\n".join(part for part in parts if part)


def _keys(keys: str) -> str:
    """Textual's names of keys, as they stand on the keyboard."""
    signs = {"plus": "+", "minus": "-", "slash": "/", "left_square_bracket": "[", "right_square_bracket": "]"}
    return " ".join(f"`{signs.get(key, key)}`" for key in keys.split(","))


def recipes_page() -> str:
    """The recipes' settings side by side."""
    module = importlib.import_module("llmmagic.core.training.recipes")
    recipes = module.RECIPES
    parts = ["# Recipes", markdown(module.__doc__ or "")]
    for heading, part in (("SFTConfig", "options"), ("LoraConfig", "lora")):
        keys = list(dict.fromkeys(key for recipe in recipes.values() for key in getattr(recipe, part)))
        rows = [
            f"| `{heading}` | " + " | ".join(f"`{name}`" for name in recipes) + " |",
            "| --- |" + " --- |" * len(recipes),
        ]
        for key in keys:
            values = [getattr(recipe, part).get(key) for recipe in recipes.values()]
            rows.append(f"| `{key}` | " + " | ".join("" if v is None else f"`{v!r}`" for v in values) + " |")
        parts.append("\n".join(rows))
    parts.append("An empty cell is the library's own default.")
    return "\n\n".join(parts)


PAGES = {
    "magics.md": magics_page,
    "python.md": python_page,
    "llmchat.md": llmchat_page,
    "recipes.md": recipes_page,
    "config.md": config_page,
    "events.md": events_page,
    "errors.md": lambda: classes_page("Errors", "llmmagic.core.errors"),
}


def render() -> dict[Path, str]:
    """Every page, as it should be."""
    return {REFERENCE / name: DO_NOT_EDIT + page().rstrip() + "\n" for name, page in PAGES.items()}


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    sys.path[:0] = [str(root), str(root / "tui")]
    REFERENCE.mkdir(exist_ok=True)
    for path, text in render().items():
        path.write_text(text, encoding="utf-8", newline="\n")
