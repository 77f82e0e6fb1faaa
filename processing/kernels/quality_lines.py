"""What the lines of a tile tell: torn and lost ones, a rest that was never read out, bands of charge."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import compiled

Reals = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
MARKS: Final = 64
"""Strips of a frame that are told apart from those of the frame before."""
_TORN_RATIO: Final = 4.0
_UNLIKE: Final = 3.0
"""Two lines that have nothing in common differ by twice the variance of the frame."""
_STRANGE: Final = 0.8
"""Change of two lines that have nothing in common, relative to the sum of their variances, less a margin."""
_BAND_WINDOW_PX: Final = 65
_MOST, _VARIANCE_OF_MOST = 0.75, 0.3685
"""Share of the lines that count, and the variance of the inner 75 % of a standard normal distribution."""


def damaged_fraction(changes: Reals, spreads: Reals, variance: float) -> float:
    """Return the share of lines that are constant, or whose change from the line before stands out.

    A line whose change stands out twice as far counts twice: a strip of lines that is displaced has two such
    lines and no more. Lines that have nothing in common, over what any two of the frame would differ by,
    stand out wherever: noise in place of an image has no line that fits to the one before.

    Parameters
    ----------
    changes, spreads
        (y,): see `processing.kernels.quality_pass.Pass`.
    variance
        Of the whole frame, squared counts.
    """
    inner = changes[1:]
    moving = inner[inner >= 0]
    if moving.size < 9:
        return float(np.mean(inner < 0))
    weight = _torn(inner, spreads, float(np.median(moving)), _UNLIKE * max(variance, 1e-12))
    return min(1.0, float(weight) / inner.size)


@compiled
def _torn(inner: Reals, spreads: Reals, usual: float, unlike: float) -> float:
    """Return how many lines are constant or stand out from the eight around them, the gross ones twice."""
    count = len(inner)
    nine = np.empty(9)
    total = 0.0
    for line in range(count):
        change = inner[line]
        if change < 0:
            total += 1.0
            continue
        for k in range(9):
            at = abs(line + k - 4)  # mirrored at both ends
            at = 2 * (count - 1) - at if at >= count else at
            value = inner[at] if inner[at] >= 0 else usual
            place = k
            while place > 0 and nine[place - 1] > value:
                nine[place] = nine[place - 1]
                place -= 1
            nine[place] = value
        weight = np.floor(min(2.0, change / (_TORN_RATIO * max(nine[4], 1e-12))))
        # tissue on a bright ground has lines that differ by more than the frame varies, but they are alike;
        # and noise makes lines unlike, but most of them then
        strange = change > _STRANGE * (spreads[line + 1] + spreads[line])
        if change > unlike and strange and change > 2 * _TORN_RATIO * usual:
            weight = max(1.0, weight)
        total += weight
    return total


def missing_fraction(changes: Reals) -> float:
    """Return the share of lines, from the last back or the first on, that are constant: never read out."""
    lit = np.flatnonzero(changes >= 0)
    if lit.size == 0:
        return 1.0
    return max(int(lit[0]), len(changes) - 1 - int(lit[-1])) / len(changes)


def banding(parts: Reals) -> float:
    """Return the brightness of lines against those around them, as far as most of a frame's width shares it.

    Lines are compared by the median of every second of their parts, so that what lies across less than half
    of the frame does not count, and a quarter of them is left out: bands of charge are everywhere, lost
    lines and the horizontal parts of a sample are not.

    Parameters
    ----------
    parts
        (y, 8): means of parts of each line, counts.
    """
    length = min(_BAND_WINDOW_PX, len(parts) // 2 * 2 - 1)
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    window /= window.sum()
    across = np.ascontiguousarray(parts.T, np.float32)
    around = cv2.sepFilter2D(across, -1, window, np.ones(1, np.float32), borderType=cv2.BORDER_REFLECT_101)
    if around.min() <= 0:
        return 0.0
    shared = _shared(across, around)
    kept = int(_MOST * len(shared))
    most = shared[np.argpartition(np.abs(shared), kept)[:kept]]
    return math.sqrt(max(0.0, float(np.mean(most)) / _VARIANCE_OF_MOST))


@compiled
def _shared(parts: Floats, around: Floats) -> Reals:
    """Return, for each line, the product of the medians of every second part relative to those around."""
    shared = np.empty(parts.shape[1])
    for line in range(parts.shape[1]):
        product = 1.0
        for first in range(2):
            total = 0.0
            low = high = parts[first, line] / around[first, line] - 1
            for part in range(first, len(parts), 2):
                value = parts[part, line] / around[part, line] - 1
                total += value
                low = min(low, value)
                high = max(high, value)
            product *= 0.5 * (total - low - high)
        shared[line] = product
    return shared


def marks(image: npt.NDArray[np.unsignedinteger[Any]], changes: Reals) -> tuple[int, ...]:
    """Return a number for each of 64 strips of lines: two exposures never have the same.

    0 for strips with constant lines, which any two frames may share. Every 4th line and 4th pixel counts.
    """
    sparse = np.ascontiguousarray(image[::4, ::4])
    edges = _edges(len(sparse))
    constant = np.logical_or.reduceat(changes < 0, 4 * edges[:-1]).tolist()
    whole, ends = sparse.tobytes(), (edges * sparse.strides[0]).tolist()
    return tuple(
        0 if lost else zlib.crc32(whole[start:end]) or 1
        for start, end, lost in zip(ends[:-1], ends[1:], constant, strict=True)
    )


@cache
def _edges(lines: int) -> npt.NDArray[np.int64]:
    """Return where strips begin, and the end of the last."""
    return np.unique(np.linspace(0, lines, MARKS + 1).astype(np.int64))


def stale_fraction(now: Sequence[int], before: Sequence[int]) -> float:
    """Return the share of a frame, from its end back, that is that of the frame before, 0 to 1.

    Parameters
    ----------
    now, before
        What `marks` gives of both; 0 where they have not the same number of strips.
    """
    if len(now) != len(before) or not now:
        return 0.0
    same = 0
    for mine, other in zip(reversed(now), reversed(before), strict=True):
        if mine != other or mine == 0:
            break
        same += 1
    return same / len(now)
