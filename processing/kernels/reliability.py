"""How much of what a frame shows would show again in a second frame: structure over noise, region by region.

A frame is split into two of columns that do not touch each other; what both have in common is structure, what
they do not is noise (split-half reliability; Spearman, doi:10.1111/j.2044-8295.1910.tb00206.x). Two frames of
the same place correlate by the square root of the product of their reliabilities or more, as a half has fewer
pixels: an overlap that is reliable in both and does not correlate shows two different places.
"""

from __future__ import annotations

import math
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
_FINEST_PX: Final = 128
_MOST_BIN: Final = 4
_ROUNDING_COUNTS2: Final = 1 / 12
_APART: Final = 4
"""A half has every so manieth column."""
_FINE, _COARSE = 1.5, 6.0
"""Standard deviations of the band-pass, bins."""


def reliability(image: npt.NDArray[np.number[Any]], cells: int = 10) -> Map:
    """Return how reliable the structure is in each cell of a frame.

    Parameters
    ----------
    image
        (y, x) counts, whole numbers, 16 px or more both ways.
    cells
        How many a side, 1 or more.

    Returns
    -------
    numpy.ndarray
        (cells, cells) float32, -1 to 1: 0 for noise and for nothing, 1 for structure without noise.

    Raises
    ------
    ValueError
        The frame is no image or too small.
    """
    if image.ndim != 2 or min(image.shape) < 16 or cells < 1:
        raise ValueError(f"a frame of {image.shape} px in {cells} cells: 16 x 16 px and 1 cell are the least")
    # noise of neighbouring pixels may hang together (scintillator), not over a bin that is left out
    step = max(1, min(_MOST_BIN, min(image.shape) // _FINEST_PX))
    size = image.shape[1] // step // _APART * _APART, image.shape[0] // step
    part = image[: size[1] * step, : size[0] * step]
    binned = cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    left, right = _band(binned[:, ::_APART]), _band(binned[:, _APART // 2 :: _APART])
    # the mean of the columns on both sides lies where the column between them does
    right = (right + np.concatenate([right[:, :1], right[:, :-1]], axis=1)) / 2
    both, one, other = (_sums(a * b, cells) for a, b in ((left, right), (left, left), (right, right)))
    # what rounding to whole counts leaves is no structure
    least = _ROUNDING_COUNTS2 / step**2 * left.size / cells**2
    found: Map = both / np.sqrt((one + least) * (other + least))
    return np.clip(found, -1, 1)


def _band(half: Map) -> Map:
    margin = 3 * math.ceil(_COARSE)
    # mirrored about its edge in value, too: a shading goes on beyond the frame, and leaves nothing there
    wide = np.pad(half, margin, mode="reflect", reflect_type="odd")
    fine, coarse = (
        cv2.GaussianBlur(wide, (0, 0), sigmaX=sigma / _APART, sigmaY=sigma) for sigma in (_FINE, _COARSE)
    )
    return np.asarray((fine - coarse)[margin:-margin, margin:-margin])


def _sums(values: Map, cells: int) -> Map:
    rows, columns = (np.linspace(0, length, cells + 1).astype(int) for length in values.shape)
    table = cv2.integral(values)
    corners = table[np.ix_(rows, columns)]
    return np.asarray(np.diff(np.diff(corners, axis=0), axis=1), np.float32)


def shared_reliability(first: Map, second: Map, offset: tuple[float, float]) -> tuple[float, float]:
    """Return the reliability of the overlap in both of two frames of one size.

    Parameters
    ----------
    first, second
        Their maps, of the same number of cells.
    offset
        Centre of the second minus that of the first, (x, y), in widths and heights of a frame.

    Returns
    -------
    tuple of float
        Median of the cells that the other frame covers by half or more, or of those it covers most; 0 where
        they do not overlap.
    """
    if max(map(abs, offset)) >= 1:
        return 0.0, 0.0
    x, y = offset
    return _inside(first, x, y), _inside(second, -x, -y)


def _inside(found: Map, x: float, y: float) -> float:
    cells = len(found)
    edges = np.linspace(-0.5, 0.5, cells + 1)
    along = [
        np.clip(np.minimum(edges[1:], at + 0.5) - np.maximum(edges[:-1], at - 0.5), 0, None) * cells
        for at in (y, x)
    ]
    covered = np.multiply.outer(*along)
    return float(np.median(found[covered >= min(0.5, covered.max() * 0.999)]))
