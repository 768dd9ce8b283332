"""What ``--data`` names: a variable of the notebook, a file, or a data set on the Hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmmagic.core.errors import DataNotFoundError, did_you_mean
from llmmagic.core.events import Notice
from llmmagic.core.training.collected import is_collected


def resolve_source(name: str, variables: Mapping[str, Any]) -> tuple[Any, Notice | None]:
    """Find what a name stands for.

    A variable that holds data comes first, then files and folders, then the Hub.

    Args:
        name: What the user wrote.
        variables: Of the notebook.

    Returns:
        Rows, or the path or Hub id as it is; and a sentence if the name could have meant something else too.

    Raises:
        DataNotFoundError: A variable that holds no data, and nothing else of that name can be meant.
    """
    path = Path(name).expanduser()
    if name in variables:
        value = variables[name]
        rows = _rows(value)
        if rows is not None:
            note = f"The variable {name} is used, not the file of that name (./{name})." if path.exists() else None
            return rows, Notice(note, topic="data-source") if note else None
        if not path.exists() and "/" not in name:
            raise DataNotFoundError(
                f"The variable {name} holds no rows: it is of type {type(value).__name__}.",
                hint="Use a DataFrame, a Dataset, a list of rows, or the path of a file.",
            )
    elif (
        name.isidentifier()
        and not path.exists()
        and not is_collected(name)
        and (near := did_you_mean(name, _data_variables(variables)))
    ):
        raise DataNotFoundError(f"There is no variable, file or folder {name!r}.", hint=near)
    return (str(path) if name.startswith("~") else name), None


def _rows(value: object) -> Any:
    """The value as a data source; ``None`` if it is none."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    # Whoever holds a DataFrame or a Dataset has imported its library.
    if (pandas := sys.modules.get("pandas")) and isinstance(value, pandas.DataFrame):
        return value
    if (datasets := sys.modules.get("datasets")) and isinstance(value, (datasets.Dataset, datasets.DatasetDict)):
        return value
    return None


def _data_variables(variables: Mapping[str, Any]) -> list[str]:
    return [name for name in variables if is_data(name, variables)]


def is_data(name: str, variables: Mapping[str, Any]) -> bool:
    """Whether a variable of the user holds rows."""
    if name.startswith("_") or name in ("In", "Out"):
        return False
    kind = type(variables[name])
    return kind in (list, tuple) or (kind.__name__, kind.__module__.partition(".")[0]) in (
        ("DataFrame", "pandas"),
        ("Dataset", "datasets"),
        ("DatasetDict", "datasets"),
    )
