"""Where the pieces of a montage lie as SerialEM counts: whole pixels from the lower left corner, y up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tiled_server.exports.montage import Floats, Montage

Whole = npt.NDArray[np.int64]
_OFF_GRID_PX: Final = 2.0
"""So far from a regular grid a piece may be asked for, and is still counted to it."""
_OFF_STEP: Final = 1e-3
"""The same, of the whole width: the step of a grid is rounded."""


@dataclass(frozen=True)
class Pieces:
    """Pieces of a montage, in the order of its table.

    Attributes
    ----------
    coordinates
        ``PieceCoordinates``, (frame, 3): x, y of the lower left corner, px, and the section.
    aligned
        ``AlignedPieceCoords``, (frame, 3), where the live mosaic found them; None: it did not.
    sections
        Region and attempt of each section.
    """

    coordinates: Whole
    aligned: list[tuple[int, int, int] | None]
    sections: list[tuple[int, int]]


def pieces(montage: Montage) -> Pieces:
    """Return the pieces of a montage.

    A section is a region; where a tile comes twice, a region and an attempt. Pieces on a regular grid get
    coordinates of one, as SerialEM has them; others those that were asked for, rounded.

    Raises
    ------
    ConfigurationError
        A run does not say how large a pixel is and how the image is turned.
    """
    table, asked = montage.table, montage.requested_px()
    once = not table.duplicated(["roi", "row", "column"]).any()
    names = list(zip(table["roi"], 0 * table["attempt"] if once else table["attempt"], strict=True))
    sections = sorted({(int(roi), int(attempt)) for roi, attempt in names})
    coordinates: Whole = np.zeros((len(table), 3), np.int64)
    numbers = {one: z for z, one in enumerate(sections)}
    coordinates[:, 2] = [numbers[int(roi), int(attempt)] for roi, attempt in names]
    for roi in montage.rois:
        of = np.flatnonzero(table["roi"] == roi)
        coordinates[of, :2] = _corners(table.iloc[of], asked[of], montage.size_px)
    return Pieces(coordinates, _aligned(montage, coordinates), sections)


def _corners(table: pd.DataFrame, asked: Floats, size_px: tuple[int, int]) -> Whole:
    """Return lower left corners of the pieces of a region, the lowest and leftmost at 0."""
    rows, columns = table["row"].to_numpy(), table["column"].to_numpy()
    known = np.flatnonzero(np.isfinite(asked).all(1))
    grid = np.zeros_like(asked)
    for axis, index in ((0, columns), (1, rows)):
        step = float(size_px[axis])
        if known.size and np.ptp(index[known]):
            design = np.stack([index[known], np.ones(known.size)], 1)
            step = float(np.linalg.lstsq(design, asked[known, axis], rcond=None)[0][0])
        grid[:, axis] = index * round(step)
    places = grid if known.size < len(asked) or _regular(asked, grid) else np.round(asked)
    # y up: the corner of the lowest row is 0
    corners = np.stack([places[:, 0] - places[:, 0].min(), places[:, 1].max() - places[:, 1]], -1)
    return np.asarray(np.round(corners), np.int64)


def _regular(asked: Floats, grid: Floats) -> bool:
    """Return whether places are those of a grid, both (piece, 2) px, apart from a common shift."""
    off, near = asked - grid, _OFF_GRID_PX + _OFF_STEP * np.ptp(grid, 0)
    return bool((np.abs(off - np.median(off, 0)) <= near).all())


def _aligned(montage: Montage, coordinates: Whole) -> list[tuple[int, int, int] | None]:
    """Return the places that the mosaic found, counted like the pieces of the section as well as can be."""
    solved = np.stack([montage.column("solved_x_px"), -montage.column("solved_y_px")], -1)
    known = np.isfinite(solved).all(1)
    found: list[tuple[int, int, int] | None] = [None] * len(solved)
    for z in np.unique(coordinates[known, 2]):
        of = np.flatnonzero(known & (coordinates[:, 2] == z))
        shift = np.median(coordinates[of, :2] - solved[of], 0)
        for k, (x, y) in zip(of, np.round(solved[of] + shift).astype(int), strict=True):
            found[k] = int(x), int(y), int(z)
    return found
