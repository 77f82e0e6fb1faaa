from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import LimitError
from devices.stage.driver import StageLimits
from plans.checks import check_positions
from plans.specs.grid import Tile, make_grid
from plans.specs.montage import MontageSpec, Order
from plans.specs.view import View
from tests.plans.geometries import centres, frame, orders, overlaps, points, rois, views

counts = st.integers(1, 9)


def by_place(tiles: tuple[Tile, ...]) -> dict[tuple[int, int, int], Tile]:
    return {(tile.roi, tile.row, tile.column): tile for tile in tiles}


@given(rows=counts, columns=counts, view=views(), overlap=overlaps, centre=points, order=orders)
def test_neighbours_overlap_as_asked_on_both_camera_axes(
    rows: int,
    columns: int,
    view: View,
    overlap: tuple[float, float],
    centre: tuple[float, float],
    order: Order,
) -> None:
    """Measured from what the tiles show: any sensor, turned, mirrored or sheared on the stage."""
    spec = MontageSpec(rows=rows, columns=columns, overlap=overlap, centre_um=centre, order=order)
    tiles = make_grid(spec, view, (0.0, 0.0)).tiles
    place = by_place(tiles)
    for (roi, row, column), tile in place.items():
        shown = frame(view, tile)
        for axis, other in enumerate(((roi, row, column + 1), (roi, row + 1, column))):
            if other in place:
                shared = shown.intersection(frame(view, place[other])).area / shown.area
                assert shared == pytest.approx(overlap[axis], abs=1e-6)
    assert np.mean(centres(tiles), axis=0) == pytest.approx(centre, abs=1e-6)


@given(rows=counts, columns=counts, view=views(), order=orders)
def test_the_order_visits_each_tile_once(rows: int, columns: int, view: View, order: Order) -> None:
    grid = make_grid(MontageSpec(rows=rows, columns=columns, order=order), view, (0.0, 0.0))
    assert [tile.raster_index for tile in grid.tiles] == list(range(rows * columns))
    assert len(by_place(grid.tiles)) == rows * columns
    assert (grid.rows, grid.columns, grid.stations) == (rows, columns, rows * columns)


@given(view=views(), parts=st.tuples(st.floats(0.1, 8), st.floats(0.1, 8)), overlap=overlaps)
def test_size_in_um_is_covered_and_not_by_a_line_too_many(
    view: View, parts: tuple[float, float], overlap: tuple[float, float]
) -> None:
    width, height = (
        min(3000.0, part * size) for part, size in zip(parts, (view.width_um, view.height_um), strict=True)
    )
    spec = MontageSpec(width_um=width, height_um=height, overlap=overlap)
    grid = make_grid(spec, view, (0.0, 0.0))
    for count, tile_um, wanted, fraction in (
        (grid.columns, view.width_um, width, overlap[0]),
        (grid.rows, view.height_um, height, overlap[1]),
    ):
        pitch = tile_um * (1 - fraction)
        assert tile_um + (count - 1) * pitch >= wanted * (1 - 1e-6)
        assert count == 1 or tile_um + (count - 2) * pitch < wanted


@given(rows=counts, columns=counts, view=views(), limits=st.tuples(*[st.floats(0.1, 60)] * 4), centre=points)
def test_no_tile_outside_the_limits_is_accepted(
    rows: int, columns: int, view: View, limits: tuple[float, ...], centre: tuple[float, float]
) -> None:
    grid = make_grid(MontageSpec(rows=rows, columns=columns, centre_um=centre), view, (0.0, 0.0))
    stage = StageLimits(
        x_um=(centre[0] - limits[0], centre[0] + limits[1]),
        y_um=(centre[1] - limits[2], centre[1] + limits[3]),
    )
    inside = all(
        stage.x_um[0] <= tile.x_um <= stage.x_um[1] and stage.y_um[0] <= tile.y_um <= stage.y_um[1]
        for tile in grid.tiles
    )
    if inside:
        check_positions(grid.tiles, stage)
    else:
        with pytest.raises(LimitError, match="outside"):
            check_positions(grid.tiles, stage)


