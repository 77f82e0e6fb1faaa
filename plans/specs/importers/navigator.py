"""Points, polygons and maps of a SerialEM navigator file, as the place of a montage."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from devices.errors import ConfigurationError
from plans.specs.importers.autodoc import Entry, Section, read_sections

EXTERNAL = ("CoordsInMap", "CoordsInAliMont", "CoordsInAliMontVS", "CoordsInPiece")


class NavKind(Enum):
    """What an item is; the values are those of its key ``Type``."""

    POINT = 0
    POLYGON = 1
    MAP = 2


@dataclass(frozen=True, slots=True)
class NavItem:
    """An item of a navigator file.

    Attributes
    ----------
    label
        As the navigator shows it.
    kind
        Point, polygon or map.
    points_um
        Its points in stage x, y, um: a polygon's and a map's corners, the last often the first again.
    stage_z_um
        Stage z of the item, um.
    line
        Line of the file where it begins, from 1.
    registration
        Items of one registration share one frame of stage coordinates.
    corner
        Whether it is a corner of a montage to come.
    note
        The user's note.
    """

    label: str
    kind: NavKind
    points_um: tuple[tuple[float, float], ...]
    stage_z_um: float
    line: int
    registration: int = 1
    corner: bool = False
    note: str = ""


def read_nav(path: Path | str) -> list[NavItem]:
    """Return the items of a SerialEM navigator file (autodoc or XML) in order.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or an item lacks what it needs: naming the line and what is wrong there.
    """
    source = Path(path)
    sections = list(read_sections(source))
    if sections and not any(section.kind == "Item" for section in sections):
        raise ConfigurationError(
            f"{source}, line {sections[0].line}: is no navigator file: its sections are {sections[0].kind}, "
            f"not Item"
        )
    return [_item(section, source) for section in sections if section.kind == "Item"]


def place_of(
    items: Sequence[NavItem], labels: Sequence[str] = (), source: str = "navigator"
) -> dict[str, Any]:
    """Return the place of a montage, as fields of a `plans.specs.montage.MontageSpec`.

    Polygons and maps become ``rois`` with their labels as names, points ``positions_um``, corner points
    ``corners_um``.

    Parameters
    ----------
    items
        What the file has.
    labels
        Which of them; empty takes every one that is not a map.
    source
        The file's name, for messages.

    Raises
    ------
    ConfigurationError
        A label names no item (with the nearest one) or several, points and polygons are mixed, or items are
        of different registrations.
    """
    chosen = [_named(items, label, source) for label in labels] or [
        item for item in items if item.kind is not NavKind.MAP
    ]
    if not chosen:
        raise ConfigurationError(
            f"{source} has no points or polygons to acquire; name a map with its label, or draw some"
        )
    kinds = {"rois" if item.kind is not NavKind.POINT else "positions_um" for item in chosen}
    if len(kinds) > 1:
        point = next(item for item in chosen if item.kind is NavKind.POINT)
        other = next(item for item in chosen if item.kind is not NavKind.POINT)
        raise ConfigurationError(
            f"{source}: item {point.label!r} is a point and {other.label!r} a {other.kind.name.lower()}; a "
            f"montage takes the one or the other: name the items to take"
        )
    if len(registrations := sorted({item.registration for item in chosen})) > 1:
        raise ConfigurationError(
            f"{source}: the items are of registrations {' and '.join(map(str, registrations))}, whose stage "
            f"coordinates differ; transform them in SerialEM first, or take items of one"
        )
    if kinds == {"rois"}:
        return {"rois": [{"name": item.label, "polygon_um": item.points_um} for item in chosen]}
    corners = len(chosen) > 1 and all(item.corner for item in chosen)
    return {"corners_um" if corners else "positions_um": [item.points_um[0] for item in chosen]}


def _named(items: Sequence[NavItem], label: str, source: str) -> NavItem:
    found = [item for item in items if item.label == label]
    if len(found) == 1:
        return found[0]
    if found:
        lines = ", ".join(str(item.line) for item in found)
        raise ConfigurationError(f"{source}: {len(found)} items have the label {label!r} (lines {lines})")
    known = [item.label for item in items]
    near = difflib.get_close_matches(label, known, n=1, cutoff=0.3)
    hint = f"the nearest is {near[0]!r}; " if near else ""
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    raise ConfigurationError(f"{source} has no item {label!r}; {hint}its items: {shown or 'none'}")


def _item(section: Section, path: Path) -> NavItem:
    """Return an item from its section, or refuse it."""
    entries = section.entries

    def fail(what: str, line: int = section.line) -> ConfigurationError:
        return ConfigurationError(f"{path}, line {line}: item {section.name!r} {what}")

    def numbers(key: str, entry: Entry, count: int) -> list[float]:
        try:
            values = [float(word) for word in entry.text.split()]
        except ValueError:
            raise fail(f"has {key} = {entry.text[:40]!r}, which are not numbers", entry.line) from None
        if not all(map(math.isfinite, values)):
            raise fail(f"has {key} that are not finite", entry.line)
        if len(values) != count:
            raise fail(f"has {len(values)} numbers in {key}, not {count}", entry.line)
        return values

    def whole(key: str, default: int | None) -> int:
        if (entry := entries.get(key)) is None:
            if default is None:
                raise fail(f"has no {key}, which every item needs")
            return default
        try:
            return int(entry.text)
        except ValueError:
            raise fail(f"has {key} = {entry.text[:40]!r}, which is not a whole number", entry.line) from None

    if external := next((key for key in EXTERNAL if key in entries), None):
        raise fail(
            f"has pixels of a map ({external}) for a place; load and save the file in SerialEM, which makes "
            f"stage coordinates of them",
            entries[external].line,
        )
    number = whole("Type", None)
    if number not in {kind.value for kind in NavKind}:
        raise fail(f"has Type = {number}; 0 is a point, 1 a polygon, 2 a map", entries["Type"].line)
    kind = NavKind(number)
    if (stage := entries.get("StageXYZ")) is None:
        raise fail("has no StageXYZ, which every item needs")
    x, y, z = numbers("StageXYZ", stage, 3)
    points: tuple[tuple[float, float], ...] = ((x, y),)
    if kind is not NavKind.POINT:
        count = whole("NumPts", None)
        if missing := next((key for key in ("PtsX", "PtsY") if key not in entries), None):
            raise fail(f"has no {missing}, which a {kind.name.lower()} needs")
        columns = (numbers(key, entries[key], count) for key in ("PtsX", "PtsY"))
        points = tuple(zip(*columns, strict=True))
    note = entries["Note"].text if "Note" in entries else ""
    corner = bool(whole("Corner", 0))
    return NavItem(section.name, kind, points, z, section.line, whole("Regis", 1), corner, note)
