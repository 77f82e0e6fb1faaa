"""The good tiles of a montage: where they lie, and which of them an image shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_DATASET, TILE_GROUP
from plans.record import MontageRecord, TileKey, TileRecord
from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.stubs.acquisition import Beam
from processing.callbacks._frame_file import read_parts
from processing.kernels.shift import Shift, measure_shift

LARGEST_PX = 1024
"""Longest side of what is correlated; larger images are binned to it."""
MOST_COMPARED = 100
MOST_LOOKED_AT = 8
CLEAR_PEAK = 0.7
"""A correlation that no other tile needs to be compared after."""

Points = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class AcquiredTile:
    """A good tile of a montage: ``centre_um`` of its image in the montage's coordinates."""

    key: TileKey
    record: TileRecord
    centre_um: tuple[float, float]

    def picture(self) -> npt.NDArray[np.uint16]:
        """Return its frame, (y, x) counts.

        Raises
        ------
        ConfigurationError
            It cannot be read.
        """
        try:
            (frame,) = read_parts(self.record.path, [IMAGE_DATASET], self.record.frame_index)
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise ConfigurationError(
                f"frame {self.record.frame_index} of {self.record.path} cannot be read: {error}"
            ) from error
        return frame


def acquired_tiles(record: MontageRecord) -> list[AcquiredTile]:
    """Return the good tiles of a montage, of each its newest good frame, with where they lie.

    Raises
    ------
    ConfigurationError
        There is none, or a file cannot be read.
    """
    columns: dict[Any, Points] = {}
    tiles = []
    for key, attempts in record.tiles.items():
        newest = next((one for one in reversed(attempts) if one.good), None)
        if newest is None:
            continue
        if newest.path not in columns:
            names = [f"{TILE_GROUP}/centre_{axis}_um" for axis in "xy"]
            try:
                columns[newest.path] = np.column_stack(read_parts(newest.path, names, slice(None)))
            except (OSError, KeyError, ValueError) as error:
                raise ConfigurationError(f"{newest.path} cannot be read: {error}") from error
        x_um, y_um = columns[newest.path][newest.frame_index]
        if math.isfinite(x_um) and math.isfinite(y_um):
            tiles.append(AcquiredTile(key, newest, (float(x_um), float(y_um))))
    if not tiles:
        raise ConfigurationError(
            f"montage {record.montage_id} has no good tile that an image could be compared with; resume it "
            f"with reference = readback"
        )
    return tiles


def choose_tile(
    good: Sequence[AcquiredTile],
    record: MontageRecord,
    spec: MontageSpec,
    view: View,
    beam: Beam,
    max_offset_um: float,
) -> AcquiredTile:
    """Return the tile to take the image at: away from what is to be acquired, amid what is, and not empty."""
    x_um, y_um = record.start["montage_centre_um"]
    todo = [(one.centre_x_um, one.centre_y_um) for one, _ in record.todo(make_grid(spec, view, (x_um, y_um)))]
    centres = np.array([one.centre_um for one in good])
    reach_um = (diagonal_um(view) + (beam.diameter_um if beam.diameter_um > 0 else 0.0)) / 2
    away = KDTree(todo).query(centres)[0] if todo else np.full(len(good), math.inf)
    around = KDTree(centres).query_ball_point(centres, max_offset_um, return_length=True)
    clear = np.minimum(away, reach_um)
    order = np.lexsort((-around, -clear))[:MOST_LOOKED_AT]
    best = [good[int(at)] for at in order if clear[at] >= 0.99 * clear[order[0]]]
    return max(best, key=lambda one: contrast(one.picture()))


def contrast(frame: npt.NDArray[np.uint16]) -> float:
    """Return how much there is to see in a frame, (y, x) counts: its spread over its mean, noise left out."""
    small = binned(frame, max(1, min(frame.shape) // 64))
    return float(small.std() / max(float(small.mean()), 1e-9))


def locate(
    image: npt.NDArray[np.uint16], scale: float, near: Sequence[AcquiredTile], view: View
) -> tuple[Shift, tuple[float, float]]:
    """Return how well an image fits the tile that it fits best, and where its centre lies, um.

    Parameters
    ----------
    image
        (y, x) counts.
    scale
        Its pixel in pixels of the tiles, 1 or more.
    near
        Tiles that it may show, the likeliest first; one that fits well ends the search.
    view
        What a tile shows.
    """
    further = max(1, math.ceil(max(image.shape) / LARGEST_PX))
    small = binned(image, further)
    factor = round(scale) * further
    best, place_um = Shift(0.0, 0.0, 0.0, math.inf), near[0].centre_um
    for tile in near:
        stored = binned(tile.picture(), factor)
        height, width = np.minimum(stored.shape, small.shape)
        shift = measure_shift(stored[:height, :width], small[:height, :width])
        if (shift.found, shift.peak) > (best.found, best.peak):
            dx_um, dy_um = view.to_stage((shift.dx_px * factor, shift.dy_px * factor)).tolist()
            best, place_um = shift, (tile.centre_um[0] - dx_um, tile.centre_um[1] - dy_um)
        if best.peak >= CLEAR_PEAK:
            break
    return best, place_um


def binned(frame: npt.NDArray[np.uint16], factor: int) -> Picture:
    """Return the mean of squares of ``factor`` x ``factor`` pixels, (y, x) counts; the rest is cut."""
    height, width = frame.shape[0] // factor, frame.shape[1] // factor
    part = frame[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return part.mean(axis=(1, 3), dtype=np.float32)  # type: ignore[no-any-return]


def near_tiles(
    good: Sequence[AcquiredTile], place_um: tuple[float, float], within_um: float
) -> list[AcquiredTile]:
    """Return the tiles within a distance of a place, the nearest first."""
    distances = sorted((math.dist(one.centre_um, place_um), at) for at, one in enumerate(good))
    return [good[at] for distance, at in distances[:MOST_COMPARED] if distance <= within_um]


def diagonal_um(view: View) -> float:
    """Return the diagonal of a frame on the specimen, um."""
    return math.hypot(view.width_um, view.height_um)
