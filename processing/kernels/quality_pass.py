"""The one pass over the pixels of a tile: sums, structure function, and what each line tells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import njit

Reals = npt.NDArray[np.float64]
PARTS = 8
"""Parts of a line that are compared with those of the lines around."""


class Pass(NamedTuple):
    """What the pass gives.

    Attributes
    ----------
    sums
        (4,): sum, sum of squares, saturated pixels, dark pixels.
    structure
        (6,): sums of squared differences at lags of 1, 2, 4, 8 and 32 px along x and y, and their number.
    changes
        (y,): variance of each line's change from the line before, less a change of all its pixels; -1 where
        the line is constant. The first is 0, or -1.
    parts
        (y, 8): means of eight parts of each line, from left to right, counts.
    spreads
        (y,): variance of each line, squared counts.
    """

    sums: Reals
    structure: Reals
    changes: Reals
    parts: Reals
    spreads: Reals


def one_pass(image: npt.NDArray[np.unsignedinteger[Any]], full: float, dark: float) -> Pass:
    """Return sums, structure and lines of a tile.

    Parameters
    ----------
    image
        (y, x) uint8 or uint16, contiguous, counts; over 32 px on both sides.
    full, dark
        From where on a pixel is saturated, and up to where it is dark, counts.
    """
    # every line for brightness; every 2nd or 4th of a large tile for structure, where that is plenty
    return Pass(*_one_pass(image, full, dark, max(1, image.shape[0] // 1024)))


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _one_pass(
    image: npt.NDArray[Any], full: float, dark: float, step: int
) -> tuple[Reals, Reals, Reals, Reals, Reals]:
    height, width = image.shape
    sums = np.zeros(4)
    lags = np.zeros(6)
    changes = np.zeros(height)
    parts = np.zeros((height, PARTS))
    spreads = np.zeros(height)
    wide = width // PARTS
    middle = np.float32(image[height // 2, width // 2])
    for i in range(height):
        s = np.float32(0)
        s2 = np.float32(0)
        bright = np.float32(0)
        black = np.float32(0)
        for part in range(PARTS):
            own = np.float32(0)
            for j in range(part * wide, (part + 1) * wide):
                own += np.float32(image[i, j]) - middle
            parts[i, part] = own / wide + middle
        for j in range(width):
            value = np.float32(image[i, j])
            shifted = value - middle  # keeps float32 sums exact enough
            s += shifted
            s2 += shifted * shifted
            bright += value >= full
            black += value <= dark
        sums[0] += s
        sums[1] += s2
        sums[2] += bright
        sums[3] += black
        spreads[i] = max(0.0, s2 / width - (s / width) ** 2)
        same = True
        for j in range(1, width):
            if image[i, j] != image[i, 0]:
                same = False
                break
        if same:
            changes[i] = -1.0
        elif i > 0:
            change = np.float32(0)
            shift = np.float32(0)
            for j in range(width):
                d = np.float32(image[i, j]) - np.float32(image[i - 1, j])
                change += d * d
                shift += d
            changes[i] = max(0.0, change / width - (shift / width) ** 2)
    for i in range(0, height - 32, step):
        d1 = np.float32(0)
        d2 = np.float32(0)
        d4 = np.float32(0)
        d8 = np.float32(0)
        d32 = np.float32(0)
        for j in range(width - 32):
            value = np.float32(image[i, j])
            x1 = np.float32(image[i, j + 1]) - value
            x2 = np.float32(image[i, j + 2]) - value
            x4 = np.float32(image[i, j + 4]) - value
            x8 = np.float32(image[i, j + 8]) - value
            x32 = np.float32(image[i, j + 32]) - value
            y1 = np.float32(image[i + 1, j]) - value
            y2 = np.float32(image[i + 2, j]) - value
            y4 = np.float32(image[i + 4, j]) - value
            y8 = np.float32(image[i + 8, j]) - value
            y32 = np.float32(image[i + 32, j]) - value
            d1 += x1 * x1 + y1 * y1
            d2 += x2 * x2 + y2 * y2
            d4 += x4 * x4 + y4 * y4
            d8 += x8 * x8 + y8 * y8
            d32 += x32 * x32 + y32 * y32
        lags[0] += d1
        lags[1] += d2
        lags[2] += d4
        lags[3] += d8
        lags[4] += d32
        lags[5] += 2 * (width - 32)
    sums[1] += 2 * middle * sums[0] + image.size * float(middle) ** 2
    sums[0] += image.size * float(middle)
    return sums, lags, changes, parts, spreads
