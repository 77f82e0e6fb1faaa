"""Lists of regions and positions in JSON and CSV files, as the place of a montage."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from devices.errors import ConfigurationError

OPTIONS = ("rotation_deg", "dilation_um")
KEYS = ("rois", "positions_um", "corners_um")


def read_roi_list(path: Path | str) -> dict[str, Any]:
    """Return the place of a montage from a file, as fields of a `plans.specs.montage.MontageSpec`.

    JSON: a list of regions as in ``MontageSpec.rois``, or a mapping with one of the keys ``rois``,
    ``positions_um`` and ``corners_um``. CSV: a corner a line, with columns ``name``, ``x_um``, ``y_um`` and,
    where wanted, ``rotation_deg`` and ``dilation_um`` (of the region's first line); without ``name``, a
    position a line.

    Raises
    ------
    ConfigurationError
        The file cannot be read or has something else in it: naming the line and what is wrong there.
    """
    source = Path(path)
    readers: Mapping[str, Callable[[str, Path], dict[str, Any]]] = {".json": _read_json, ".csv": _read_csv}
    if (read := readers.get(source.suffix.lower())) is None:
        raise ConfigurationError(f"{source}: a list of regions is a .json or .csv file")
    try:
        return read(source.read_text(encoding="utf-8-sig"), source)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(f"{source}: cannot be read ({reason})") from None


def _read_json(text: str, source: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{source}, line {error.lineno}: this is not JSON ({error.msg})") from None
    if isinstance(data, list):
        data = {"rois": data}
    if not isinstance(data, dict) or len(data) != 1 or not set(data) <= set(KEYS):
        found = ", ".join(map(repr, data)) if isinstance(data, dict) else type(data).__name__
        raise ConfigurationError(
            f"{source}: has {found or 'nothing'}; it is a list of regions, or has one of {', '.join(KEYS)}"
        )
    (key, values), *_ = data.items()
    if not isinstance(values, list) or not values:
        raise ConfigurationError(f"{source}: {key} is no list, or an empty one")
    return data


def _read_csv(text: str, source: Path) -> dict[str, Any]:
    lines = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = [name.strip() for name in lines.fieldnames or ()]
    unknown = [name for name in names if name not in ("name", "x_um", "y_um", *OPTIONS)]
    if unknown or not {"x_um", "y_um"} <= set(names):
        raise ConfigurationError(
            f"{source}, line 1: columns {', '.join(names) or 'none'}; there must be x_um and y_um, "
            f"and may be name, {' and '.join(OPTIONS)}"
        )
    lines.fieldnames = names
    positions: list[tuple[float, float]] = []
    rois: dict[str, dict[str, Any]] = {}
    last = ""
    for line in lines:
        if None in line or None in line.values():
            raise ConfigurationError(f"{source}, line {lines.line_num}: has not {len(names)} values")
        point = tuple(_number(line, key, source, lines.line_num) for key in ("x_um", "y_um"))
        if "name" not in names:
            positions.append((point[0], point[1]))
            continue
        if (name := line["name"].strip()) not in rois:
            given = [key for key in OPTIONS if line.get(key, "").strip()]
            options = {key: _number(line, key, source, lines.line_num) for key in given}
            rois[name] = {"name": name, "polygon_um": [], **options}
        elif name != last:
            raise ConfigurationError(
                f"{source}, line {lines.line_num}: region {name!r} was listed before; "
                f"keep its corners together"
            )
        rois[name]["polygon_um"].append(point)
        last = name
    if not rois and not positions:
        raise ConfigurationError(f"{source}: has no lines after the first")
    return {"rois": list(rois.values())} if rois else {"positions_um": positions}


def _number(line: Mapping[str, str], key: str, source: Path, number: int) -> float:
    try:
        value = float(line[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigurationError(f"{source}, line {number}: {key} = {line[key]!r} is not a number")
    return value
