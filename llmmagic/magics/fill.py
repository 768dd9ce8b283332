"""Filling variables into a prompt, when asked to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmmagic.core.errors import ConfigError, did_you_mean

# {name}, but neither {{name}} nor the braces of JSON or code
_NAME = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}")


def fill(text: str, variables: Mapping[str, Any]) -> str:
    """Put variables into a text: ``{name}`` becomes ``str(name)``, ``{{`` and ``}}`` become single braces.

    Args:
        text: The prompt.
        variables: Of the notebook.

    Returns:
        The text; braces around anything but a name stay as they are.

    Raises:
        ConfigError: There is no such variable.
    """

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if name not in variables:
            hint = did_you_mean(name, variables) or f"Write {{{{{name}}}}} for the text {{{name}}}."
            raise ConfigError(f"--fill: there is no variable {name!r}.", hint=hint)
        return str(variables[name])

    return _NAME.sub(put, text)
