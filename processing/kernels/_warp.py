"""Maps and weights of a tile that is drawn, row by row."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import njit

WEIGHT_STEPS: Final = 8
"""Steps of a weight a px."""
_STEPS: Final = np.float32(WEIGHT_STEPS)
_MOST: Final = np.float32(65535)
FAST: Final = {"contract", "reassoc", "nsz", "arcp", "nnan"}

Floats = npt.NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath=FAST)
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
    half_x, half_y = np.float32(columns / 2), np.float32(rows / 2)
    centre_x, centre_y = np.float32((columns - 1) / 2), np.float32((rows - 1) / 2)
    part = np.float32(1.0 / step)
    nodes = points.shape[1]
    for i in range(height):
        node = first + i // step
        t = np.float32(i % step) * part
        to_x, to_y, deep = map_x[i], map_y[i], weight[i]
        for k in range(nodes - 1):
            x0 = points[node, k, 0] + t * (points[node + 1, k, 0] - points[node, k, 0])
            y0 = points[node, k, 1] + t * (points[node + 1, k, 1] - points[node, k, 1])
            x1 = points[node, k + 1, 0] + t * (points[node + 1, k + 1, 0] - points[node, k + 1, 0])
            y1 = points[node, k + 1, 1] + t * (points[node + 1, k + 1, 1] - points[node, k + 1, 1])
            slope_x, slope_y = (x1 - x0) * part, (y1 - y0) * part
            part_x, part_y = to_x[k * step : (k + 1) * step], to_y[k * step : (k + 1) * step]
            for j in range(len(part_x)):
                part_x[j] = x0 + np.float32(j) * slope_x
                part_y[j] = y0 + np.float32(j) * slope_y
        for j in range(width):
            inside = min(half_x - abs(to_x[j] - centre_x), half_y - abs(to_y[j] - centre_y))
            deep[j] = np.int32(min(max(inside * _STEPS + np.float32(1), np.float32(0)), _MOST))


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
