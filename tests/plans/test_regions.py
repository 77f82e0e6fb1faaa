from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPoint

from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec, Order
from plans.specs.roi import Roi
from plans.specs.view import View
from tests.plans.geometries import frame, orders, overlaps, points, rois, uncovered, views

SLACK = 1e-4
"""Part of a tile's side that a region may stick out uncovered: rounding, far below any overlap."""


@settings(max_examples=200)
@given(
    data=st.data(),
    view=views(),
    overlap=overlaps,
    order=orders,
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_every_point_of_a_region_is_covered(
    data: st.DataObject, view: View, overlap: tuple[float, float], order: Order, size: tuple[int, int]
) -> None:
    """Any outline, rotation, sensor, overlap and supertile; and no tile shows nothing of it."""
    overlap = (min(overlap[0], 0.5), min(overlap[1], 0.5))  # few enough tiles
    region = data.draw(rois(view))
    grid = make_grid(
        MontageSpec(rois=(region,), overlap=overlap, order=order, supertile=size), view, (0.0, 0.0)
    )
    side = min(view.width_um, view.height_um)
    shape, frames = region.shape(), [frame(view, tile) for tile in grid.tiles]
    assert uncovered(shape, frames, SLACK * side).is_empty
    assert all(one.intersects(shape) for one in frames)
    assert [tile.raster_index for tile in grid.tiles] == list(range(len(frames)))
    assert len({(tile.row, tile.column) for tile in grid.tiles}) == len(frames)


@given(view=views(), overlap=overlaps, corners=st.lists(points, min_size=2, max_size=5, unique=True))
def test_corners_are_covered_by_a_rectangle_of_the_camera(
    view: View, overlap: tuple[float, float], corners: list[tuple[float, float]]
) -> None:
    middle = np.mean(corners, axis=0)
    reach = np.abs(view.to_camera(np.array(corners) - middle)).max(axis=0)
    shrink = 5 / max(5, *(reach / (view.width_px, view.height_px)))  # a raster of ten tiles
    near = tuple((float(x), float(y)) for x, y in middle + (np.array(corners) - middle) * shrink)
    if len(set(near)) < 2:
        return
    spec = MontageSpec(corners_um=near, overlap=(min(overlap[0], 0.5), min(overlap[1], 0.5)))
    grid = make_grid(spec, view, (0.0, 0.0))
    assert len(grid.tiles) == grid.rows * grid.columns
    side = min(view.width_um, view.height_um)
    hull = MultiPoint(near).convex_hull
    assert uncovered(hull, [frame(view, tile) for tile in grid.tiles], SLACK * side).is_empty


def test_pieces_outside_the_region_are_left_out() -> None:
    view = View.from_nominal(1000, 1000, 10.0, 0.0)
    corner = ((0.0, 0.0), (60.0, 0.0), (60.0, 10.0), (10.0, 10.0), (10.0, 60.0), (0.0, 60.0))
    grid = make_grid(MontageSpec(rois=(Roi(name="corner", polygon_um=corner),)), view, (0.0, 0.0))
    assert (grid.rows, grid.columns) == (7, 7)
    assert {(tile.row, tile.column) for tile in grid.tiles} == {
        (row, column) for row in range(7) for column in range(7) if row < 2 or column < 2
    }


def test_regions_are_taken_in_their_order_and_named() -> None:
    view = View.from_nominal(1000, 1000, 10.0, 0.0)
    regions = tuple(
        Roi(name=name, polygon_um=((x, 0), (x + 15, 0), (x + 15, 15), (x, 15)))
        for name, x in (("second", 500), ("first", 0))
    )
    grid = make_grid(MontageSpec(rois=regions), view, (0.0, 0.0))
    assert grid.roi_names == ("second", "first")
    assert [tile.roi for tile in grid.tiles] == [0] * 4 + [1] * 4
    assert grid.tiles[0].x_um == pytest.approx(500 + 7.5 - 4.5)
