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

import numpy as np
import numpy.typing as npt

from processing.kernels._warp import FAST
from processing.kernels.compiled import njit

FEATHER_STEPS: Final = 1000
"""Weight of a pixel that lies as deep as the feather is wide; 65 of them can lie one on another."""
FRACTIONS: Final = {"uint8": 256, "uint16": 1}
"""Parts of a count that are summed: as many as 32 bits hold, with 65 tiles one on another."""

Pixels = npt.NDArray[np.number[Any]]
Weights = npt.NDArray[np.uint16]
Totals = npt.NDArray[np.uint32]


def blend_flat(
    image: Pixels, weights: Weights, pixels: Pixels, weight: Weights, gain: float, offset: float
) -> None:
    """Take pixels that lie deeper in this tile: they become ``gain * counts + offset``.

    Parameters
    ----------
    image, weights
        (y, x) uint8 or uint16, and uint16: what is there, changed in place.
    pixels, weight
        (y, x) of the tile; it has data where ``weight`` is above 0.
    gain, offset
        Of the tile, counts.
    """
    if (gain, offset) == (1.0, 0.0) and pixels.dtype == image.dtype:
        _copy_deeper(image, weights, pixels, weight)
    else:
        _scale_deeper(image, weights, pixels, weight, gain, offset, _highest(image))


def blend_feather(
    image: Pixels,
    weights: Weights,
    totals: Totals,
    pixels: Pixels,
    weight: Weights,
    gain: float,
    offset: float,
    feather: int,
) -> None:
    """Add a tile to the sums, and set the image to their quotient; see `blend_flat`.

    ``feather`` is the depth of full weight, in the steps of ``weight``; ``weights`` and ``totals`` are the
    sums of weights and of weighted counts, these in parts of `FRACTIONS`.
    """
    _add(
        image, weights, totals, pixels, weight, gain, offset, _highest(image), feather,
        FRACTIONS[image.dtype.name],
    )  # fmt: skip


def _highest(image: Pixels) -> float:
    return float(2 ** (8 * image.itemsize) - 1)


# as selections and not as branches: so the compiler works on many pixels at a time
@njit(cache=True, nogil=True)
def _copy_deeper(image: Pixels, weights: Weights, pixels: Pixels, weight: Weights) -> None:
    for i in range(image.shape[0]):
        to, deep, of, new = image[i], weights[i], pixels[i], weight[i]
        for j in range(len(to)):
            counts = of[j] if of[j] > 0 else of[j] + (of[j] == 0)
            to[j] = counts if new[j] > deep[j] else to[j]
            deep[j] = new[j] if new[j] > deep[j] else deep[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _scale_deeper(
    image: Pixels,
    weights: Weights,
    pixels: Pixels,
    weight: Weights,
    gain: float,
    offset: float,
    highest: float,
) -> None:
    factor, add = np.float32(gain), np.float32(offset + 0.5)
    low, high = np.float32(1), np.float32(highest)
    for i in range(image.shape[0]):
        to, deep, of, new = image[i], weights[i], pixels[i], weight[i]
        for j in range(len(to)):
            counts = np.int32(min(max(np.float32(of[j]) * factor + add, low), high))
            to[j] = counts if new[j] > deep[j] else np.int32(to[j])
            deep[j] = new[j] if new[j] > deep[j] else deep[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _add(
    image: Pixels,
    weights: Weights,
    totals: Totals,
    pixels: Pixels,
    weight: Weights,
    gain: float,
    offset: float,
    highest: float,
    feather: int,
    fraction: int,
) -> None:
    scale = np.float32(fraction)
    factor, add = np.float32(gain) * scale, np.float32(offset) * scale + np.float32(0.5)
    high = np.float32(highest) * scale
    part = np.float32(FEATHER_STEPS) / np.float32(feather)
    for i in range(image.shape[0]):
        to, sums, total, of, new = image[i], weights[i], totals[i], pixels[i], weight[i]
        for j in range(len(to)):
            if new[j] == 0:
                continue
            own = np.uint32(min(max(np.float32(new[j]) * part, np.float32(1)), np.float32(FEATHER_STEPS)))
            together = np.uint32(sums[j]) + own
            if together > np.uint32(65535):
                continue
            counts = min(max(np.float32(of[j]) * factor + add, np.float32(0)), high)
            total[j] += np.uint32(counts) * own
            sums[j] = together
            mean = (total[j] // together + np.uint32(fraction // 2)) // np.uint32(fraction)
            to[j] = max(mean, np.uint32(1))


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
    _halve(image, out)


@njit(cache=True, nogil=True)
def _halve(image: Pixels, out: Pixels) -> None:
    columns = out.shape[1]
    for i in range(out.shape[0]):
        above, below, to = image[2 * i], image[2 * i + 1], out[i]
        gaps = False
        for j in range(2 * columns):
            gaps |= (above[j] == 0) | (below[j] == 0)
        if not gaps:
            for j in range(columns):
                a, b = np.uint32(above[2 * j]), np.uint32(above[2 * j + 1])
                c, d = np.uint32(below[2 * j]), np.uint32(below[2 * j + 1])
                to[j] = (a + b + c + d + np.uint32(2)) >> np.uint32(2)
            continue
        for j in range(columns):
            a, b = np.uint32(above[2 * j]), np.uint32(above[2 * j + 1])
            c, d = np.uint32(below[2 * j]), np.uint32(below[2 * j + 1])
            covered = np.uint32(a > 0) + np.uint32(b > 0) + np.uint32(c > 0) + np.uint32(d > 0)
            to[j] = (a + b + c + d + covered // np.uint32(2)) // max(covered, np.uint32(1))


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
