"""What the lines of a tile tell: torn and lost ones, a rest that was never read out, bands of charge."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
MARKS: Final = 64
"""Strips of a frame that are told apart from those of the frame before."""
_TORN_RATIO: Final = 4.0
_UNLIKE: Final = 3.0
"""Two lines that have nothing in common differ by twice the variance of the frame."""
_BAND_WINDOW_PX: Final = 65
_MOST, _VARIANCE_OF_MOST = 0.75, 0.3685
"""Share of the lines that count, and the variance of the inner 75 % of a standard normal distribution."""


def damaged_fraction(changes: Reals, variance: float) -> float:
    """Return the share of lines that are constant, or whose change from the line before stands out.

    A line whose change stands out twice as far counts twice: a strip of lines that is displaced has two such
    lines and no more. A change over what any two lines of the frame would differ by stands out wherever.

    Parameters
    ----------
    changes
        (y,): see `processing.kernels.quality_pass.Pass`.
    variance
        Of the whole frame, squared counts.
    """
    inner = changes[1:]
    moving = inner[inner >= 0]
    if moving.size < 9:
        return float(np.mean(inner < 0))
    padded = np.pad(np.where(inner < 0, np.median(moving), inner), 4, mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 9), axis=1)
    weight = np.floor(np.clip(inner / (_TORN_RATIO * np.maximum(around, 1e-12)), 0, 2))
    weight = np.maximum(weight, inner > _UNLIKE * max(variance, 1e-12))
    return min(1.0, float(np.mean(np.where(inner < 0, 1.0, weight))))


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
        (y, n): means of parts of each line, counts.
    """
    length = min(_BAND_WINDOW_PX, len(parts) // 2 * 2 - 1)
    window = np.hanning(length + 2)[1:-1].astype(np.float32)
    window /= window.sum()
    around = cv2.filter2D(parts.astype(np.float32), -1, window[:, None], borderType=cv2.BORDER_REFLECT_101)
    if around.min() <= 0:
        return 0.0
    relative = parts / around - 1
    shared = np.median(relative[:, ::2], axis=1) * np.median(relative[:, 1::2], axis=1)
    most = shared[np.argsort(np.abs(shared))[: int(_MOST * len(shared))]]
    return math.sqrt(max(0.0, float(np.mean(most)) / _VARIANCE_OF_MOST))


def marks(image: npt.NDArray[np.unsignedinteger[Any]], changes: Reals) -> tuple[int, ...]:
    """Return a number for each of 64 strips of lines: two exposures never have the same.

    0 for strips with constant lines, which any two frames may share. Every 4th line and 4th pixel counts.
    """
    edges = np.linspace(0, len(image), MARKS + 1).astype(int)
    constant = changes < 0
    return tuple(
        0 if constant[top:bottom].any() else zlib.crc32(image[top:bottom:4, ::4].tobytes()) or 1
        for top, bottom in pairwise(edges.tolist())
        if bottom > top
    )


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
