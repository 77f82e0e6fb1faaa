from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.specs.grid import FieldOfView, make_grid, visit
from plans.specs.montage import MontageSpec, Order

ORDERS: tuple[Order, ...] = ("row_wise", "column_wise", "row_wise_snake", "column_wise_snake", "spiral")
counts = st.integers(1, 12)
fields = st.builds(
    FieldOfView,
    width_um=st.floats(0.5, 50),
    height_um=st.floats(0.5, 50),
    rotation_deg=st.floats(-180, 180),
)


@given(rows=counts, columns=counts, order=st.sampled_from(ORDERS))
def test_every_order_visits_each_tile_once(rows: int, columns: int, order: Order) -> None:
    visited = list(visit(rows, columns, order))
    assert len(visited) == rows * columns
    assert set(visited) == {(row, column) for row in range(rows) for column in range(columns)}


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("row_wise", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        ("row_wise_snake", [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]),
        ("column_wise", [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
        ("column_wise_snake", [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]),
        ("spiral", [(0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (0, 0)]),
    ],
)
def test_order(order: Order, expected: list[tuple[int, int]]) -> None:
    assert list(visit(2, 3, order)) == expected


@given(rows=counts, columns=counts)
def test_snake_moves_one_tile_at_a_time(rows: int, columns: int) -> None:
    for order in ("row_wise_snake", "column_wise_snake"):
        visited = np.array(list(visit(rows, columns, order)))
        assert (np.abs(np.diff(visited, axis=0)).sum(axis=1) == 1).all()


@given(
    rows=counts,
    columns=counts,
    field=fields,
    overlap=st.tuples(st.floats(0, 0.8), st.floats(0, 0.8)),
    centre=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_neighbours_overlap_as_asked_on_both_camera_axes(
    rows: int, columns: int, field: FieldOfView, overlap: tuple[float, float], centre: tuple[float, float]
) -> None:
    spec = MontageSpec(rows=rows, columns=columns, overlap=overlap, centre_um=centre, order="row_wise")
    grid = make_grid(spec, field, (0.0, 0.0))
    place = {(tile.row, tile.column): np.array([tile.x_um, tile.y_um]) for tile in grid.tiles}
    angle = math.radians(field.rotation_deg)
    to_camera = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for (row, column), position in place.items():
        for step, length, axis in (((0, 1), field.width_um, 0), ((1, 0), field.height_um, 1)):
            other = place.get((row + step[0], column + step[1]))
            if other is not None:
                shift = to_camera @ (other - position)
                assert shift[axis] == pytest.approx(length * (1 - overlap[axis]), abs=1e-6)
                assert shift[1 - axis] == pytest.approx(0, abs=1e-6)
    assert np.mean(list(place.values()), axis=0) == pytest.approx(centre, abs=1e-6)


@given(
    width=st.floats(0.1, 60),
    height=st.floats(0.1, 60),
    field=fields,
    overlap=st.floats(0, 0.8),
)
def test_size_in_um_is_covered_and_not_by_a_line_too_many(
    width: float, height: float, field: FieldOfView, overlap: float
) -> None:
    spec = MontageSpec(width_um=width, height_um=height, overlap=overlap)
    grid = make_grid(spec, field, (0.0, 0.0))
    for count, tile_um, wanted in (
        (grid.columns, field.width_um, width),
        (grid.rows, field.height_um, height),
    ):
        pitch = tile_um * (1 - overlap)
        assert tile_um + (count - 1) * pitch >= wanted * (1 - 1e-6)
        assert count == 1 or tile_um + (count - 2) * pitch < wanted


def test_blocks_are_lines_of_the_order() -> None:
    field = FieldOfView(8.0, 8.0, 0.0)
    rows = make_grid(MontageSpec(rows=3, columns=4), field, (0.0, 0.0))
    assert [len(block) for block in rows.blocks()] == [4, 4, 4]
    assert [{tile.row for tile in block} for block in rows.blocks()] == [{0}, {1}, {2}]
    columns = make_grid(MontageSpec(rows=3, columns=4, order="column_wise"), field, (0.0, 0.0))
    assert [{tile.column for tile in block} for block in columns.blocks()] == [{0}, {1}, {2}, {3}]
