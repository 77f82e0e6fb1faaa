"""The order in which the places of a raster are visited."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plans.specs.montage import Order


def visit(
    rows: int, columns: int, order: Order, pitch: tuple[float, float] = (1.0, 1.0)
) -> Iterator[tuple[int, int]]:
    """Yield every (row, column) once, in the given order.

    Rows and columns are walked in one direction, or to and fro (snake). The spiral and ``centre_out`` begin
    at the centre: the spiral turns outwards a step at a time, ``centre_out`` takes the nearest first.

    Parameters
    ----------
    rows, columns
        Size of the raster.
    order
        Which order.
    pitch
        Distances of columns and of rows, in one unit; they matter for ``centre_out`` alone.
    """
    if order == "spiral":
        yield from _spiral(rows, columns)
    elif order == "centre_out":
        yield from _centre_out(rows, columns, pitch)
    elif order.startswith("row"):
        yield from _lines(rows, columns, order.endswith("_snake"))
    else:
        yield from ((row, column) for column, row in _lines(columns, rows, order.endswith("_snake")))


def _lines(lines: int, length: int, snake: bool) -> Iterator[tuple[int, int]]:
    for line in range(lines):
        places = range(length)
        yield from ((line, place) for place in (reversed(places) if snake and line % 2 else places))


def _centre_out(rows: int, columns: int, pitch: tuple[float, float]) -> Iterator[tuple[int, int]]:
    def nearness(place: tuple[int, int]) -> tuple[float, float]:
        y, x = (place[0] - (rows - 1) / 2) * pitch[1], (place[1] - (columns - 1) / 2) * pitch[0]
        return round(math.hypot(x, y), 9), math.atan2(y, x)

    yield from sorted(((row, column) for row in range(rows) for column in range(columns)), key=nearness)


def _spiral(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Walk outwards: one step right, one down, two left, two up, three right, ..."""
    row, column = (rows - 1) // 2, (columns - 1) // 2
    left = rows * columns
    step, heading = 1, 0
    directions = ((0, 1), (1, 0), (0, -1), (-1, 0))
    while True:
        for _ in range(2):
            down, right = directions[heading % 4]
            for _ in range(step):
                if 0 <= row < rows and 0 <= column < columns:
                    yield row, column
                    left -= 1
                    if not left:
                        return
                row, column = row + down, column + right
            heading += 1
        step += 1
