from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.specs.montage import Order
from plans.specs.order import visit
from tests.plans.geometries import orders

counts = st.integers(1, 12)


@given(rows=counts, columns=counts, order=orders)
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
        ("centre_out", [(0, 1), (1, 1), (0, 0), (0, 2), (1, 2), (1, 0)]),
    ],
)
def test_order(order: Order, expected: list[tuple[int, int]]) -> None:
    assert list(visit(2, 3, order)) == expected


@given(rows=counts, columns=counts)
def test_snake_moves_one_tile_at_a_time(rows: int, columns: int) -> None:
    for order in ("row_wise_snake", "column_wise_snake"):
        visited = np.array(list(visit(rows, columns, order)))
        assert (np.abs(np.diff(visited, axis=0)).sum(axis=1) == 1).all()


@given(rows=counts, columns=counts, pitch=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)))
def test_centre_out_never_comes_nearer(rows: int, columns: int, pitch: tuple[float, float]) -> None:
    ways = [
        math.hypot((column - (columns - 1) / 2) * pitch[0], (row - (rows - 1) / 2) * pitch[1])
        for row, column in visit(rows, columns, "centre_out", pitch)
    ]
    assert all(after > before - 1e-8 for before, after in pairwise(ways))
