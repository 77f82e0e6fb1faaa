"""Maps and weights of a tile that is drawn, row by row."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import njit

WEIGHT_STEPS: Final = 8
"""Steps of a weight a px."""
_STEPS: Final = np.float32(WEIGHT_STEPS)
_MOST: Final = np.float32(65535)
FAST: Final = {"contract", "reassoc", "nsz", "arcp", "nnan"}
SAME: Final = {"contract", "nsz", "nnan"}
"""No reassociation: a pixel is the same wherever a strip or an area begins."""

Floats = npt.NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath=SAME)
def fill_maps(
    points: Floats,
    first: int,
    step: int,
    columns: int,
    rows: int,
    map_x: Floats,
    map_y: Floats,
    weight: npt.NDArray[np.uint16],
) -> None:
    """Fill in where pixels come from, and their distance to the tile's edge.

    ``points`` (m, n, 2) are columns and rows of the tile at every ``step``-th pixel; row 0 of the maps is at
    row ``first`` of them.
    """
    height, width = map_x.shape
    for i in range(height):
        for k in range(points.shape[1] - 1):
            begin, end = k * step, min((k + 1) * step, width)
            if end <= begin:
                break
            x, y, slope_x, slope_y = line(points, first, i, step, k)
            to_x, to_y = map_x[i, begin:end], map_y[i, begin:end]
            for j in range(end - begin):
                to_x[j] = x + np.float32(j) * slope_x
                to_y[j] = y + np.float32(j) * slope_y
            fill_depth(columns, rows, x, y, slope_x, slope_y, weight[i, begin:end])


@njit(cache=True, nogil=True, fastmath=SAME)
def line(points: Any, first: int, i: int, step: int, k: int) -> Any:
    """Return where row ``i`` is at node ``k``, and by how much it goes on a pixel: x, y, and slopes."""
    part = np.float32(1.0 / step)
    node, t = first + i // step, np.float32(i % step) * part
    above, below = points[node], points[node + 1]
    x = above[k, 0] + t * (below[k, 0] - above[k, 0])
    y = above[k, 1] + t * (below[k, 1] - above[k, 1])
    slope_x = (above[k + 1, 0] + t * (below[k + 1, 0] - above[k + 1, 0]) - x) * part
    slope_y = (above[k + 1, 1] + t * (below[k + 1, 1] - above[k + 1, 1]) - y) * part
    return x, y, slope_x, slope_y


@njit(cache=True, nogil=True, fastmath=SAME)
def fill_depth(columns: int, rows: int, x0: Any, y0: Any, slope_x: Any, slope_y: Any, to: Any) -> None:
    """Fill in the distance to the tile's edge along a line."""
    half_x, half_y = np.float32(columns / 2), np.float32(rows / 2)
    centre_x, centre_y = np.float32((columns - 1) / 2), np.float32((rows - 1) / 2)
    for j in range(len(to)):
        x, y = x0 + np.float32(j) * slope_x, y0 + np.float32(j) * slope_y
        inside = min(half_x - abs(x - centre_x), half_y - abs(y - centre_y))
        to[j] = np.int32(min(max(inside * _STEPS + np.float32(1), np.float32(0)), _MOST))


@njit(cache=True, nogil=True)
def straight_weight(
    rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64], weight: npt.NDArray[np.uint16]
) -> None:
    """Fill in the weight of a tile that is not turned, from rows' and columns' distance to its edge."""
    row_steps = np.minimum(np.maximum(rows * WEIGHT_STEPS + 1, 0.0), 65535.0).astype(np.uint16)
    column_steps = np.minimum(np.maximum(columns * WEIGHT_STEPS + 1, 0.0), 65535.0).astype(np.uint16)
    for i in range(len(row_steps)):
        steps, to = row_steps[i], weight[i]
        for j in range(len(column_steps)):
            to[j] = min(steps, column_steps[j])
