"""Where the tiles of a montage lie, and in which order they are acquired. Pure geometry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from plans.specs.montage import MontageSpec, Order


class FieldOfView(NamedTuple):
    """What one frame shows: its size at the specimen, and how the camera is turned on the stage.

    ``rotation_deg`` turns camera axes (x along a line, y down the lines) into stage axes.
    """

    width_um: float
    height_um: float
    rotation_deg: float


class Tile(NamedTuple):
    """A tile of the grid: its place in the order, its row and column, its stage position in um."""

    raster_index: int
    row: int
    column: int
    x_um: float
    y_um: float


class Grid(NamedTuple):
    """The tiles in order of acquisition; ``block`` tiles follow each other along a line of the order."""

    rows: int
    columns: int
    tiles: tuple[Tile, ...]
    block: int

    def blocks(self) -> Iterator[tuple[Tile, ...]]:
        """Yield the tiles a line at a time."""
        for first in range(0, len(self.tiles), self.block):
            yield self.tiles[first : first + self.block]


def make_grid(spec: MontageSpec, field: FieldOfView, centre_um: tuple[float, float]) -> Grid:
    """Return the grid of a montage.

    Parameters
    ----------
    spec
        What to cover.
    field
        Size and rotation of a tile.
    centre_um
        Stage x, y of the centre of the montage, used where the spec names none.
    """
    fraction_x, fraction_y = spec.overlap_xy
    pitch_x, pitch_y = field.width_um * (1 - fraction_x), field.height_um * (1 - fraction_y)
    if spec.rows is not None and spec.columns is not None:
        rows, columns = spec.rows, spec.columns
    else:
        columns = _count(spec.width_um or 0.0, field.width_um, pitch_x)
        rows = _count(spec.height_um or 0.0, field.height_um, pitch_y)
    angle = math.radians(field.rotation_deg)
    cosine, sine = math.cos(angle), math.sin(angle)
    x0, y0 = spec.centre_um or centre_um
    tiles = []
    for index, (row, column) in enumerate(visit(rows, columns, spec.order)):
        u = (column - (columns - 1) / 2) * pitch_x
        v = (row - (rows - 1) / 2) * pitch_y
        tiles.append(Tile(index, row, column, x0 + cosine * u - sine * v, y0 + sine * u + cosine * v))
    block = {"c": rows, "r": columns, "s": max(rows, columns)}[spec.order[0]]
    return Grid(rows, columns, tuple(tiles), block)


def _count(length_um: float, tile_um: float, pitch_um: float) -> int:
    """Return how many tiles of a pitch cover a length."""
    return 1 + max(0, math.ceil((length_um - tile_um) / pitch_um - 1e-9))


def visit(rows: int, columns: int, order: Order) -> Iterator[tuple[int, int]]:
    """Yield every (row, column) once, in the given order; the spiral begins at the centre."""
    if order == "spiral":
        yield from _spiral(rows, columns)
        return
    snake = order.endswith("_snake")
    if order.startswith("row"):
        for row in range(rows):
            line = range(columns)
            yield from ((row, column) for column in (reversed(line) if snake and row % 2 else line))
    else:
        for column in range(columns):
            line = range(rows)
            yield from ((row, column) for row in (reversed(line) if snake and column % 2 else line))


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
