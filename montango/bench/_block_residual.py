"""How well any solution fits: blocks of one tile looked for in the other, where the solution says they are.

Knows nothing of how a solution was made, and shares no code with the matcher: it asks the solution where a
point of a tile lies in the mosaic and finds each block by OpenCV's template matching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
ToMosaic = Callable[[int, Reals], Reals]
"""Mosaic coordinates (m, 2) of points (m, 2) of tile i, px from its centre."""
BLOCK_PX: Final = 64
SEARCH_PX: Final = 20
_MIN_NCC: Final = 0.5
_MIN_STRUCTURE: Final = 4.0
_INVERSIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Residual:
    """Distances between where blocks are and where a solution says, px, over all pairs.

    ``bad_pairs`` are those whose median is over 3 px, or that have fewer than two blocks.
    """

    median_px: float
    p95_px: float
    blocks: int
    pairs: int
    bad_pairs: int


def block_residual(
    images: Sequence[Image], pairs: Sequence[tuple[int, int]], to_mosaic: ToMosaic
) -> Residual:
    """Return how well a solution fits the images.

    Parameters
    ----------
    images
        Tiles (y, x) of one size, 8-bit grey values.
    pairs
        Which tiles overlap.
    to_mosaic
        The solution.
    """
    filtered = [_filtered(image) for image in images]
    found = [_pair(filtered[i], filtered[j], i, j, to_mosaic) for i, j in pairs]
    every = np.concatenate([*found, np.zeros(0)])
    bad = sum(len(one) < 2 or float(np.median(one)) > 3 for one in found)
    if not len(every):
        return Residual(np.nan, np.nan, 0, len(found), bad)
    return Residual(
        float(np.median(every)), float(np.percentile(every, 95)), len(every), len(found), int(bad)
    )


def translation(centres_px: Reals) -> ToMosaic:
    """Return the solution that puts each tile's centre, (n, 2), without turning or bending it."""
    return lambda tile, points: centres_px[tile] + points


def _filtered(image: Image) -> npt.NDArray[np.float32]:
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.2)
    return np.asarray(smooth - cv2.blur(image.astype(np.float32), (41, 41)), np.float32)


def _pair(a: Image, b: Image, i: int, j: int, to_mosaic: ToMosaic) -> Reals:
    height, width = a.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    half, reach = BLOCK_PX // 2, BLOCK_PX // 2 + SEARCH_PX + 1
    xs, ys = np.arange(half, width - half, BLOCK_PX), np.arange(half, height - half, BLOCK_PX)
    centres = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(np.float64) - 0.5
    there = _inverse(i, to_mosaic(j, centres - middle), to_mosaic, 1.05 * middle) + middle
    inside = ((there > reach) & (there < np.array([width, height]) - reach)).all(axis=1)
    found = []
    for (bx, by), (ax, ay) in zip(centres[inside], there[inside], strict=True):
        x, y = round(bx + 0.5) - half, round(by + 0.5) - half
        block = np.ascontiguousarray(b[y : y + BLOCK_PX, x : x + BLOCK_PX])
        if block.std() < _MIN_STRUCTURE:
            continue
        # the same corner in the other tile, to whole pixels; the rest is part of what is expected
        corner = np.array([ax, ay]) + 0.5 - half
        cx, cy = np.round(corner).astype(int)
        window = a[cy - SEARCH_PX : cy + BLOCK_PX + SEARCH_PX, cx - SEARCH_PX : cx + BLOCK_PX + SEARCH_PX]
        peak = _peak(np.ascontiguousarray(window), block)
        if peak is not None:
            found.append(float(np.hypot(*(np.array([cx, cy]) + peak - SEARCH_PX - corner))))
    return np.array(found, np.float64)


def _inverse(tile: int, wanted: Reals, to_mosaic: ToMosaic, most: Reals) -> Reals:
    """Return the points of a tile that lie at mosaic coordinates: transforms are nearly translations.

    Points beyond ``most`` (x, y) of the centre are of no interest, and a solution need not tell them.
    """
    points = np.clip(wanted - to_mosaic(tile, np.zeros_like(wanted)), -most, most)
    for _ in range(_INVERSIONS):
        points = np.clip(points + (wanted - to_mosaic(tile, points)), -most, most)
    return points


def _peak(window: Image, block: Image) -> Reals | None:
    """Return where a block lies in a window, (x, y) of its corner, to a fraction; None if it is not there."""
    if window.shape != (BLOCK_PX + 2 * SEARCH_PX,) * 2:
        return None
    score = cv2.matchTemplate(window, block, cv2.TM_CCOEFF_NORMED)
    y, x = divmod(int(score.argmax()), score.shape[1])
    last = score.shape[0] - 1
    if score[y, x] < _MIN_NCC or x in (0, last) or y in (0, last):
        return None
    return np.array([x + _vertex(*score[y, x - 1 : x + 2]), y + _vertex(*score[y - 1 : y + 2, x])])


def _vertex(before: float, at: float, after: float) -> float:
    """Return where a parabola through three values has its top."""
    return float((after - before) / (2 * (2 * at - after - before) + 1e-9))
