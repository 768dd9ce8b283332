"""The YAML body of ``%%llm_train``."""

from __future__ import annotations

import re
from typing import Any

import yaml

from llmmagic.core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``2e-4`` as a number and refuses a key that is given twice."""


# YAML 1.1, which PyYAML implements, wants a dot in a float and would read a learning rate of 2e-4 as text;
# this is the float of YAML 1.2 (https://yaml.org/spec/1.2.2/, 10.3.2).
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_body(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the settings of a training run.

    Args:
        text: YAML: a mapping, or nothing.

    Returns:
        The keys of ``SFTConfig``, and those of ``LoraConfig`` (the mapping under ``lora``).

    Raises:
        ConfigError: No YAML, or no mapping; says where.
    """
    try:
        body = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1} of the cell's body" if mark else "the cell's body"
        raise ConfigError(
            f"The settings are no valid YAML: {err.problem or err.context} in {where}.",
            hint="Write one 'key: value' a line.",
        ) from err
    except yaml.YAMLError as err:  # characters that YAML does not allow
        raise ConfigError(f"The settings are no valid YAML: {err}.") from err
    options = _checked(body, "The settings")
    return options, _checked(options.pop("lora", None), "lora")


def _checked(value: object, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must be 'key: value' lines, got {value!r}.", hint="For instance: max_steps: 100")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{what}: a key must be a name, got {key!r}.")
    return value
