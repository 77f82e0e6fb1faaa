"""What lies over a tile: dirt, a fold, the edge of the beam. All on a copy of 63 x 63 blocks.

* Dirt is opaque and thick. The measure is the radius of the largest circle that fits into what has less than
  0.2 of the light of the tile's bright parts: a thousand dark droplets of real tissue have no larger one than
  the largest of them.
* A fold is dark along a line right across the tile, and lighter on both sides of it. The measure is the
  contrast of a line, a twentieth of the tile wide, that four fifths of it exceed, as the natural logarithm of
  the light. Cells,
  droplets and the rim of the tissue are dark too, but not all along a line.
* Beyond the edge of the beam a tile is opaque as well. What is lit is convex there, and not around dirt.
* Shading compares the bright parts (the 90th percentile) of nine fields of a tile.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.compiled import compiled

Floats = npt.NDArray[np.float32]
MIN_SIDE_PX: Final = 256
"""Blocks of smaller tiles are as small as organelles: nothing is said of them."""
_BLOCKS: Final = 63
_OPAQUE: Final = 0.2
_ANGLES: Final = 20
_WANDER: Final = 5
"""How wide a path the line may take, blocks."""
_SIDE: Final = (7, 12)
"""How far beside a line its surroundings lie, blocks."""
_LEAST_CHORD: Final = 0.6
_GAPS: Final = 5
"""One in so many blocks of the line may be light."""
_WIDTH: Final = 3
"""Least width of a fold, blocks: a twentieth of the tile. Membranes and cuticles are narrower."""
_DARKEST: Final = 1.5
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
    """

    opaque_fraction: float = 0.0
    opaque_radius: float = 0.0
    fold_contrast: float = 0.0
    shading: float = 1.0
    beam_edge: bool = False


def regions(image: npt.NDArray[np.unsignedinteger[Any]], dark_counts: float = 0.0) -> Regions:
    """Return what lies over a tile, (y, x) counts; nothing for tiles under 256 px.

    ``dark_counts`` is what a pixel without light has at most.
    """
    if min(image.shape) < MIN_SIDE_PX:
        return Regions()
    step = max(1, min(image.shape) // 512)
    part = np.ascontiguousarray(image[::step, ::step])
    blocks = cv2.resize(part, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA).astype(np.float32)
    bright = float(np.percentile(blocks, 80))
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
    fields = light.reshape(3, _BLOCKS // 3, 3, _BLOCKS // 3).transpose(0, 2, 1, 3).reshape(9, -1)
    levels = np.percentile(fields, 90, axis=1)
    return float(levels.min() / levels.max())


def _fold(light: Floats) -> float:
    """Return the contrast of the darkest line across, natural logarithm."""
    darkness = np.clip(-np.log(np.maximum(light, 1e-3)), -_DARKEST, _DARKEST).astype(np.float32)
    shift, wide = (_SIDE[0] + _SIDE[1]) // 2, _SIDE[1] - _SIDE[0]
    solid = cv2.morphologyEx(darkness, cv2.MORPH_OPEN, np.ones((_WIDTH, _WIDTH), np.uint8))
    reach = np.ones((_WANDER, 1), np.uint8)
    best = 0.0
    for (x, y), chords in _turns():
        band, around = (
            cv2.remap(one, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for one in (solid, darkness)
        )
        band, around = cv2.dilate(band, reach), cv2.blur(around, (9, wide))
        best = max(best, float(_darkest_line(band, around, chords, shift)))
    return best


@compiled
def _darkest_line(band: Floats, around: Floats, chords: npt.NDArray[np.int64], shift: int) -> float:
    """Return what four fifths of the best line exceed, in steps of 0.01: dark, and light on both sides."""
    best = 0
    for row in range(shift, band.shape[0] - shift):
        first, last = chords[row]
        if last - first < _LEAST_CHORD * band.shape[0]:
            continue
        counts = np.zeros(101, np.int64)
        for at in range(first, last):
            beside = max(around[row - shift, at], around[row + shift, at])
            counts[min(100, max(0, int(100 * (band[row, at] - beside))))] += 1
        left = (last - first) // _GAPS
        level = 0
        while level < 100 and left >= counts[level]:
            left -= counts[level]
            level += 1
        best = max(best, level)
    return 0.01 * best


@cache
def _turns() -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """Return, for each angle, where the lines across lie (2, rows, columns), and their part in the tile."""
    middle = (_BLOCKS - 1) / 2
    wide = math.ceil(_BLOCKS * math.sqrt(2))
    v, u = np.mgrid[0:_BLOCKS, 0:wide] - np.array([middle, (wide - 1) / 2])[:, None, None]
    found = []
    for angle in np.arange(_ANGLES) * (math.pi / _ANGLES):
        x = middle + u * math.cos(angle) - v * math.sin(angle)
        y = middle + u * math.sin(angle) + v * math.cos(angle)
        inside = (x >= 0) & (x <= _BLOCKS - 1) & (y >= 0) & (y <= _BLOCKS - 1)
        first = np.argmax(inside, axis=1)
        count = inside.sum(axis=1)
        found.append((np.stack([x, y]).astype(np.float32), np.stack([first, first + count], axis=1)))
    return found
