"""The parts of two tiles that may overlap: where they lie, and whether they show anything.

A tile's corner is its first pixel; everything else follows `processing.kernels.pairs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import compiled

Image = npt.NDArray[np.number[Any]]
Floats = npt.NDArray[np.float32]
DTYPES: Final = ("uint8", "uint16", "float32")
MIN_OVERLAP_PX: Final = 16
"""Fewer pixels on a side do not tell a shift from the taper and the filters."""
_MOST_BAD: Final = 0.5
"""Part of a strip that may be no number, or at one end of its range before one says so."""
_SOME: Final = 16
"""One in so many rows tells of almost all strips that they are not blank."""
_SLOW_PX: Final = 33
"""Least side of the square whose mean is taken off: light, not specimen."""
_MOST_COARSE_PX: Final = 1 << 18
_LEAST_COARSE_SIDE_PX: Final = 40


def check_tiles(*images: Image) -> None:
    """Refuse what is no tile.

    Raises
    ------
    TypeError
        Not an array of two dimensions of uint8, uint16 or float32.
    """
    for image in images:
        if not isinstance(image, np.ndarray) or image.ndim != 2 or image.dtype.name not in DTYPES:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise TypeError(f"a tile must be an array (y, x) of {', '.join(DTYPES)}, not {what}")


@dataclass(frozen=True, slots=True)
class Axis:
    """Along one axis: what is cut from the first and the second tile, and where the second may begin.

    ``low`` and ``high`` bound the place of the second strip's first pixel in the first strip.
    """

    first: slice
    second: slice
    low: int
    high: int

    @property
    def first_px(self) -> int:
        """Length of the first strip."""
        return max(0, int(self.first.stop) - int(self.first.start))

    @property
    def second_px(self) -> int:
        """Length of the second strip."""
        return max(0, int(self.second.stop) - int(self.second.start))

    @property
    def longest_overlap_px(self) -> int:
        """What the two may share at most."""
        return max(shared(self.first_px, self.second_px, lag) for lag in self._lags())

    def _lags(self) -> tuple[int, ...]:
        inner = (
            min(max(0, self.low), self.high),
            max(min(self.first_px - self.second_px, self.high), self.low),
        )
        return self.low, self.high, *inner


def shared(first_px: int, second_px: int, lag_px: int) -> int:
    """Return how many pixels two lines share when the second begins at ``lag_px`` of the first."""
    return max(0, min(first_px, lag_px + second_px) - max(0, lag_px))


def possible_overlap(first_px: int, second_px: int, corner_px: float, search_px: float) -> Axis:
    """Return the strips of two lines, the second beginning at ``corner_px`` +- ``search_px`` of the first."""
    low, high = math.floor(corner_px - search_px), math.ceil(corner_px + search_px)
    first = slice(max(0, low), max(0, min(first_px, high + second_px)))
    second = slice(max(0, -high), max(0, min(second_px, first_px - low)))
    back = second.start - first.start
    return Axis(first, second, low + back, high + back)


def fault(strip: Image) -> str:
    """Return why a strip cannot be matched, in words, or nothing."""
    if strip.dtype.kind == "f":
        good = np.isfinite(strip)
        part = float(np.mean(good))
        if part < 1 - _MOST_BAD:
            return f"not a number in {100 * (1 - part):.0f} % of its pixels"
        strip = strip[good] if part < 1 else strip
    some = strip[::_SOME]
    if some.min() == some.max() and strip.min() == strip.max():
        return f"blank: all its pixels are {strip.flat[0]:g}"
    return ""


def clipped(strip: Image) -> str:
    """Return what a strip whose pixels are mostly at an end of their range is, in words, or nothing."""
    if strip.dtype.kind != "u":
        return ""
    for limit, word in ((0, "dark"), (np.iinfo(strip.dtype.name).max, "saturated")):
        part = float(np.count_nonzero(strip == limit)) / strip.size
        if part > _MOST_BAD:
            return f"{word}: {100 * part:.0f} % of its pixels are {limit}"
    return ""


def filled(strip: Image) -> Image:
    """Return a strip whose values are all finite: the mean stands for the others."""
    if strip.dtype.kind != "f":
        return strip
    good = np.isfinite(strip)
    if good.all():
        return strip
    return np.where(good, strip, strip[good].mean(dtype=np.float64)).astype(np.float32)


def coarse_step(shape: tuple[int, int]) -> int:
    """Return by how many pixels a strip is binned for the search."""
    if min(shape) < 2 * _LEAST_COARSE_SIDE_PX:
        return 1
    step = 2
    while (
        shape[0] * shape[1] > _MOST_COARSE_PX * step * step and min(shape) >= 2 * step * _LEAST_COARSE_SIDE_PX
    ):
        step *= 2
    return step


def smoothed(part: Image, sigma_px: float) -> Floats:
    """Return an image without what is faster than a Gaussian."""
    weights = cv2.getGaussianKernel(2 * math.ceil(3.5 * sigma_px) + 1, sigma_px, cv2.CV_32F)
    return np.asarray(cv2.sepFilter2D(part, cv2.CV_32F, weights, weights), np.float32)


def levelled(smooth: Floats, sigma_px: float, step: int = 1) -> Floats:
    """Return an image without what is slower than 12 of its Gaussian's sigma, of variance 1.

    Its border is mirrored: only images of the same content become the same there. ``sigma_px`` is that before
    pixels were binned by ``step``.
    """
    slow = min(max(_SLOW_PX, int(12 * sigma_px)) // step, min(smooth.shape)) | 1
    level = smooth - cv2.blur(smooth, (slow, slow))
    mean, spread = (value.item() for value in cv2.meanStdDev(level))
    level -= np.float32(mean)
    level *= np.float32(1 / max(spread, 1e-12))
    return np.asarray(level)


def band(part: Image, sigma_px: float) -> Floats:
    """Return an image between a Gaussian and 12 of its sigma, of variance 1: `smoothed` and `levelled`."""
    return levelled(smoothed(part, sigma_px), sigma_px)


def binned(strip: Image, step: int) -> Floats:
    """Return the means of squares of ``step`` pixels, float32; what is left over at the end is dropped."""
    height, width = strip.shape[0] // step, strip.shape[1] // step
    if step == 1:
        return np.ascontiguousarray(strip, np.float32)
    means = np.empty((height, width), np.float32)
    _bin(np.ascontiguousarray(strip), step, means)
    return means


@compiled
def _bin(strip: Image, step: int, means: Floats) -> None:
    share = np.float32(1 / (step * step))
    rows, columns = means.shape
    line = np.empty(columns * step, np.float32)
    for y in range(rows):
        line[:] = 0
        for row in range(y * step, (y + 1) * step):
            for x in range(line.size):
                line[x] += np.float32(strip[row, x])
        for x in range(columns):
            total = np.float32(0)
            for k in range(x * step, (x + 1) * step):
                total += line[k]
            means[y, x] = share * total
