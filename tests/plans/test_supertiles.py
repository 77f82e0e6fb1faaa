from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import LimitError
from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec, Order
from plans.specs.view import View
from tests.plans.geometries import centres, orders, overlaps, points, views

counts = st.integers(1, 9)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(rows=counts, columns=counts, view=views(), size=sizes, overlap=overlaps, order=orders, centre=points)
def test_stage_and_image_shift_together_reach_what_the_stage_alone_reaches(
    rows: int,
    columns: int,
    view: View,
    size: tuple[int, int],
    overlap: tuple[float, float],
    order: Order,
    centre: tuple[float, float],
) -> None:
    spec = MontageSpec(rows=rows, columns=columns, overlap=overlap, order=order, supertile=size)
    grid = make_grid(spec, view, centre)
    for tile in grid.tiles:
        shift = np.array([tile.image_shift_x_um, tile.image_shift_y_um])
        reached = np.array([tile.x_um, tile.y_um]) + np.array(view.stage_per_shift) @ shift
        assert reached == pytest.approx((tile.centre_x_um, tile.centre_y_um), abs=1e-6)
    alone = make_grid(spec.model_copy(update={"supertile": (1, 1)}), view, centre)
    assert all((t.image_shift_x_um, t.image_shift_y_um) == (0.0, 0.0) for t in alone.tiles)
    assert all((t.x_um, t.y_um) == (t.centre_x_um, t.centre_y_um) for t in alone.tiles)
    together, apart = (
        {(tile.row, tile.column): (tile.centre_x_um, tile.centre_y_um) for tile in one.tiles}
        for one in (grid, alone)
    )
    assert together == apart


@given(rows=counts, columns=counts, view=views(), size=sizes, order=orders)
def test_a_station_is_visited_once_and_full_but_at_the_edges(
    rows: int, columns: int, view: View, size: tuple[int, int], order: Order
) -> None:
    spec = MontageSpec(rows=rows, columns=columns, order=order, supertile=size)
    grid = make_grid(spec, view, (0.0, 0.0))
    stations = [tuple(members) for _, members in groupby(grid.tiles, key=lambda tile: tile.station)]
    assert [members[0].station for members in stations] == list(range(grid.stations))
    assert grid.stations == -(-rows // size[1]) * -(-columns // size[0])
    for members in stations:
        assert len({(tile.x_um, tile.y_um) for tile in members}) == 1
        within = [(tile.row // size[1], tile.column // size[0]) for tile in members]
        assert len(set(within)) == 1
        full = min(size[1], rows - within[0][0] * size[1]) * min(size[0], columns - within[0][1] * size[0])
        assert len(members) == full
        middle = (centres(members).min(axis=0) + centres(members).max(axis=0)) / 2
        assert (members[0].x_um, members[0].y_um) == pytest.approx(tuple(middle), abs=1e-6)


def test_three_by_three_on_a_square_camera() -> None:
    view = View.from_nominal(1000, 1000, 10.0, 0.0)  # tiles of 10 um, 9 um apart
    grid = make_grid(MontageSpec(rows=4, columns=3, supertile=(3, 3)), view, (0.0, 0.0))
    assert [(tile.row, tile.column) for tile in grid.tiles[:9]] == [
        (0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip
    first, edge = grid.tiles[0], grid.tiles[9]
    assert (first.image_shift_x_um, first.image_shift_y_um) == pytest.approx((-9.0, -9.0))
    assert (edge.row, edge.station, edge.image_shift_y_um) == (3, 1, 0.0)
    assert edge.y_um - first.y_um == pytest.approx(18.0)  # its own row is in the middle of the image


def test_out_of_reach_names_the_largest_that_fits() -> None:
    view = View.from_nominal(1000, 1000, 10.0, 0.0, image_shift_limit_um=13.0)
    with pytest.raises(LimitError, match=r"supertile = 5 x 5 .* 25\.5 um .* image_shift_limit_um = 13"):
        make_grid(MontageSpec(rows=9, columns=9, supertile=(5, 5)), view, (0.0, 0.0))
    make_grid(MontageSpec(rows=9, columns=9, supertile=(3, 3)), view, (0.0, 0.0))
    # what a raster does not need is not refused
    make_grid(MontageSpec(rows=9, columns=1, overlap=0.1, supertile=(5, 3)), view, (0.0, 0.0))


@given(view=views(), limit=st.floats(0.05, 3.0), size=st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_no_image_shift_goes_over_its_limit(view: View, limit: float, size: tuple[int, int]) -> None:
    """A supertile is accepted if its farthest tile is in reach; if not, what is proposed is the largest."""
    limit *= float(np.hypot(*view.to_shift(view.to_stage((view.width_px, view.height_px)))))
    narrow = replace(view, image_shift_limit_um=limit)

    def farthest(columns: int, rows: int) -> float:
        spec = MontageSpec(rows=rows, columns=columns, supertile=(columns, rows))
        tiles = make_grid(spec, view, (0.0, 0.0)).tiles
        return max(float(np.hypot(tile.image_shift_x_um, tile.image_shift_y_um)) for tile in tiles)

    spec = MontageSpec(rows=8, columns=8, supertile=size)
    try:
        tiles = make_grid(spec, narrow, (0.0, 0.0)).tiles
    except LimitError as error:
        assert farthest(*size) > limit * (1 - 1e-9)
        found = re.search(r"largest that fits is (\d+) x (\d+)", str(error))
        assert found is not None
        columns, rows = int(found[1]), int(found[2])
        assert farthest(columns, rows) <= limit * (1 + 1e-9)
        larger = [
            (x, y) for x in range(1, size[0] + 1) for y in range(1, size[1] + 1) if x * y > columns * rows
        ]
        assert all(farthest(x, y) > limit * (1 - 1e-9) for x, y in larger)
    else:
        shifts = [np.hypot(tile.image_shift_x_um, tile.image_shift_y_um) for tile in tiles]
        assert max(shifts) <= limit * (1 + 1e-9)
