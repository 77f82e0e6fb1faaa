"""A folder of tiles, placed by a list of positions, by their names, or by what they show."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.stitching.frame_files import HDF5, SUFFIXES, FrameFile
from processing.stitching.search import find_places
from processing.stitching.solution import TileInput
from processing.stitching.sources import SourceTile, TileSet, make_set, ranked, usual_size

PATTERNS: Final = (
    r"r(?:ow)?[_-]?(?P<row>\d+)[_-]?c(?:ol(?:umn)?)?[_-]?(?P<column>\d+)",
    r"y(?P<row>\d+)[_-]?x(?P<column>\d+)",
    r"x(?P<column>\d+)[_-]?y(?P<row>\d+)",
    r"(?:^|[_-])(?P<row>\d+)[_-](?P<column>\d+)$",
)
"""Tried in turn on the names without suffix, until one fits all and tells them apart."""
OVERLAP: Final = 0.1
OVERLAP_SEARCH: Final = 0.12
"""How far the usual overlap may be wrong where it is not given, of a tile's side."""
POSITION_FILES: Final = ("positions.csv", "positions.json")
FILE_KEYS: Final = ("file", "name", "path", "image", "tile", "filename")
"""Names of the column of a list of positions that names the file."""
_UNITS_NM: Final = {"px": None, "um": 1e3, "nm": 1.0, "": None}


def read_folder(
    folder: Path,
    *,
    positions: Path | None = None,
    pattern: str | None = None,
    overlap: tuple[float, float] | None = None,
    pixel_size_nm: float | None = None,
) -> TileSet:
    """Return the tiles of a folder.

    Parameters
    ----------
    folder
        With one image a tile: PNG, JPEG, BMP, TIFF or MRC.
    positions
        CSV with a header, or JSON (a list of objects): ``file`` and ``x_px, y_px`` (or ``x_um, y_um``,
        ``x_nm, y_nm``; ``stage_`` or ``nominal_`` before it is allowed) of any point that is the same in all
        tiles, x right and y down; optional ``row``, ``column``. Or JSON ``{file: [x, y]}`` in px. None:
        ``positions.csv`` or ``positions.json`` in the folder, if there is one.
    pattern
        How names give row and column: ``{row}`` and ``{column}`` in the name, or a regular expression with
        groups of these names. None: `PATTERNS`.
    overlap
        Of neighbours along x and y, of a tile's side, 0 to 0.9. None: 0.1, searched widely.
    pixel_size_nm
        Size of a pixel.

    Raises
    ------
    ConfigurationError
        No images, or they cannot be placed.
    """
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and _is_tile(one))
    if not files:
        raise ConfigurationError(f"{folder} has no tiles: files with {', '.join(SUFFIXES[: -len(HDF5)])}")
    found = positions or next((folder / one for one in POSITION_FILES if (folder / one).is_file()), None)
    origin: dict[str, Any] = {"folder": str(folder.resolve())}
    if positions is not None or (found is not None and pattern is None and overlap is None):
        assert found is not None
        origin["positions"] = str(found)
        return _listed(folder, files, found, pixel_size_nm, origin)
    size = usual_size(str(folder), [FrameFile(one) for one in files])
    grid = _grid(files, pattern)
    if grid is not None:
        shares = overlap or (OVERLAP, OVERLAP)
        if not all(0 <= share <= 0.9 for share in shares):
            raise ConfigurationError(f"overlap = {shares} must be 0 to 0.9 of a tile's side")
        step = [side * (1 - share) for side, share in zip(size, shares, strict=True)]
        tiles = [
            SourceTile(
                TileInput((0, row, column), 0, (column * step[0], row * step[1])), FrameFile(path), path.name
            )
            for path, (row, column) in zip(files, grid, strict=True)
        ]
        wide = None if overlap else OVERLAP_SEARCH * max(size)
        return make_set(
            folder.name, tiles, pixel_size_nm=pixel_size_nm, search_px=wide, provenance=origin, size_px=size
        )
    return _searched(folder, files, size, pixel_size_nm, origin)


