"""Drawn tiles put together, pixel by pixel, and halved for the next level of a pyramid.

0 is no data: a pixel that a tile covers is at least 1. Two ways to put tiles together, each with the same
result in any order of the tiles but for pixels that lie exactly as deep in two of them:

flat
    A pixel is that of the tile in which it lies deepest, so seams run along the middle of the overlaps.
feather
    A pixel is the mean of its tiles, weighted by the depth up to a limit. Sums are whole numbers, so they do
    not depend on the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels._warp import FAST
from processing.kernels.compiled import njit

FEATHER_STEPS: Final = 1000
"""Weight of a pixel that lies as deep as the feather is wide; 65 of them can lie one on another."""

Pixels = npt.NDArray[np.number[Any]]
Weights = npt.NDArray[np.uint16]
Totals = npt.NDArray[np.uint32]


@njit(cache=True, nogil=True, fastmath=FAST)
def blend_flat(
    image: Pixels,
    weights: Weights,
    y: int,
    x: int,
    pixels: Pixels,
    weight: Weights,
    top: int,
    left: int,
    height: int,
    width: int,
    gain: float,
    offset: float,
    highest: float,
) -> None:
    """Take pixels that lie deeper in this tile.

    ``image`` and ``weights`` are changed from (y, x) on by ``pixels`` and ``weight`` from (top, left) on,
    over ``height`` by ``width`` px. A pixel becomes ``gain * counts + offset``, 1 to ``highest``.
    """
    factor, add = np.float32(gain), np.float32(offset + 0.5)
    low, high = np.float32(1), np.float32(highest)
    for i in range(height):
        to, deep, of, new = image[y + i], weights[y + i], pixels[top + i], weight[top + i]
        for j in range(width):
            if new[left + j] > deep[x + j]:
                deep[x + j] = new[left + j]
                to[x + j] = min(max(np.float32(of[left + j]) * factor + add, low), high)


@njit(cache=True, nogil=True, fastmath=FAST)
def blend_feather(
    image: Pixels,
    weights: Weights,
    totals: Totals,
    y: int,
    x: int,
    pixels: Pixels,
    weight: Weights,
    top: int,
    left: int,
    height: int,
    width: int,
    gain: float,
    offset: float,
    highest: float,
    feather: int,
    fraction: int,
) -> None:
    """Add a tile to the sums, and set the image to their quotient; see `blend_flat`.

    ``feather`` is the depth of full weight, in the steps of ``weight``; counts are summed in units of
    1 / ``fraction``.
    """
    scale = np.float32(fraction)
    factor, add = np.float32(gain) * scale, np.float32(offset) * scale + np.float32(0.5)
    high = np.float32(highest) * scale
    part = np.float32(FEATHER_STEPS) / np.float32(feather)
    for i in range(height):
        to, sums, total = image[y + i], weights[y + i], totals[y + i]
        of, new = pixels[top + i], weight[top + i]
        for j in range(width):
            depth = new[left + j]
            if depth == 0:
                continue
            own = np.uint32(min(max(np.float32(depth) * part, np.float32(1)), np.float32(FEATHER_STEPS)))
            together = np.uint32(sums[x + j]) + own
            if together > np.uint32(65535):
                continue
            counts = min(max(np.float32(of[left + j]) * factor + add, np.float32(0)), high)
            total[x + j] += np.uint32(counts) * own
            sums[x + j] = together
            mean = (total[x + j] // together + np.uint32(fraction // 2)) // np.uint32(fraction)
            to[x + j] = max(mean, np.uint32(1))


def sums_of(weight: Weights, feather: int) -> Weights:
    """Return what `blend_feather` adds to ``weights`` for a tile of this weight."""
    part = np.float32(FEATHER_STEPS) / np.float32(feather)
    own = np.clip(weight * part, 1, FEATHER_STEPS).astype(np.uint16)
    return np.asarray(np.where(weight > 0, own, 0), np.uint16)


def halve(image: Pixels, out: Pixels) -> None:
    """Set ``out`` to the mean of 2 x 2 pixels of ``image`` that have data, rounded half up.

    Parameters
    ----------
    image
        (2 y, 2 x) uint8 or uint16, 0 where there are no data.
    out
        (y, x) of the same dtype; 0 where none of the four has data.
    """
    if out.size:
        cv2.resize(image, out.shape[::-1], dst=out, interpolation=cv2.INTER_AREA)
        _halve_gaps(image, out)


@njit(cache=True, nogil=True)
def _halve_gaps(image: Pixels, out: Pixels) -> None:
    """Set right the rows of a halved image that have pixels without data."""
    rows, columns = out.shape
    for i in range(rows):
        above, below, to = image[2 * i], image[2 * i + 1], out[i]
        gaps = False
        for j in range(2 * columns):
            gaps |= (above[j] == 0) | (below[j] == 0)
        if not gaps:
            continue
        for j in range(columns):
            a, b = np.uint32(above[2 * j]), np.uint32(above[2 * j + 1])
            c, d = np.uint32(below[2 * j]), np.uint32(below[2 * j + 1])
            covered = np.uint32(a > 0) + np.uint32(b > 0) + np.uint32(c > 0) + np.uint32(d > 0)
            total = a + b + c + d
            if covered == 4:
                to[j] = (total + np.uint32(2)) >> np.uint32(2)
            else:
                to[j] = (total + covered // np.uint32(2)) // max(covered, np.uint32(1))


def halves(image: Pixels, steps: int) -> Iterator[Pixels]:
    """Yield an image, its half, the half of that, and so on: ``steps`` + 1 in all; sizes are rounded up."""
    yield image
    for _ in range(steps):
        rows, columns = image.shape
        if rows % 2 or columns % 2:
            image = np.pad(image, ((0, rows % 2), (0, columns % 2)))
        small = np.zeros((image.shape[0] // 2, image.shape[1] // 2), image.dtype)
        halve(image, small)
        image = small
        yield image
