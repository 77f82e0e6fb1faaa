"""Folders of tiles: placed by a list of positions, by their names, or by what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from devices.tiles import TILE_COLUMNS
from processing.stitching.folder import FILE_KEYS, read_folder, read_rows
from tiled_server.ingest.source import (
    Source,
    SourceFrame,
    centres_um,
    file_frames,
    number,
    pixel_size_of,
    places_of,
)

_COLUMNS: Final = frozenset(column.name for column in TILE_COLUMNS) - {
    "raster_index", "roi", "row", "column", "attempt",
}  # fmt: skip
_LISTED: Final = {"x_um": ("x_um", "stage_x_um"), "y_um": ("y_um", "stage_y_um")}
"""Columns of a list that are the stage's coordinates, y down."""


def read_tiles(
    folder: Path,
    *,
    positions: Path | None = None,
    pattern: str | None = None,
    overlap: tuple[float, float] | None = None,
    pixel_size_nm: float | None = None,
) -> Source:
    """Return the tiles of a folder; parameters as of `processing.stitching.folder.read_folder`.

    A list of positions may have any of `devices.tiles.TILE_COLUMNS` as a column (``defocus_um``,
    ``exposure_time_s``, ...): it is taken over.

    Raises
    ------
    ConfigurationError
        There are no images, they cannot be placed, or the size of a pixel is not known.
    """
    tiles = read_folder(
        folder, positions=positions, pattern=pattern, overlap=overlap, pixel_size_nm=pixel_size_nm
    )
    size = pixel_size_of(tiles, pixel_size_nm)
    listing = tiles.provenance.get("positions")
    listed = _listed(Path(listing)) if listing else {}
    frames = file_frames(tiles)
    rows = [listed.get(frame.path.name, {}) for frame in frames]
    stage = np.array([[_first(row, names) for names in _LISTED.values()] for row in rows]).reshape(-1, 2)
    centres = centres_um(places_of(tiles), size, 0.0, stage)
    taken = tuple(
        SourceFrame(
            tile.tile.key,
            frame,
            frame.path.name,
            {"centre_x_um": float(x), "centre_y_um": float(y), **_values(row)},
            row,
        )
        for tile, frame, row, (x, y) in zip(tiles.tiles, frames, rows, centres, strict=True)
    )
    head = {name: value for name, value in tiles.provenance.items() if name != "folder"}
    listings = (Path(listing),) if listing else ()
    return Source(
        tiles.name, "folder", folder, taken, size, 0.0, listings, head=head, left_out=tiles.left_out
    )


def _listed(listing: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a list of positions by the name of the file."""
    found = {}
    for row in read_rows(listing):
        name = next((str(row[key]) for key in FILE_KEYS if row.get(key)), "")
        found[Path(name).name] = {str(key): value for key, value in row.items() if key}
    return found


def _values(row: Mapping[str, Any]) -> dict[str, float]:
    found = {name: number(row[name]) for name in _COLUMNS & row.keys()}
    found |= {name: _first(row, names) for name, names in _LISTED.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> float:
    return next((number(row[name]) for name in names if name in row), math.nan)