def _is_tile(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in HDF5


def _grid(files: Sequence[Path], pattern: str | None) -> list[tuple[int, int]] | None:
    """Return row and column by name, or None where no usual pattern fits all."""
    for one in PATTERNS if pattern is None else (_expression(pattern),):
        found = [re.search(one, path.stem, re.IGNORECASE) for path in files]
        cells = [(int(m["row"]), int(m["column"])) for m in found if m is not None]
        if len(cells) == len(files) and (pattern is not None or len(set(cells)) == len(cells)):
            first = min(row for row, _ in cells), min(column for _, column in cells)
            return [(row - first[0], column - first[1]) for row, column in cells]
        if pattern is not None:
            missing = next(path.name for path, m in zip(files, found, strict=True) if m is None)
            raise ConfigurationError(
                f"pattern {pattern!r} does not fit {missing}, nor {len(files) - len(cells) - 1} others of "
                f"{len(files)}"
            )
    return None


def _expression(pattern: str) -> str:
    if "{row}" in pattern and "{column}" in pattern:
        parts = re.split(r"(\{row\}|\{column\}|\*)", Path(pattern).stem if "." in pattern else pattern)
        special = {"{row}": r"(?P<row>\d+)", "{column}": r"(?P<column>\d+)", "*": ".*"}
        return "^" + "".join(special.get(part, re.escape(part)) for part in parts) + "$"
    try:
        names = set(re.compile(pattern).groupindex)
    except re.error as error:
        raise ConfigurationError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if not {"row", "column"} <= names:
        raise ConfigurationError(
            f"pattern {pattern!r} must have {{row}} and {{column}}, or groups (?P<row>...) and "
            "(?P<column>...)"
        )
    return pattern


def _listed(
    folder: Path, files: Sequence[Path], listing: Path, pixel_size_nm: float | None, origin: dict[str, Any]
) -> TileSet:
    rows = read_rows(listing)
    known = {path.name: path for path in files}
    taken, places, left_out = [], [], []
    for number, row in enumerate(rows):
        name = next((str(row[key]) for key in FILE_KEYS if row.get(key)), "")
        if not name:
            raise ConfigurationError(f"{listing}: entry {number + 1} names no file; give a column 'file'")
        path = known.pop(Path(name).name, None)
        if path is None:
            left_out.append((name, f"{listing.name} names it and {folder} does not have it"))
            continue
        if "x_px" in row and not str(row["x_px"]).strip():
            left_out.append((name, f"{listing.name} does not say where it lies"))
            continue
        taken.append((path, row))
        places.append(_place(listing, name, row, pixel_size_nm))
    left_out += [(name, f"{listing.name} does not say where it lies") for name in known]
    if not taken:
        raise ConfigurationError(f"{listing} names none of the {len(files)} tiles in {folder}")
    size = usual_size(str(folder), [FrameFile(path) for path, _ in taken])
    at = np.array(places, np.float64)
    keys = ranked(at, size)
    if all(str(row.get("row", "")).strip() and str(row.get("column", "")).strip() for _, row in taken):
        keys = [(0, int(float(row["row"])), int(float(row["column"]))) for _, row in taken]
    tiles = [
        SourceTile(TileInput(key, 0, (float(x), float(y))), FrameFile(path), path.name)
        for key, (x, y), (path, _) in zip(keys, at, taken, strict=True)
    ]
    return make_set(
        folder.name, tiles, pixel_size_nm=pixel_size_nm, left_out=left_out, provenance=origin, size_px=size
    )


def read_rows(listing: Path) -> list[dict[str, Any]]:
    """Return the entries of a list of positions, as they stand there; see `read_folder`.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is no list.
    """
    try:
        if listing.suffix.lower() != ".json":
            with listing.open(newline="") as file:
                return list(csv.DictReader(file))
        content = json.loads(listing.read_text())
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigurationError(f"{listing} cannot be read: {error}") from error
    if isinstance(content, dict):
        content = [{"file": name, "x_px": at[0], "y_px": at[1]} for name, at in content.items()]
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise ConfigurationError(f"{listing} must be a list of objects with file, x_px, y_px, or an object")
    return content


def _place(listing: Path, name: str, row: dict[str, Any], pixel_size_nm: float | None) -> tuple[float, float]:
    for unit, nm in _UNITS_NM.items():
        for before in ("", "stage_", "nominal_"):
            keys = [f"{before}{axis}{'_' if unit else ''}{unit}" for axis in "xy"]
            if not all(key in row for key in keys):
                continue
            if nm is not None and pixel_size_nm is None:
                raise ConfigurationError(f"{listing} is in {unit}: give the size of a pixel, --pixel-size-nm")
            scale = 1.0 if nm is None or pixel_size_nm is None else nm / pixel_size_nm
            try:
                x, y = (float(row[key]) * scale for key in keys)
            except (TypeError, ValueError):
                x = y = np.nan
            if not np.isfinite([x, y]).all():
                raise ConfigurationError(f"{listing}: {keys[0]}, {keys[1]} of {name} must be finite numbers")
            return x, y
    raise ConfigurationError(
        f"{listing} has no columns x_px and y_px (or x_um, y_um, x_nm, y_nm); it has "
        f"{', '.join(map(str, row))}"
    )


def _searched(
    folder: Path,
    files: Sequence[Path],
    size: tuple[int, int],
    pixel_size_nm: float | None,
    origin: dict[str, Any],
) -> TileSet:
    """Place tiles by what they show."""
    found = find_places(folder, [FrameFile(path) for path in files], size)
    placed = [k for k, at in enumerate(found.places) if at is not None]
    at: npt.NDArray[np.float64] = np.array([found.places[k] for k in placed], np.float64).reshape(-1, 2)
    tiles = [
        SourceTile(TileInput(key, 0, (float(x), float(y))), FrameFile(files[k]), files[k].name)
        for key, (x, y), k in zip(ranked(at, size), at, placed, strict=True)
    ]
    left_out = [(files[k].name, found.reasons[k]) for k in range(len(files)) if k not in placed]
    return make_set(
        folder.name,
        tiles,
        pixel_size_nm=pixel_size_nm,
        search_px=found.search_px,
        left_out=left_out,
        provenance={**origin, "placed_by": "search over all pairs"},
        size_px=size,
    )
