"""Slots in images: rectangles with rounded corners, as apertures are; a disc is one whose corners meet.

In images, pixels are counted from the middle of the frame, x along a line, y down the lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt
from scipy import optimize

from processing.kernels.edges import bright_region

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
TRACE: Final = 72
_CUT: Final = 4.0
_ROUNDS: Final = 10
_FINE: Final = 5


@dataclass(frozen=True, slots=True)
class Slot:
    """A rectangle with rounded corners, in any unit.

    ``half_length`` lies along ``angle_deg``, ``half_width`` across; ``corner`` is the radius of the corners,
    at most the smaller of both.
    """

    x: float
    y: float
    half_length: float
    half_width: float
    corner: float
    angle_deg: float

    @property
    def radius(self) -> float:
        """Radius of the circle of the same area."""
        return math.sqrt((4 * self.half_length * self.half_width - (4 - math.pi) * self.corner**2) / math.pi)

    @property
    def reach(self) -> float:
        """Distance from the centre to the farthest point of the edge."""
        return math.hypot(self.half_length - self.corner, self.half_width - self.corner) + self.corner

    def distance(self, points: Reals) -> Reals:
        """Return how far points (n, 2) lie outside the edge, negative inside."""
        angle = math.radians(self.angle_deg)
        values = (self.x, self.y, self.half_length, self.half_width, self.corner, angle)
        return _distance(points, np.array(values))

    def outline(self, count: int) -> tuple[Reals, Reals]:
        """Return points of the edge, evenly spaced, and the directions outwards there, (count, 2) each."""
        a, b, r = self.half_length, self.half_width, self.corner
        arcs = [(a - r, b - r, 0.0), (r - a, b - r, 90.0), (r - a, r - b, 180.0), (a - r, r - b, 270.0)]
        straight, arc = (2 * (b - r), 2 * (a - r)), math.pi / 2 * r
        at = np.arange(count) / count * (2 * sum(straight) + 4 * arc)
        points, outwards = np.empty((count, 2)), np.empty((count, 2))
        begin = 0.0
        for side, (x, y, first_deg) in enumerate(arcs):  # the straight part, then the corner at its end
            normal = np.array([math.cos(math.radians(first_deg)), math.sin(math.radians(first_deg))])
            along = np.array([-normal[1], normal[0]])
            length = straight[side % 2]
            here = (at >= begin) & (at < begin + length)
            back = (at[here] - begin - length)[:, None]
            points[here], outwards[here] = (x, y) + r * normal + back * along, normal
            begin += length
            here = (at >= begin) & (at < begin + arc)
            turn = math.radians(first_deg) + (at[here] - begin) / max(r, 1e-12)
            outwards[here] = np.stack([np.cos(turn), np.sin(turn)], axis=1)
            points[here] = (x, y) + r * outwards[here]
            begin += arc
        angle = math.radians(self.angle_deg)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return points @ rotation.T + np.array([self.x, self.y]), outwards @ rotation.T


@dataclass(frozen=True, slots=True)
class SlotFit:
    """A slot through edge points, ``rms`` and ``largest`` distance of those kept, which ``used`` tells."""

    slot: Slot
    rms: float
    largest: float
    used: npt.NDArray[np.bool_]


def slot_guess(image: Image) -> Slot | None:
    """Return the slot about the largest bright region of an image (y, x), px; None where there is none."""
    mask = bright_region(image)
    if mask is None:
        return None
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    (x, y), (first, second), angle_deg = cv2.minAreaRect(hull)
    height, width = image.shape
    missing = max(0.0, first * second - float(mask.sum()))  # what the corners lack of the rectangle
    corner = min(math.sqrt(missing / (4 - math.pi)), 0.5 * min(first, second))
    guess = Slot(x - (width - 1) / 2, y - (height - 1) / 2, first / 2, second / 2, corner, angle_deg)
    return _lying_along(guess)


def fit_slot(points: Reals, guess: Slot) -> SlotFit:
    """Return the slot through edge points (n, 2) by least squares, without outliers.

    Parameters
    ----------
    points
        Of the edge, in the unit of the guess.
    guess
        Good to a fifth of its width, and its angle to 20 deg.

    Raises
    ------
    ValueError
        Fewer than 24 points, or one of the four sides has none.
    """
    if len(points) < 24:
        raise ValueError(f"{len(points)} edge points are too few for a slot; 24 are the least")
    scale = guess.half_width
    start = np.array(
        [0.0, 0.0, guess.half_length / scale, 1.0, guess.corner / scale, math.radians(guess.angle_deg)]
    )
    start[4] = min(max(start[4], 0.05), 0.95 * min(start[2:4]))
    middle = np.array([guess.x, guess.y])
    relative = (points - middle) / scale
    used = np.ones(len(points), bool)
    values = _solved(relative, start, loss="soft_l1")
    for _ in range(_ROUNDS):
        distance = np.abs(_distance(relative, values))
        sigma = 1.4826 * float(np.median(distance[used]))
        keep = distance <= _CUT * max(sigma, 1e-9)
        if keep.sum() < 24 or bool((keep == used).all()):
            break
        used = keep
        values = _solved(relative[used], values, loss="linear")
    _check_sides(relative[used], values)
    x, y, a, b, r, angle = (float(value) for value in values)
    slot = Slot(
        middle[0] + scale * x,
        middle[1] + scale * y,
        scale * a,
        scale * b,
        scale * min(r, a, b),
        math.degrees(angle),
    )
    left = scale * np.abs(_distance(relative[used], values))
    return SlotFit(_lying_along(slot), float(np.sqrt(np.mean(left**2))), float(left.max()), used)


def traced(points: Reals, outline: Reals, outwards: Reals) -> Reals:
    """Return an edge as it was seen, (72, 2): an outline moved to the points about it.

    Parameters
    ----------
    points
        Edge points (n, 2).
    outline, outwards
        The fitted edge and its directions outwards, (360, 2); where no point was seen it stays.
    """
    # nearest of 360: an arc between two of them is as good as straight
    nearest = np.argmin(np.linalg.norm(points[:, None, :] - outline[None, :, :], axis=2), axis=1)
    off = np.sum((points - outline[nearest]) * outwards[nearest], axis=1)
    count = len(outline) // _FINE
    place = (nearest + _FINE // 2) // _FINE % count
    moved = [float(np.median(off[place == n])) if (place == n).any() else 0.0 for n in range(count)]
    return np.asarray(outline[::_FINE] + np.array(moved)[:, None] * outwards[::_FINE])


def _distance(points: Reals, values: Reals) -> Reals:
    """Return the signed distance of points to a rounded rectangle: x, y, half axes, corner, angle in rad."""
    x, y, a, b, r, angle = values
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = points[:, 0] - x, points[:, 1] - y
    along, across = np.abs(cos * dx + sin * dy) - a + r, np.abs(cos * dy - sin * dx) - b + r
    outer = np.hypot(np.maximum(along, 0.0), np.maximum(across, 0.0))
    return np.asarray(outer + np.minimum(np.maximum(along, across), 0.0) - r)


def _solved(points: Reals, start: Reals, loss: Literal["linear", "soft_l1"]) -> Reals:
    """Return the parameters that fit; lengths are in half widths of the guess."""
    low = [-2.0, -2.0, 0.3 * start[2], 0.3 * start[3], 0.0, start[5] - 0.6]
    high = [2.0, 2.0, 3 * start[2], 3 * start[3], 1.2 * min(start[2:4]), start[5] + 0.6]
    start = np.clip(start, np.array(low) + 1e-6, np.array(high) - 1e-6)

    def off(values: Reals) -> Reals:
        return _distance(points, values)

    found = optimize.least_squares(off, start, bounds=(low, high), loss=loss, f_scale=0.01)
    return np.asarray(found.x, float)


def _check_sides(points: Reals, values: Reals) -> None:
    x, y, _, _, _, angle = values
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = points[:, 0] - x, points[:, 1] - y
    along, across = (cos * dx + sin * dy) / values[2], (cos * dy - sin * dx) / values[3]
    sides = {
        "an end": (along > np.abs(across), -along > np.abs(across)),
        "a long side": (across > np.abs(along), -across > np.abs(along)),
    }
    for name, pair in sides.items():
        if min(int(side.sum()) for side in pair) < 3:
            raise ValueError(f"{name} of the slot shows no edge; look at more of it")


def _lying_along(slot: Slot) -> Slot:
    """Return the same slot with its longer axis first, and the angle of that, 0 to 180 deg."""
    a, b, angle_deg = slot.half_length, slot.half_width, slot.angle_deg
    if a < b:
        a, b, angle_deg = b, a, angle_deg + 90
    return Slot(slot.x, slot.y, a, b, slot.corner, angle_deg % 180.0)
