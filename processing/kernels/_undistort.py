"""A field undone: from where points of the mosaic come in a tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
_NODES: Final = 128
_FINEST_PX: Final = 4
_ITERATIONS: Final = 50
_UNDONE_PX: Final = 1e-3


class Field(Protocol):
    """A distortion that all tiles share."""

    def __hash__(self) -> int:
        """Return a hash: fields are told apart by it."""
        ...

    def displacement_px(self, points_px: npt.NDArray[np.float64], /) -> npt.NDArray[np.float64]:
        """Return D at points (..., 2) from the tile's centre, (..., 2) px."""
        ...


def step_px(rows: int, columns: int) -> int:
    """Return the distance of the nodes at which a field is undone, for a tile of this size."""
    return max(_FINEST_PX, math.ceil(max(rows, columns) / _NODES))


@dataclass(frozen=True, slots=True, eq=False)
class Undo:
    """What leads from q = p + D(p) back to p: E on a grid of q, and a step of the fixed point from there."""

    field: Field
    grid: npt.NDArray[np.float32]
    first: Points
    step: int
    most: Points

    def __call__(self, q: Points) -> Points:
        """Return p for points q (..., 2) from the tile's centre, px."""
        at = ((q - self.first) / self.step).astype(np.float32)
        back = cv2.remap(self.grid, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return q - _bounded(self.field, q + back, self.most)


@lru_cache(maxsize=8)
def undo(field: Field, rows: int, columns: int) -> Undo:
    """Return the way back of a field; kept by the identity of the field.

    Raises
    ------
    ValueError
        There is none: the field folds the tile.
    """
    half, step = np.array([columns / 2, rows / 2]), step_px(rows, columns)
    # a little outside it goes on, as nodes just outside matter inside
    most = half + 2 * step
    coarse = np.stack(np.meshgrid(*(np.linspace(-size, size, 33) for size in half)), -1)
    reach = float(np.abs(field.displacement_px(coarse)).max())
    first = -(most + reach)
    across, down = (int(count) for count in np.ceil(-2 * first / step) + 1)
    nodes = first + step * np.stack(np.meshgrid(np.arange(across), np.arange(down)), -1)
    found = np.zeros_like(nodes)
    moved = math.inf
    for _ in range(_ITERATIONS):
        better = -_bounded(field, nodes + found, most)
        moved = float(np.abs(better - found).max())
        found = better
        if moved < _UNDONE_PX:
            return Undo(field, np.ascontiguousarray(found, np.float32), first, step, most)
    raise ValueError(
        f"the field cannot be undone: after {_ITERATIONS} steps it still moves by {moved:.3g} px; it reaches "
        f"{reach:.3g} px and folds a tile of {rows} x {columns} px"
    )


def _bounded(field: Field, points: Points, most: Points) -> Points:
    """Return D, outside of a box that of the nearest point in it: polynomials run away there."""
    return field.displacement_px(np.clip(points, -most, most))
