"""The regions of a montage, each with the raster that covers it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from devices.errors import LimitError
from plans.specs.montage import MontageSpec
from plans.specs.view import View

WHOLE = "montage"
"""Name of the region of a montage that is a rectangle."""
MAX_TILES = 1_000_000
"""Tiles of a raster, those outside the region included."""
SLIVER = 1e-6
"""A tile that reaches into a region by less than this part of its side shows nothing of it."""


@dataclass(frozen=True, eq=False)
class Region:
    """A raster over one region: its centre on the stage, its size, and which of its tiles lie inside.

    ``pitch_px`` is the distance of tiles along camera x and y, binned pixels; ``inside`` (row, column) bool,
    or None where all tiles do.
    """

    name: str
    centre_um: tuple[float, float]
    columns: int
    rows: int
    pitch_px: tuple[float, float]
    inside: npt.NDArray[np.bool_] | None = None

    def __contains__(self, place: tuple[int, int]) -> bool:
        row, column = place
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            return False
        return self.inside is None or bool(self.inside[row, column])

    def centre_of(self, view: View, row: float, column: float) -> tuple[float, float]:
        """Return the stage point, um, of a place of the raster, which may lie between two tiles."""
        (a, b), (c, d) = view.stage_per_px_um
        x = (column - (self.columns - 1) / 2) * self.pitch_px[0]
        y = (row - (self.rows - 1) / 2) * self.pitch_px[1]
        return self.centre_um[0] + a * x + b * y, self.centre_um[1] + c * x + d * y


def lay_regions(spec: MontageSpec, view: View, centre_um: tuple[float, float]) -> list[Region]:
    """Return the regions of a montage in the order of the specification.

    Parameters
    ----------
    spec
        What to cover.
    view
        What a frame shows.
    centre_um
        Stage x, y of the centre, used where the spec names no place.

    Raises
    ------
    LimitError
        A raster of more than `MAX_TILES` would be needed.
    """
    size = np.array([view.width_px, view.height_px], float)
    pitch = size * (1 - np.array(spec.overlap_xy))
    centre = spec.centre_um or centre_um
    if spec.rois:
        return [_over_shape(roi.name, roi.shape(), view, pitch) for roi in spec.rois]
    if spec.corners_um:
        around = shapely.MultiPoint(spec.corners_um)
        return [_over_box(WHOLE, around, view, pitch)[0]]
    if spec.raster is None:
        edges = np.array([spec.width_um or 0.0, spec.height_um or 0.0]) / (view.width_um, view.height_um)
        return [_raster(WHOLE, centre, edges * size, size, pitch)]
    columns, rows = spec.raster
    step = float(pitch[0]), float(pitch[1])
    if not spec.positions_um:
        return [Region(WHOLE, centre, columns, rows, step)]
    return [
        Region(f"position {number}", place, columns, rows, step)
        for number, place in enumerate(spec.positions_um, 1)
    ]


def _raster(
    name: str,
    centre_um: tuple[float, float],
    extent_px: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    pitch: npt.NDArray[np.float64],
) -> Region:
    """Return the smallest raster of a pitch that covers a rectangle of the camera's axes."""
    counts = 1 + np.maximum(0, np.ceil((extent_px - size) / pitch - 1e-9))
    if counts.prod() > MAX_TILES:
        raise LimitError(
            f"{name} needs {counts[0]:.0f} x {counts[1]:.0f} tiles, over {MAX_TILES}; take a smaller region, "
            f"a lower magnification or less overlap"
        )
    return Region(name, centre_um, int(counts[0]), int(counts[1]), (float(pitch[0]), float(pitch[1])))


def _over_box(
    name: str, shape: BaseGeometry, view: View, pitch: npt.NDArray[np.float64]
) -> tuple[Region, BaseGeometry]:
    """Return the raster over the camera's bounding box of a shape, and the shape in px about its centre."""
    x_um, y_um = shape.envelope.centroid.coords[0]
    seen = shapely.transform(shape, lambda points: view.to_camera(points - (x_um, y_um)))
    low_x, low_y, high_x, high_y = seen.bounds
    middle = np.array([low_x + high_x, low_y + high_y]) / 2
    centre = np.array([x_um, y_um]) + view.to_stage(middle)
    size = np.array([view.width_px, view.height_px], float)
    extent = np.array([high_x - low_x, high_y - low_y])
    region = _raster(name, (float(centre[0]), float(centre[1])), extent, size, pitch)
    return region, shapely.transform(seen, lambda points: points - middle)


def _over_shape(name: str, shape: BaseGeometry, view: View, pitch: npt.NDArray[np.float64]) -> Region:
    """Return the raster over a shape, without the tiles that show nothing of it."""
    region, seen = _over_box(name, shape, view, pitch)
    x, y = (
        (np.arange(count) - (count - 1) / 2) * step
        for count, step in zip((region.columns, region.rows), region.pitch_px, strict=True)
    )
    half_x, half_y = view.width_px * (0.5 - SLIVER), view.height_px * (0.5 - SLIVER)
    x, y = x[np.newaxis, :], y[:, np.newaxis]
    boxes = shapely.box(x - half_x, y - half_y, x + half_x, y + half_y)
    shapely.prepare(seen)
    inside = shapely.intersects(seen, boxes)
    return replace(region, inside=inside)
