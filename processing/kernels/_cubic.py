"""A tile drawn by cubic convolution where it is hardly turned: many pixels at a time, without maps.

Between two nodes places are linear in the pixel. As long as they stay between the same pixels of the image,
relative to the pixel that is drawn, the sixteen neighbours of all lie side by side: no gathering, and the
compiler works on several at once. Kernel: Keys, doi:10.1109/TASSP.1981.1163711, with a = -0.75 as OpenCV's.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels._warp import SAME, fill_depth, line
from processing.kernels.compiled import njit

_A: Final = np.float32(-0.75)
_ONE: Final = np.float32(1)
_STILL: Final = np.float32(1e-6)
"""Pixels a pixel that are no movement: not a tenth of a thousandth from node to node."""

Image = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float32]


@njit(cache=True, nogil=True, fastmath=SAME)
def warp_cubic(
    image: Image, points: Floats, first: int, step: int, pixels: Image, weight: npt.NDArray[np.uint16]
) -> None:
    """Draw rows of a tile, and their distance to its edge.

    ``points`` (m, n, 2) are columns and rows of the image at every ``step``-th pixel; row 0 of ``pixels`` is
    at row ``first`` of them. Outside of the image its border goes on.
    """
    height, width = pixels.shape
    rows, columns = image.shape
    for i in range(height):
        for k in range(points.shape[1] - 1):
            begin, end = k * step, min((k + 1) * step, width)
            if end <= begin:
                break
            x, y, slope_x, slope_y = line(points, first, i, step, k)
            fill_depth(columns, rows, x, y, slope_x, slope_y, weight[i, begin:end])
            _cell(image, x, y, slope_x, slope_y, pixels[i, begin:end])


@njit(cache=True, nogil=True, fastmath=SAME)
def _cell(image: Any, x0: Any, y0: Any, slope_x: Any, slope_y: Any, to: Any) -> None:
    """Draw from one node to the next, in runs that lie between the same pixels."""
    rows, columns = image.shape
    drift = slope_x - _ONE
    j = 0
    while j < len(to):
        at_x, at_y = x0 + np.float32(j) * slope_x, y0 + np.float32(j) * slope_y
        left, top = math.floor(at_x), math.floor(at_y)
        end = min(
            len(to),
            j + 1 + _stays(at_x - np.float32(left), drift),
            j + 1 + _stays(at_y - np.float32(top), slope_y),
        )
        # before pixel j, as fractions are counted from there
        x, y = x0 - np.float32(left - j), y0 - np.float32(top)
        if left >= 1 and left + end - j + 2 <= columns and top >= 1 and top + 3 <= rows:
            own = slice(left - 1, left + end - j + 2)
            four = image[top - 1, own], image[top, own], image[top + 1, own], image[top + 2, own]
            _run(four, x, y, drift, slope_y, j, to[j:end])
        else:
            for q in range(j, end):
                to[q] = _border(
                    image, left + q - j, top, x + np.float32(q) * drift, y + np.float32(q) * slope_y
                )
        j = end


@njit(cache=True, nogil=True, fastmath=SAME)
def _stays(fraction: Any, slope: Any) -> int:
    """Return for how many more pixels a fraction stays between 0 and 1."""
    if slope > _STILL:
        return int((_ONE - fraction) / slope)
    if slope < -_STILL:
        return int(fraction / -slope)
    return 1 << 30


@njit(cache=True, nogil=True, fastmath=SAME)
def _taps(t: Any) -> Any:
    """Return the weights of the pixels around a place ``t`` after the second of them."""
    u = _ONE - t
    before, after = _A * t * u * u, _A * u * t * t
    near = ((_A + np.float32(2)) * t - (_A + np.float32(3))) * t * t + _ONE
    return before, near, _ONE - before - near - after, after


@njit(cache=True, nogil=True, fastmath=SAME)
def _run(four: Any, x0: Any, y0: Any, drift: Any, slope_y: Any, first: int, to: Any) -> None:
    """Draw pixels ``first`` and on, whose neighbours are four rows side by side."""
    r0, r1, r2, r3 = four
    highest = np.float32(255 if to.itemsize == 1 else 65535)
    for q in range(len(to)):
        at = np.float32(first + q)
        a, b, c, d = _taps(x0 + at * drift)
        e, f, g, h = _taps(y0 + at * slope_y)
        value = e * _row(r0, q, a, b, c, d) + f * _row(r1, q, a, b, c, d)
        value += g * _row(r2, q, a, b, c, d) + h * _row(r3, q, a, b, c, d)
        to[q] = np.int32(min(max(value + np.float32(0.5), np.float32(0)), highest))


@njit(cache=True, nogil=True, fastmath=SAME)
def _row(row: Any, q: int, a: Any, b: Any, c: Any, d: Any) -> Any:
    return (
        a * np.float32(row[q])
        + b * np.float32(row[q + 1])
        + c * np.float32(row[q + 2])
        + d * np.float32(row[q + 3])
    )


@njit(cache=True, nogil=True, fastmath=SAME)
def _border(image: Any, left: int, top: int, x: Any, y: Any) -> Any:
    """Return one pixel, the image's border going on outside."""
    rows, columns = image.shape
    across, down = _taps(x), _taps(y)
    value = np.float32(0.5)
    for m in range(4):
        row = image[min(max(top + m - 1, 0), rows - 1)]
        for n in range(4):
            value += down[m] * across[n] * np.float32(row[min(max(left + n - 1, 0), columns - 1)])
    highest = np.float32(255 if image.itemsize == 1 else 65535)
    return np.int32(min(max(value, np.float32(0)), highest))
