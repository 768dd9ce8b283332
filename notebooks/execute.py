"""Run the notebooks from the top and keep what they show: ``python notebooks/execute.py [FILE...]``.

A kept notebook has no widget state, no times and no versions in it: it changes only where its content does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path, *, folder: Path, timeout_s: float = 1800) -> nbformat.NotebookNode:
    """Run a notebook in a fresh kernel.

    Args:
        path: The notebook.
        folder: Where it runs: its data is found and its files are written there.
        timeout_s: Most time for one cell.

    Returns:
        The notebook with its outputs; the file is not changed.

    Raises:
        CellExecutionError: A cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(HERE.glob("*.ipynb")):
        nbformat.write(execute(path, folder=path.parent), path)
