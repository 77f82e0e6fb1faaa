"""Sections on a film: what lies outside their outlines is bare film, with an edge that does not alias."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.frame_geometry import BLOCK
from sim.jit import inlined, kernel
from sim.sample import SectionConfig

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
_NEAR = 128
"""Edges of outlines that may pass through one block."""


class Outlines:
    """The outlines of sections; ``film`` is the transmission around them."""

    def __init__(self, sections: Sequence[SectionConfig], film: float) -> None:
        rings = [1e3 * np.array(section.outline_um, dtype=np.float64) for section in sections]
        self._edges = np.concatenate([np.hstack([ring, np.roll(ring, -1, axis=0)]) for ring in rings])
        self._starts = np.cumsum([0, *map(len, rings)])
        self._boxes = np.stack([np.hstack([ring.min(axis=0), ring.max(axis=0)]) for ring in rings])
        self._film = film

    def cut(self, grid: Points, illumination: Floats, pixel_nm: float, image: Floats) -> None:
        """Put bare film where there is no section.

        ``grid`` (2, rows + 1, columns + 1) holds the sample points (nm) of the blocks' corners,
        ``illumination`` the beam there; ``image`` (y, x) is changed in place.
        """
        _cut(self._edges, self._starts, self._boxes, self._film, grid, illumination, pixel_nm, image)


@inlined
def _distance2(edge: Points, x: float, y: float) -> float:
    """Return the squared distance of a point from an edge."""
    ex, ey = edge[2] - edge[0], edge[3] - edge[1]
    dx, dy = x - edge[0], y - edge[1]
    part = min(max((dx * ex + dy * ey) / max(ex * ex + ey * ey, 1e-12), 0.0), 1.0)
    dx, dy = dx - part * ex, dy - part * ey
    return float(dx * dx + dy * dy)


@inlined
def _crosses(edge: Points, x: float, y: float) -> bool:
    """Whether an edge crosses the ray from a point towards +x."""
    if (edge[1] > y) == (edge[3] > y):
        return False
    return bool(x < edge[0] + (y - edge[1]) * (edge[2] - edge[0]) / (edge[3] - edge[1]))


@kernel
def _around(
    edges: Points,
    starts: npt.NDArray[np.int64],
    boxes: Points,
    x: float,
    y: float,
    reach: float,
    near: Points,
) -> tuple[int, int]:
    """Return 1 if a point lies within a section, and how many edges within ``reach`` are in ``near`` now."""
    inside, found = 0, 0
    for section in range(len(boxes)):
        box = boxes[section]
        if x < box[0] - reach or x > box[2] + reach or y < box[1] - reach or y > box[3] + reach:
            continue
        odd = 0
        for at in range(starts[section], starts[section + 1]):
            if _crosses(edges[at], x, y):
                odd ^= 1
            if found < _NEAR and _distance2(edges[at], x, y) < reach * reach:
                near[found] = edges[at]
                found += 1
        inside |= odd
    return inside, found


@inlined
def _between(edge: Points, ax: float, ay: float, bx: float, by: float) -> bool:
    """Whether an edge crosses the way from a to b."""
    ex, ey = edge[2] - edge[0], edge[3] - edge[1]
    first = ex * (ay - edge[1]) - ey * (ax - edge[0])
    second = ex * (by - edge[1]) - ey * (bx - edge[0])
    if (first > 0.0) == (second > 0.0):
        return False
    dx, dy = bx - ax, by - ay
    third = dx * (edge[1] - ay) - dy * (edge[0] - ax)
    fourth = dx * (edge[3] - ay) - dy * (edge[2] - ax)
    return bool((third > 0.0) != (fourth > 0.0))


@kernel
def _cut(
    edges: Points,
    starts: npt.NDArray[np.int64],
    boxes: Points,
    film: float,
    grid: Points,
    light: Floats,
    pixel: float,
    image: Floats,
) -> None:
    near = np.empty((_NEAR, 4))
    for j in range(grid.shape[1] - 1):
        for i in range(grid.shape[2] - 1):
            corners = grid[:, j : j + 2, i : i + 2]
            x, y = 0.5 * (corners[0, 0, 0] + corners[0, 1, 1]), 0.5 * (corners[1, 0, 0] + corners[1, 1, 1])
            reach = 1.2 * math.sqrt((x - corners[0, 0, 0]) ** 2 + (y - corners[1, 0, 0]) ** 2) + pixel
            inside, found = _around(edges, starts, boxes, x, y, reach, near)
            if inside and not found:
                continue
            block = image[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            beam = light[j : j + 2, i : i + 2]
            _mix(corners, beam, near[:found], inside, (x, y), film, pixel, block)


@kernel
def _mix(
    corners: Points,
    light: Floats,
    near: Points,
    inside: int,
    middle: tuple[float, float],
    film: float,
    pixel: float,
    out: Floats,
) -> None:
    """Put film into a block where it lies outside; ``inside`` says of its middle whether that is within."""
    for r in range(out.shape[0]):
        t = r / BLOCK
        x0 = corners[0, 0, 0] + (corners[0, 1, 0] - corners[0, 0, 0]) * t
        y0 = corners[1, 0, 0] + (corners[1, 1, 0] - corners[1, 0, 0]) * t
        dx = (corners[0, 0, 1] + (corners[0, 1, 1] - corners[0, 0, 1]) * t - x0) / BLOCK
        dy = (corners[1, 0, 1] + (corners[1, 1, 1] - corners[1, 0, 1]) * t - y0) / BLOCK
        bright = light[0, 0] + (light[1, 0] - light[0, 0]) * t
        step = (light[0, 1] + (light[1, 1] - light[0, 1]) * t - bright) / BLOCK
        for c in range(out.shape[1]):
            x, y = x0 + c * dx, y0 + c * dy
            within, least = inside, 1e30
            for at in range(len(near)):
                least = min(least, _distance2(near[at], x, y))
                if _between(near[at], middle[0], middle[1], x, y):
                    within ^= 1
            far = math.sqrt(least) / pixel
            cover = min(max(0.5 + (far if within else -far), 0.0), 1.0)
            out[r, c] = cover * out[r, c] + (1.0 - cover) * film * (bright + c * step)
