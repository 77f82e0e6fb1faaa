"""Checks before anything moves: limits, disk, dose. Each raises an error that says what to change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from devices.errors import ConfigurationError, LimitError
from devices.stage.driver import StageLimits
from plans.dose import flux_e_per_a2_s, largest_of
from plans.specs.grid import Grid, Tile

MONTAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_montage_id(montage_id: str) -> None:
    """Refuse an id that cannot be the beginning of a file's name.

    Raises
    ------
    ConfigurationError
        Naming the id and what is allowed.
    """
    if not MONTAGE_ID.fullmatch(montage_id):
        raise ConfigurationError(
            f"montage_id = {montage_id!r} is not 1 to 100 letters, digits, '.', '_' and '-', the first a "
            f"letter or digit: files are named after it; give another, or leave it out"
        )


def check_positions(tiles: Iterable[Tile], limits: StageLimits, roi_names: Sequence[str] = ()) -> None:
    """Refuse a grid with a tile outside the stage's limits.

    Parameters
    ----------
    tiles
        The tiles.
    limits
        What the stage reaches.
    roi_names
        Names of the regions of interest, by the tiles' ``roi``; empty where the montage has none.

    Raises
    ------
    LimitError
        Naming the first such tile, its region, its coordinate and the limit.
    """
    for tile in tiles:
        try:
            limits.check({"x_um": tile.x_um, "y_um": tile.y_um})
        except LimitError as error:
            where = f"ROI {roi_names[tile.roi]!r}, " if roi_names else ""
            remedy = "move or cut that ROI" if roi_names else "move centre_um, or take fewer rows and columns"
            raise LimitError(
                f"tile ({where}row {tile.row}, column {tile.column}) lies outside the stage's limits: "
                f"{error}; or {remedy}"
            ) from None


def check_disk(folder: Path, needed_bytes: int, reserve_gb: float) -> None:
    """Refuse a montage that would fill the disk.

    Parameters
    ----------
    folder
        Where the frames go; it need not exist yet.
    needed_bytes
        Size of the frames.
    reserve_gb
        What must stay free, in GB.

    Raises
    ------
    LimitError
        Naming what is needed, what is free and where.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes + reserve_gb * 1e9 > free:
        raise LimitError(
            f"the montage needs {needed_bytes / 1e9:.2f} GB in {folder} and {reserve_gb:g} GB must stay free "
            f"(minimum_free_gb), but only {free / 1e9:.2f} GB are; free space there or take fewer tiles"
        )


def dose_per_exposure(beam_current_na: float, illuminated_area_um: float, exposure_time_s: float) -> float:
    """Return the dose of one exposure in e/A^2: beam current over the illuminated disc, times the time.

    Raises
    ------
    ConfigurationError
        Current or diameter is not positive, so that the dose is not known.
    """
    return flux_e_per_a2_s(beam_current_na, illuminated_area_um) * exposure_time_s


def largest_dose(grid: Grid, illuminated_area_um: float, exposure_dose: float) -> float:
    """Return the largest dose that a montage without repetitions gives any point, in e/A^2.

    The illuminated disc of a tile reaches over its neighbours: a point gets the dose of every tile whose
    centre is within the disc's radius.
    """
    places = ((tile.centre_x_um, tile.centre_y_um) for tile in grid.tiles)
    return largest_of(places, illuminated_area_um, exposure_dose)


def check_dose(limit_e_per_a2: float, dose_e_per_a2: float) -> None:
    """Refuse a montage whose dose may be over its budget.

    Raises
    ------
    LimitError
        Naming both doses.
    """
    if dose_e_per_a2 > limit_e_per_a2:
        raise LimitError(
            f"the montage may give a point {dose_e_per_a2:.3g} e/A^2 (neighbours' exposures included), over "
            f"max_dose_e_per_a2 = {limit_e_per_a2:g}; shorten exposure_time_s, lower the beam current or "
            f"shrink illuminated_area_um"
        )