def test_blocks_are_lines_of_the_order() -> None:
    view = View.from_nominal(1000, 1000, 8.0, 0.0)
    rows = make_grid(MontageSpec(rows=3, columns=4), view, (0.0, 0.0))
    assert [len(block) for block in rows.blocks()] == [4, 4, 4]
    assert [{tile.row for tile in block} for block in rows.blocks()] == [{0}, {1}, {2}]
    columns = make_grid(MontageSpec(rows=3, columns=4, order="column_wise"), view, (0.0, 0.0))
    assert [{tile.column for tile in block} for block in columns.blocks()] == [{0}, {1}, {2}, {3}]
    spiral = make_grid(MontageSpec(rows=3, columns=4, order="spiral"), view, (0.0, 0.0))
    assert [len(block) for block in spiral.blocks()] == [4, 4, 4]


@given(data=st.data(), view=views(), order=orders, size=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_blocks_never_cross_regions_nor_part_a_station(
    data: st.DataObject, view: View, order: Order, size: tuple[int, int]
) -> None:
    regions = tuple(data.draw(rois(view, name)) for name in "ab")
    grid = make_grid(MontageSpec(rois=regions, order=order, supertile=size, overlap=0.1), view, (0.0, 0.0))
    blocks = list(grid.blocks())
    assert tuple(tile for block in blocks for tile in block) == grid.tiles
    assert all(len({tile.roi for tile in block}) == 1 for block in blocks)
    assert all(before[-1].station != after[0].station for before, after in pairwise(blocks))
    some = grid._replace(tiles=grid.tiles[::3])
    assert tuple(tile for block in some.blocks() for tile in block) == some.tiles


def test_positions_are_regions_of_their_own() -> None:
    view = View.from_nominal(1000, 500, 8.0, 30.0)
    places = ((10.0, 20.0), (-30.0, 5.0), (0.0, 0.0))
    grid = make_grid(MontageSpec(positions_um=places, overlap=0), view, (99.0, 99.0))
    assert [(tile.centre_x_um, tile.centre_y_um) for tile in grid.tiles] == list(places)
    assert [tile.roi for tile in grid.tiles] == [0, 1, 2]
    assert grid.roi_names == ("position 1", "position 2", "position 3")
    each = make_grid(MontageSpec(positions_um=places, rows=2, columns=3), view, (99.0, 99.0))
    assert len(each.tiles) == 18
    for roi, place in enumerate(places):
        middle = np.mean(centres(tuple(tile for tile in each.tiles if tile.roi == roi)), axis=0)
        assert middle == pytest.approx(place, abs=1e-9)


def test_a_raster_of_too_many_tiles_is_refused() -> None:
    with pytest.raises(LimitError, match=r"montage needs .* tiles, over 1000000"):
        make_grid(MontageSpec(width_um=3000, height_um=3000), View.from_nominal(64, 64, 1.0, 0.0), (0.0, 0.0))


@given(data=st.data(), view=views())
def test_the_extent_of_a_region_holds_its_tiles(data: st.DataObject, view: View) -> None:
    regions = tuple(data.draw(rois(view, name)) for name in "ab")
    grid = make_grid(MontageSpec(rois=regions), view, (0.0, 0.0))
    for roi, (x0, y0, x1, y1) in enumerate(grid.extents_px(view)):
        own = tuple(tile for tile in grid.tiles if tile.roi == roi)
        pixels = np.linalg.solve(np.array(view.stage_per_px_um), np.array(centres(own)).T)
        assert [pixels[0].min(), pixels[1].min()] == pytest.approx([x0, y0])
        assert [pixels[0].max(), pixels[1].max()] == pytest.approx([x1, y1])
    assert grid._replace(tiles=own).extents_px(view)[0] == []
