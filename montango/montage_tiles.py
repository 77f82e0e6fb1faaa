"""The tiles of a montage that was acquired, from the journal and the files of a lab's state directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from devices.errors import ConfigurationError, MontangoError
from devices.tiles import IMAGE_DATASET, TILE_GROUP
from plans.record import TileRecord, montage_named, read_runs, tiles_of
from processing.callbacks._frame_file import read_parts
from processing.callbacks.journal import find_runs
from processing.references import reference_files
from processing.stitching.frame_files import FrameFile
from processing.stitching.solution import TileInput
from processing.stitching.sources import SourceTile, TileSet, make_set

_CENTRE = ("centre_x_um", "centre_y_um")


def read_montage(journal_dir: Path, name: str, calibrations: Path | None = None) -> TileSet:
    """Return the tiles of a montage, of all its runs; of several attempts of a tile the best.

    The best is the newest that passed, else the newest that can be read.

    Parameters
    ----------
    journal_dir
        The journal.
    name
        Montage id, or the uid of one of its runs or the first eight or more characters of it.
    calibrations
        Folder of the calibrations: the references that a run names are taken out of its frames.

    Raises
    ------
    ConfigurationError
        The journal does not have it, its run does not say how large a pixel is and how the image is turned,
        or a reference that it names cannot be read.
    """
    runs = find_runs(journal_dir)
    name = montage_named(runs, journal_dir, name)
    records = read_runs(journal_dir, name, runs=runs)
    calibration = calibration_of(records[0].start)
    references = {run.uid: reference_files(run.start, calibrations) for run in records}
    tiles, left_out = [], []
    for key, attempts in sorted(tiles_of(records).items()):
        label = f"region {key.roi}, row {key.row}, column {key.column}"
        usable = [one for one in attempts if one.readable]
        if not usable:
            left_out.append((label, "its frame is not in the file"))
            continue
        best = max(usable, key=lambda one: (one.qc_state not in ("fail", "pending"), one.attempt))
        place = _place(best, calibration)
        if place is None:
            left_out.append((label, "the file does not say where the stage was"))
            continue
        dark, bright = references.get(best.run_uid) or (None, None)
        frame = FrameFile(best.path, best.frame_index, IMAGE_DATASET, dark, bright)
        tiles.append(SourceTile(TileInput((key.roi, key.row, key.column), best.attempt, place), frame, label))
    return make_set(
        name,
        tiles,
        pixel_size_nm=calibration[0],
        left_out=left_out,
        provenance={"montage_id": name, "input_uids": [run.uid for run in records]},
    )


def calibration_of(start: Mapping[str, Any]) -> tuple[float, float]:
    """Return the size of a pixel, nm, and the turn from camera to stage axes, rad."""
    try:
        given = start["calibration"]
        return float(given["pixel_size_nm"]), math.radians(float(given["image_rotation_deg"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"run {start.get('uid')} has no {error} of its calibration in its start document: its tiles "
            "cannot be placed"
        ) from error


def _place(tile: TileRecord, calibration: tuple[float, float]) -> tuple[float, float] | None:
    """Return where the stage says that a tile's centre lies, camera px."""
    try:
        datasets = [f"{TILE_GROUP}/{name}" for name in _CENTRE]
        x, y = (float(part) for part in read_parts(tile.path, datasets, tile.frame_index))
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise MontangoError(f"{TILE_GROUP} of {tile.path} cannot be read: {error}") from error
    if not np.isfinite([x, y]).all():
        return None
    return place_px((float(x), float(y)), calibration)


def place_px(centre_um: tuple[float, float], calibration: tuple[float, float]) -> tuple[float, float]:
    """Return a place of the stage in camera px, for a size of a pixel, nm, and a turn, rad."""
    (nm, angle), (x, y) = calibration, centre_um
    pixel_um, cos, sin = nm * 1e-3, math.cos(angle), math.sin(angle)
    return (cos * x + sin * y) / pixel_um, (-sin * x + cos * y) / pixel_um
