"""A number of every tile, where the tile lies: in the grid of its montage, or on the stage.

Means on the stage are made in the database: only what is shown is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Integer, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from tiled_server.index.access import Tags
from tiled_server.index.queries import Row, Scope
from tiled_server.index.schema import tiles

_BINS: Final = 64
MOST_BINS: Final = 500
_SLACK: Final = 1e-9
"""Of a square: by so much it is larger, for the outermost positions of a single one to lie in it."""


async def heatmap(connection: AsyncConnection, montage_id: str, metric: str, roi: int | None) -> list[Row]:
    """Return the values of a metric as matrices, one a region: its best attempts, by row and column."""
    region = func.coalesce(tiles.c.roi, 0)
    statement = select(region, tiles.c.row, tiles.c.column, tiles.c[metric]).where(
        tiles.c.montage_id == montage_id, tiles.c.best, tiles.c.row >= 0, tiles.c.column >= 0
    )
    if roi is not None:
        statement = statement.where(region == roi)
    cells: dict[int, dict[tuple[int, int], float | None]] = {}
    for number, row, column, value in await connection.execute(statement):
        cells.setdefault(number, {})[row, column] = value
    return [_region(number, cells[number]) for number in sorted(cells)]


def _region(roi: int, cells: Mapping[tuple[int, int], float | None]) -> Row:
    row0, column0 = (min(place[axis] for place in cells) for axis in (0, 1))
    rows, columns = (1 + max(place[axis] for place in cells) for axis in (0, 1))
    moved = {(row - row0, column - column0): value for (row, column), value in cells.items()}
    values = _matrix(rows - row0, columns - column0, moved)
    return {"roi": roi, "row0": row0, "column0": column0, "values": values}


def _matrix(rows: int, columns: int, cells: Mapping[tuple[int, int], Any]) -> list[list[Any]]:
    return [[cells.get((row, column)) for column in range(columns)] for row in range(rows)]


class Bins(NamedTuple):
    """Squares of the stage.

    Attributes
    ----------
    x0_um, y0_um
        Corner of the first square, um.
    size_um
        Side of a square, um.
    rows, columns
        How many along y and along x.
    """

    x0_um: float
    y0_um: float
    size_um: float
    rows: int
    columns: int

    @classmethod
    def over(
        cls, low_um: tuple[float, float], high_um: tuple[float, float], tiles: int, count: int | None = None
    ) -> Bins:
        """Return squares over all places from the smallest to the largest (x, y).

        ``count`` are along the longer side; None: so few that the tiles of a grid leave no gaps, to 64.
        """
        count = min(_BINS, math.isqrt(tiles)) if count is None else count
        spans = [high - low for low, high in zip(low_um, high_um, strict=True)]
        size = max(spans) / max(count - 1, 1) or 1.0
        # the outermost tiles lie half a square from the edge, or near it: a grid may be turned a little
        columns, rows = (round(span / size) + 1 if count > 1 else 1 for span in spans)
        size *= 1 + _SLACK
        x0, y0 = (
            (low + high - number * size) / 2
            for low, high, number in zip(low_um, high_um, (columns, rows), strict=True)
        )
        return cls(x0, y0, size, rows, columns)


async def stage_map(
    connection: AsyncConnection, scope: Scope, metric: str, bins: int | None, tags: Tags
) -> Row:
    """Return the mean of a metric in squares of the stage, of the best attempts that have it.

    Tiles lie where the centres of their images are.

    Parameters
    ----------
    connection
        To the index.
    scope
        Whose tiles.
    metric
        A column of the tiles.
    bins
        Squares along the longer side, 1 to `MOST_BINS`; None: as `Bins.over` says.
    tags
        Of the caller.

    Returns
    -------
    dict
        ``x0_um``, ``y0_um``, ``bin_um`` as of `Bins` (None without a tile); ``values`` and ``counts``, by y
        and x: means (None without a tile), and of how many tiles.
    """
    x, y = (func.coalesce(tiles.c[f"centre_{axis}_um"], tiles.c[f"{axis}_um"]) for axis in "xy")
    value = tiles.c[metric]
    where = [
        *scope.conditions(tags, connection.dialect.name),
        value.is_not(None),
        x.is_not(None),
        y.is_not(None),
    ]
    spans = select(func.min(x), func.min(y), func.max(x), func.max(y), func.count()).where(*where)
    x0, y0, x1, y1, count = (await connection.execute(spans)).one()
    if x0 is None:
        return {"x0_um": None, "y0_um": None, "bin_um": None, "values": [], "counts": []}
    made = Bins.over((x0, y0), (x1, y1), count, bins)
    row, column = (
        _floor((at - low) / made.size_um, connection.dialect.name)
        for at, low in ((y, made.y0_um), (x, made.x0_um))
    )
    placed = select(row.label("at"), column.label("along"), value.label("value")).where(*where).subquery()
    place = (placed.c["at"], placed.c["along"])
    statement = select(*place, func.avg(placed.c["value"]), func.count()).group_by(*place)
    found = (await connection.execute(statement)).all()
    means = {(at, along): float(mean) for at, along, mean, _ in found}
    counts = {(at, along): number for at, along, _, number in found}
    return {
        "x0_um": made.x0_um, "y0_um": made.y0_um, "bin_um": made.size_um,
        "values": _matrix(made.rows, made.columns, means),
        "counts": [[one or 0 for one in line] for line in _matrix(made.rows, made.columns, counts)],
    }  # fmt: skip


def _floor(value: ColumnElement[Any], dialect: str) -> ColumnElement[int]:
    """Return the whole part of a number that is not negative; PostgreSQL would round it."""
    return cast(func.floor(value) if dialect == "postgresql" else value, Integer)
