"""YAML with the line of every key, for messages that say where a mistake is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from devices.errors import ConfigurationError

Location = tuple[str | int, ...]


def read_marked(text: str, source: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """Return the data of a YAML mapping and the line (from 1) of every key and list item, by its path.

    Raises
    ------
    ConfigurationError
        The text is not YAML, not a mapping, or has a key twice.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        marks: dict[Location, int] = {}
        if node is not None:
            _walk(node, (), marks, source)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{source}, line {line}: this is not YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source}: this is not YAML ({error})") from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"{source}, line 1: a montango.yaml holds sections such as 'lab:' and 'instruments:'; "
            f"this file has none"
        )
    return data, marks


def _walk(node: yaml.Node, path: Location, marks: dict[Location, int], source: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in marks:
                name = ".".join(map(str, inner))
                raise ConfigurationError(
                    f"{source}, line {line}: {name} is given twice, first in line {marks[inner]}"
                )
            marks[inner] = line
            _walk(value, inner, marks, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            marks[(*path, index)] = value.start_mark.line + 1
            _walk(value, (*path, index), marks, source)
