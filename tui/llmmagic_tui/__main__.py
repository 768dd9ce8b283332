"""``python -m llmmagic_tui``, and what ``llmchat`` runs: as little as can be before Ctrl+C is understood."""

from __future__ import annotations

import sys


def main() -> int:
    """Run ``llmchat``; see `llmmagic_tui.cli`.

    Returns:
        The exit status.
    """
    try:
        from llmmagic_tui import cli
    except KeyboardInterrupt:  # while modules are read; afterwards `cli` sees to it
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
