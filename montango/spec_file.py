"""A montage's specification in a file: YAML or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from devices.errors import ConfigurationError
from montango._config_errors import Location, explain
from montango._config_parts import PLACE_OF_A_MONTAGE
from montango._yaml_marks import read_marked
from plans.specs.montage import MontageSpec


def read_spec(path: Path | str, place: Mapping[str, Any] | None = None) -> MontageSpec:
    """Return the specification in a file.

    Parameters
    ----------
    path
        The file.
    place
        Fields that say where the montage is, in place of the file's own; ``positions_um`` leave its ``rows``
        and ``columns``.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or says something wrong: in one line, with the line of the file.
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(
            f"{source}: cannot be read ({reason}); give the path of a montage's specification"
        ) from None
    data, marks = _read(text, source)
    if place is not None:
        kept = ("rows", "columns") if "positions_um" in place else ()
        for name in PLACE_OF_A_MONTAGE:
            if name not in kept:
                data.pop(name, None)
        data.update(place)

    def where(location: Location) -> str:
        while location and location not in marks:
            location = location[:-1]
        return f"{source}, line {marks[location]}" if location else str(source)

    try:
        return MontageSpec.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(explain(error, MontageSpec, data, where)) from None


def _read(text: str, source: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        whole = yaml.safe_load(text)
    except yaml.YAMLError:
        whole = {}  # read_marked says what is wrong, and where
    if not isinstance(whole, dict | None):
        raise ConfigurationError(
            f"{source}: a specification holds keys, such as rows and columns; this has none"
        )
    return read_marked(text, source) if whole is not None else ({}, {})
