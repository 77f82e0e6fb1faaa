"""What lies over a tile: dirt, a fold, the edge of the beam. All on a copy of 64 x 64 blocks.

* Dirt is opaque and thick. The measure is the radius of the largest circle that fits into what has less than
  0.2 of the light of the tile's bright parts: a thousand dark droplets of real tissue have no larger one than
  the largest of them.
* A fold is dark along a line right across the tile, and lighter on both sides of it. The line is a thirteenth
  of the tile wide and parted into five; the measure is the mean contrast that four of them exceed, to the
  darker of both sides, as the natural logarithm of the light. Within a fifth of the tile cells dark and
  light even out, which a fold shows through; cells, droplets and the rim of the tissue are dark too, but not
  all along a line.
* Beyond the edge of the beam a tile is opaque as well. What is lit is convex there, and not around dirt.
* Shading compares the bright parts (the 97th percentile) of nine fields of a tile.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
MIN_SIDE_PX: Final = 256
"""Blocks of smaller tiles are as small as organelles: nothing is said of them."""
_BLOCKS: Final = 64
_OPAQUE: Final = 0.2
_ANGLES: Final = 20
_WANDER: Final = 5
"""How wide a path the line may take, blocks."""
_SIDE: Final = 10
"""How far beside the middle of a line its surroundings lie, blocks."""
_AROUND: Final = 7
"""Over how many blocks surroundings are averaged."""
_EVERY: Final = 2
"""Lines, and places along them, lie so many blocks apart."""
_LEAST_CHORD: Final = 0.6
_FIFTHS: Final = 5
"""Parts of a line, of which one may be light."""
_WIDTH: Final = 5
"""Least width of a fold, blocks: a thirteenth of the tile. Membranes and cuticles are narrower."""
_DARKEST: Final = 1.5
_LIT: Final = 0.97
"""Quantile of the blocks of a field that says how much light falls on it: any gap in dense tissue shows."""
_CONVEX: Final = 0.985


class Regions(NamedTuple):
    """What lies over a tile.

    Attributes
    ----------
    opaque_fraction
        Share of blocks with less than 0.2 of the light of the bright ones.
    opaque_radius
        Radius of the largest circle within them, relative to the shorter side of the tile.
    fold_contrast
        Contrast of the darkest line across the tile, natural logarithm.
    shading
        Bright parts of the darkest of nine fields over those of the brightest, 0 to 1.
    beam_edge
        Whether what is opaque lies around what is lit, as beyond the edge of a beam.
    bright_counts
        95th percentile of the blocks.
    """

    opaque_fraction: float = 0.0
    opaque_radius: float = 0.0
    fold_contrast: float = 0.0
    shading: float = 1.0
    beam_edge: bool = False
    bright_counts: float = 0.0


def regions(image: npt.NDArray[np.unsignedinteger[Any]], dark_counts: float = 0.0) -> Regions:
    """Return what lies over a tile, (y, x) counts; nothing for tiles under 256 px.

    ``dark_counts`` is what a pixel without light has at most.
    """
    if min(image.shape) < MIN_SIDE_PX:
        return Regions()
    step = max(1, min(image.shape) // 512)
    part = np.ascontiguousarray(image[::step, ::step])
    blocks = cv2.resize(part, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA).astype(np.float32)
    ranks = [int(share * (blocks.size - 1)) for share in (0.8, 0.95)]
    bright, brightest = np.partition(blocks, ranks, axis=None)[ranks].tolist()
    if bright <= dark_counts:
        return Regions()
    light = np.asarray(blocks / bright, np.float32)
    opaque = light < max(_OPAQUE, dark_counts / bright)
    radius = _radius(opaque)
    return Regions(
        float(opaque.mean()),
        radius / _BLOCKS,
        _fold(light),
        _shading(light),
        radius > 0 and _surrounds(opaque, radius),
        brightest,
    )


def _radius(opaque: npt.NDArray[np.bool_]) -> float:
    """Return the radius of the largest circle in a mask, blocks; the border does not bound it."""
    if not opaque.any():
        return 0.0
    return float(cv2.distanceTransform(opaque.astype(np.uint8), cv2.DIST_L2, 3).max())


def _surrounds(opaque: npt.NDArray[np.bool_], radius: float) -> bool:
    """Whether the thick part of a mask touches the border and leaves a convex rest."""
    size = 2 * max(1, int(radius / 2)) + 1
    thick = cv2.morphologyEx(
        np.pad(opaque, size, mode="edge").astype(np.uint8),
        cv2.MORPH_OPEN,
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)),
    )[size:-size, size:-size]
    border = thick[0].any() or thick[-1].any() or thick[:, 0].any() or thick[:, -1].any()
    lit = np.argwhere(thick == 0)[:, ::-1].astype(np.int32)
    if not border or len(lit) < 3:
        return False
    hull = cv2.convexHull(lit.reshape(-1, 1, 2))
    filled = np.zeros(opaque.shape, np.uint8)
    cv2.fillConvexPoly(filled, hull, 1)
    return len(lit) >= _CONVEX * float(filled.sum())


def _shading(light: Floats) -> float:
    edges = (0, _BLOCKS // 3, 2 * _BLOCKS // 3 + 1, _BLOCKS)
    levels = [
        float(np.partition(field, int(_LIT * field.size))[int(_LIT * field.size)])
        for top, bottom in pairwise(edges)
        for left, right in pairwise(edges)
        for field in [light[top:bottom, left:right].ravel()]
    ]
    return min(levels) / max(levels)


def _fold(light: Floats) -> float:
    """Return the contrast of the darkest line across, natural logarithm."""
    darkness = np.clip(-np.log(np.maximum(light, 1e-3)), -_DARKEST, _DARKEST).astype(np.float32)
    # a light spot in a fold is no gap in it
    band = cv2.morphologyEx(cv2.medianBlur(darkness, 3), cv2.MORPH_OPEN, np.ones((_WIDTH, _WIDTH), np.uint8))
    band = cv2.dilate(band, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_WANDER, _WANDER)))
    around = cv2.blur(darkness, (_AROUND, _AROUND))
    return float(_darkest_line(band.ravel(), around.ravel(), *_turns()))


@compiled
def _darkest_line(
    band: Floats, around: Floats, places: npt.NDArray[np.int32], chords: npt.NDArray[np.int64]
) -> float:
    """Return what four fifths of the best line exceed: dark, and light on both sides."""
    turns, rows, columns = places.shape
    side = _SIDE // _EVERY
    own = np.zeros((rows, columns + 1), np.float32)
    beside = np.zeros((rows, columns + 1), np.float32)
    best = np.float32(-2 * _DARKEST)  # of many tiles below 0: cut there, they would show no spread
    for turn in range(turns):
        for row in range(rows):  # sums up to each place
            dark = np.float32(0)
            near = np.float32(0)
            for at in range(columns):
                place = places[turn, row, at]
                dark += band[place]
                near += around[place]
                own[row, at + 1] = dark
                beside[row, at + 1] = near
        for row in range(side, rows - side):
            first, last = chords[turn, row]
            length = last - first
            if length < _LEAST_CHORD * _BLOCKS / _EVERY:
                continue
            lowest = second = np.float32(2 * _DARKEST)
            for part in range(_FIFTHS):
                start = first + part * length // _FIFTHS
                stop = first + (part + 1) * length // _FIFTHS
                left = beside[row - side, stop] - beside[row - side, start]
                right = beside[row + side, stop] - beside[row + side, start]
                level = (own[row, stop] - own[row, start] - max(left, right)) / np.float32(stop - start)
                if level < lowest:
                    lowest, second = level, lowest
                elif level < second:
                    second = level
                if second <= best:
                    break
            best = max(best, second)
    return float(best)


@cache
def _turns() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return, for each angle, lines and places along them: (turn, row, column) blocks, and their ends."""
    middle = (_BLOCKS - 1) / 2
    reach = math.ceil(_BLOCKS / math.sqrt(2))
    along = np.arange(-reach, reach + 1, _EVERY)
    v, u = np.meshgrid(along, along, indexing="ij")
    places, chords = [], []
    for angle in np.arange(_ANGLES) * (math.pi / _ANGLES):
        x = middle + u * math.cos(angle) - v * math.sin(angle)
        y = middle + u * math.sin(angle) + v * math.cos(angle)
        inside = (x >= 0) & (x <= _BLOCKS - 1) & (y >= 0) & (y <= _BLOCKS - 1)
        first = np.argmax(inside, axis=1)
        chords.append(np.stack([first, first + inside.sum(axis=1)], axis=1))
        column, line = (np.clip(np.rint(c), 0, _BLOCKS - 1).astype(np.int32) for c in (x, y))
        places.append(line * _BLOCKS + column)
    return np.ascontiguousarray(np.stack(places), np.int32), np.stack(chords)
