"""Where the tiles of a montage lie, and in which order they are acquired. Pure geometry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from devices.errors import LimitError
from plans.specs.montage import MontageSpec, Order
from plans.specs.order import visit
from plans.specs.regions import Region, lay_regions
from plans.specs.view import View


class Tile(NamedTuple):
    """A tile: its place in the order and the raster, and how stage and image shift reach it.

    Attributes
    ----------
    raster_index
        Its place in the order of acquisition, once in a montage.
    roi
        Which region, an index into `Grid.roi_names`.
    row, column
        Its place in the raster of its region.
    x_um, y_um
        Where the stage goes.
    image_shift_x_um, image_shift_y_um
        Image shift that brings the tile to the image centre from there.
    centre_x_um, centre_y_um
        Specimen point at the image centre, in stage coordinates.
    station
        Which stage position; tiles of a supertile share one.
    """

    raster_index: int
    roi: int
    row: int
    column: int
    x_um: float
    y_um: float
    image_shift_x_um: float = 0.0
    image_shift_y_um: float = 0.0
    centre_x_um: float = math.nan
    centre_y_um: float = math.nan
    station: int = 0


class Grid(NamedTuple):
    """The tiles of a montage in order of acquisition.

    Attributes
    ----------
    rows, columns
        Size of the raster that bounds a region; of several regions, the largest of each.
    tiles
        In order of acquisition; some of them may be left out (`_replace`).
    roi_names
        Names of the regions.
    order, supertile
        As in the specification.
    """

    rows: int
    columns: int
    tiles: tuple[Tile, ...]
    roi_names: tuple[str, ...]
    order: Order
    supertile: tuple[int, int]

    @property
    def stations(self) -> int:
        """Number of stage positions."""
        return len({tile.station for tile in self.tiles})

    def extents_px(self, view: View) -> list[list[float]]:
        """Return for each region the smallest box with the centres of its tiles: x0, y0, x1, y1.

        In pixels of the view, counted from stage (0, 0); a region without tiles has an empty list.
        """
        centres: list[list[tuple[float, float]]] = [[] for _ in self.roi_names]
        for tile in self.tiles:
            centres[tile.roi].append((tile.centre_x_um, tile.centre_y_um))
        boxes = []
        for own in centres:
            pixels = np.linalg.solve(np.array(view.stage_per_px_um), np.array(own).reshape(-1, 2).T)
            boxes.append([*pixels.min(1).tolist(), *pixels.max(1).tolist()] if own else [])
        return boxes

    def blocks(self) -> Iterator[tuple[Tile, ...]]:
        """Yield the tiles a line of the order at a time, never across regions and never half a station.

        A line is a row or a column of stage positions; orders without lines yield as many as the longer side
        of the raster has.
        """
        columns, rows = self.supertile
        if self.order.startswith("row"):
            lines = groupby(self.tiles, key=lambda tile: (tile.roi, tile.row // rows))
            yield from (tuple(line) for _, line in lines)
        elif self.order.startswith("column"):
            lines = groupby(self.tiles, key=lambda tile: (tile.roi, tile.column // columns))
            yield from (tuple(line) for _, line in lines)
        else:
            length = max(math.ceil(self.rows / rows), math.ceil(self.columns / columns))
            for _, region in groupby(self.tiles, key=lambda tile: tile.roi):
                stations = [tuple(one) for _, one in groupby(region, key=lambda tile: tile.station)]
                for first in range(0, len(stations), length):
                    yield tuple(tile for one in stations[first : first + length] for tile in one)


def make_grid(spec: MontageSpec, view: View, centre_um: tuple[float, float]) -> Grid:
    """Return the grid of a montage.

    Rows and columns are parallel to those of the camera's pixels, whatever the view's matrix: neighbours
    overlap by whole strips. Tiles that lie outside their region are left out.

    Parameters
    ----------
    spec
        What to cover.
    view
        What a frame shows.
    centre_um
        Stage x, y of the centre of the montage, used where the spec names no place.

    Raises
    ------
    LimitError
        A supertile needs more image shift than the view allows, or there are too many tiles.
    """
    regions = lay_regions(spec, view, centre_um)
    _check_supertile(spec, view, regions)
    tiles: list[Tile] = []
    station = 0
    for roi, region in enumerate(regions):
        for members in _stations(spec, view, region):
            tiles.extend(_reach(view, region, members, roi, station, len(tiles)))
            station += 1
    return Grid(
        max(region.rows for region in regions),
        max(region.columns for region in regions),
        tuple(tiles),
        tuple(region.name for region in regions),
        spec.order,
        spec.supertile,
    )


def _stations(spec: MontageSpec, view: View, region: Region) -> Iterator[list[tuple[int, int]]]:
    """Yield the (row, column) of the tiles of each stage position, in order."""
    columns, rows = spec.supertile
    pitch = (
        columns * view.width_um * (1 - spec.overlap_xy[0]),
        rows * view.height_um * (1 - spec.overlap_xy[1]),
    )
    inside = list(visit(rows, columns, "row_wise_snake"))
    size = math.ceil(region.rows / rows), math.ceil(region.columns / columns)
    for station_row, station_column in visit(*size, spec.order, pitch):
        places = ((station_row * rows + row, station_column * columns + column) for row, column in inside)
        if members := [place for place in places if place in region]:
            yield members


def _reach(
    view: View, region: Region, members: list[tuple[int, int]], roi: int, station: int, first: int
) -> Iterator[Tile]:
    """Yield the tiles of one stage position, which lies in the middle of them."""
    rows, columns = zip(*members, strict=True)
    middle = region.centre_of(view, (min(rows) + max(rows)) / 2, (min(columns) + max(columns)) / 2)
    for index, (row, column) in enumerate(members, first):
        centre = region.centre_of(view, row, column)
        shift_x, shift_y = 0.0, 0.0
        if len(members) > 1:
            shift_x, shift_y = view.to_shift((centre[0] - middle[0], centre[1] - middle[1])).tolist()
        yield Tile(index, roi, row, column, *middle, shift_x, shift_y, *centre, station)


def _check_supertile(spec: MontageSpec, view: View, regions: Sequence[Region]) -> None:
    """Refuse a supertile whose corners are out of reach of image shift."""
    columns = min(spec.supertile[0], max(region.columns for region in regions))
    rows = min(spec.supertile[1], max(region.rows for region in regions))
    needed, limit = _farthest_um(spec, view, columns, rows), view.image_shift_limit_um
    if needed <= limit:
        return
    sizes = ((x, y) for x in range(1, columns + 1) for y in range(1, rows + 1))
    fitting = [size for size in sizes if _farthest_um(spec, view, *size) <= limit]
    x, y = max(fitting, key=lambda size: (size[0] * size[1], -abs(size[0] - size[1])))
    raise LimitError(
        f"supertile = {columns} x {rows} needs an image shift of {needed:.3g} um at its corners, over the "
        f"image_shift_limit_um = {limit:g} of this magnification; the largest that fits is {x} x {y} "
        f"({_farthest_um(spec, view, x, y):.3g} um), columns x rows"
    )


def _farthest_um(spec: MontageSpec, view: View, columns: int, rows: int) -> float:
    """Return the image shift of the outermost tiles of a supertile, um."""
    x = (columns - 1) / 2 * view.width_px * (1 - spec.overlap_xy[0])
    y = (rows - 1) / 2 * view.height_px * (1 - spec.overlap_xy[1])
    shifts = view.to_shift(view.to_stage([(x, y), (x, -y)]))
    return float(np.hypot(shifts[:, 0], shifts[:, 1]).max())
