"""The tiles of a montage in a Tiled catalog: no file of it need be at hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_KEY
from montango.montage_tiles import calibration_of, place_px
from processing.callbacks._tiles import TILES_STREAM
from processing.references import reference_files
from processing.stitching.solution import Key, TileInput
from processing.stitching.sources import SourceTile, TileSet, make_set
from processing.stitching.tiled_frames import TiledFrame
from tiled_server.client.address import Address, montage_id_of


def read_catalog(address: str, *, api_key: str = "", calibrations: Path | None = None) -> TileSet:
    """Return the tiles of a montage, of all its runs; of several attempts of a tile the best.

    Parameters
    ----------
    address
        ``http://HOST:PORT/NAME``, also as the server's pages have it; NAME is a montage id or the uid of one
        of its runs, and may have an ``?api_key=`` after it.
    api_key
        What opens the server; empty: that of the address, or of the variable TILED_API_KEY.
    calibrations
        Folder of the calibrations: the references that a run names are taken out of its frames. None: they
        are not.

    Raises
    ------
    ConfigurationError
        No server answers, it does not have the montage, or the run does not say how large a pixel is and how
        the image is turned.
    """
    from tiled_server.client import find_montage

    where = Address.parse(address, api_key)
    with where.asked():
        catalog = where.catalog()
        montage_id = montage_id_of(catalog, where.name)
        runs = [run for run in find_montage(catalog, montage_id) if TILES_STREAM in run]
    if not runs:
        raise ConfigurationError(f"montage {montage_id} in {where.server} has no run with tiles")
    found: dict[Key, list[tuple[bool, int, SourceTile | None]]] = {}
    for run in runs:
        _add_tiles(found, run, where.api_key, reference_files(run.metadata["start"], calibrations))
    tiles, left_out = [], []
    for place, attempts in sorted(found.items(), key=lambda one: one[0]):
        *_, best = max(attempts, key=lambda one: one[:2])
        if best is None:
            left_out.append((_label(place), "the catalog does not say where the stage was"))
        else:
            tiles.append(best)
    return make_set(
        montage_id,
        tiles,
        pixel_size_nm=calibration_of(runs[0].metadata["start"])[0],
        left_out=left_out,
        provenance={
            "montage_id": montage_id,
            "input_uids": [run.metadata["start"]["uid"] for run in runs],
            "catalog": where.server,
        },
    )


def _add_tiles(
    found: dict[Key, list[tuple[bool, int, SourceTile | None]]],
    run: Any,
    api_key: str,
    references: tuple[Path, Path] | None,
) -> None:
    """Add what a run has: whether a frame passed, its attempt, and the tile if its place is known."""
    from tiled_server.client import tile_table

    image = run[TILES_STREAM][IMAGE_KEY]
    calibration = calibration_of(run.metadata["start"])
    *_, height, width = image.shape
    dark, bright = references or (None, None)
    table = tile_table(run)
    for index, values in zip(table.index.tolist(), table.to_dict("records"), strict=True):
        if not (values["row"] >= 0 and values["column"] >= 0):
            continue
        key = max(int(values["roi"]), 0), int(values["row"]), int(values["column"])
        passed, attempt = values["qc_state"] not in ("fail", "pending"), int(values["attempt"])
        centre = float(values["centre_x_um"]), float(values["centre_y_um"])
        tile = None
        if all(map(math.isfinite, centre)):
            frame = TiledFrame(image.uri, int(index), (width, height), api_key, dark, bright)
            tile = SourceTile(TileInput(key, attempt, place_px(centre, calibration)), frame, _label(key))
        found.setdefault(key, []).append((passed, attempt, tile))


def _label(key: Key) -> str:
    return f"region {key[0]}, row {key[1]}, column {key[2]}"
