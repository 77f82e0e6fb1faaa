"""Discs in images, as beams and holes are: their edge, below a pixel, and the ellipse through it.

`processing.kernels.slots` has the holes that are longer than wide.

Pixels are counted from the middle of the frame, x along a line, y down the lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
RAYS: Final = 180
_CUT: Final = 4.0
_ROUNDS: Final = 20
_SIDES: Final = 40
"""Steps on both sides of an edge that must be bright and dark."""


@dataclass(frozen=True, slots=True)
class EllipseFit:
    """An ellipse through edge points.

    ``major`` and ``minor`` are half axes, ``angle_deg`` the direction of the major; ``rms`` and ``largest``
    the distances of the kept points from the edge, along rays from the centre; all lengths in the unit of the
    points. ``used`` tells which points were kept.
    """

    x: float
    y: float
    major: float
    minor: float
    angle_deg: float
    rms: float
    largest: float
    used: npt.NDArray[np.bool_]

    @property
    def radius(self) -> float:
        """Radius of the circle of the same area."""
        return math.sqrt(self.major * self.minor)

    def outline(self, count: int) -> tuple[Reals, Reals]:
        """Return points of the edge and the directions outwards there, (count, 2) each."""
        t = 2 * np.pi * np.arange(count) / count
        angle = math.radians(self.angle_deg)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        points = np.stack([self.major * np.cos(t), self.minor * np.sin(t)], axis=1) @ turn.T
        outwards = np.stack([self.minor * np.cos(t), self.major * np.sin(t)], axis=1) @ turn.T
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        return points + np.array([self.x, self.y]), outwards


def disc_guess(image: Image) -> tuple[float, float, float] | None:
    """Return centre and radius (px) of the largest bright region that Otsu's threshold finds, or None."""
    mask = bright_region(image)
    if mask is None:
        return None
    height, width = image.shape
    moments = cv2.moments(mask, binaryImage=True)
    area = moments["m00"]
    x, y = moments["m10"] / area, moments["m01"] / area
    return x - (width - 1) / 2, y - (height - 1) / 2, math.sqrt(area / math.pi)


def bright_region(image: Image) -> npt.NDArray[np.uint8] | None:
    """Return the largest bright region that Otsu's threshold finds, (y, x), 0 or 1; None where there is none.

    N. Otsu, IEEE Trans. SMC 9 (1979) 62, doi:10.1109/TSMC.1979.4310076.
    """
    height, width = image.shape
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), max(1.0, min(height, width) / 200))
    low, high = np.percentile(smooth, [0.5, 99.5])
    if high - low <= 1e-5 * abs(high):
        return None
    grey = np.clip(255 * (smooth - low) / (high - low), 0, 255).astype(np.uint8)
    _, mask = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return None
    best = 1 + int(np.argmax(boxes[1:, cv2.CC_STAT_AREA]))
    return np.asarray(labels == best, np.uint8)


def edge_points(
    image: Image, centre_px: tuple[float, float], radius_px: float, *, reach: float = 0.4, rays: int = RAYS
) -> Reals:
    """Return where rays from a centre leave a bright disc: (n, 2) px, the steepest fall of each ray.

    Parameters
    ----------
    image
        (y, x), counts.
    centre_px, radius_px
        The disc as it is known so far.
    reach
        How far around the radius to look, as a fraction of it.
    rays
        How many; those whose search leaves the frame, and those that fall nowhere, give no point.
    """
    angle = 2 * np.pi * np.arange(rays) / rays
    step = max(0.25, radius_px / 400)
    return edges_along(
        image,
        np.broadcast_to(np.asarray(centre_px, float), (rays, 2)),
        np.stack([np.cos(angle), np.sin(angle)], axis=1),
        np.arange(radius_px * (1 - reach), radius_px * (1 + reach), step),
        max(1.0, 0.01 * radius_px),
    )


def edges_along(
    image: Image, starts_px: Reals, directions: Reals, distances_px: Reals, blur_px: float
) -> Reals:
    """Return where lines leave something bright: (n, 2) px, the steepest fall along each.

    Parameters
    ----------
    image
        (y, x), counts.
    starts_px, directions
        (line, 2): where each begins, and its unit vector.
    distances_px
        (m,), evenly spaced: how far from the start to look.
    blur_px
        By how much the image is smoothed.

    Returns
    -------
    numpy.ndarray
        No point of a line whose search leaves the frame where it falls, or that falls nowhere.
    """
    height, width = image.shape
    smooth = ndimage.gaussian_filter(image.astype(np.float32), blur_px)
    r, step = distances_px, float(distances_px[1] - distances_px[0])
    x = starts_px[:, :1] + (width - 1) / 2 + np.outer(directions[:, 0], r)
    y = starts_px[:, 1:] + (height - 1) / 2 + np.outer(directions[:, 1], r)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    profile = ndimage.map_coordinates(smooth, [y, x], order=1, mode="nearest")
    if not inside.any():
        return np.empty((0, 2))
    dark, bright = np.percentile(profile[inside], [5, 95])
    middle = (dark + bright) / 2
    fall = -np.gradient(ndimage.gaussian_filter1d(profile, 2 * blur_px / step, axis=1), axis=1)
    fall[~inside] = 0.0
    found = []
    for line in range(len(starts_px)):
        at = int(np.argmax(fall[line]))
        if not 2 <= at < len(r) - 2 or not inside[line, at - 2 : at + 3].all():
            continue
        within, beyond = profile[line, max(0, at - _SIDES) : at], profile[line, at + 1 : at + 1 + _SIDES]
        if not np.median(within) > middle > np.median(beyond[inside[line, at + 1 : at + 1 + _SIDES]]):
            continue
        before, here, after = fall[line, at - 1 : at + 2]
        curve = before - 2 * here + after
        peak = r[at] + step * (0.5 * (before - after) / curve if curve < 0 else 0.0)
        found.append(starts_px[line] + peak * directions[line])
    return np.array(found, float).reshape(-1, 2)


def fit_ellipse(points: Reals, *, circle: bool = False) -> EllipseFit:
    """Return the ellipse (or circle) through edge points (n, 2), without outliers.

    Raises
    ------
    ValueError
        Fewer than eight points, or they lie on less than a third of the way round.
    """
    if len(points) < 8:
        raise ValueError(f"{len(points)} edge points are too few for an ellipse; 8 are the least")
    fit = _circle if circle else _ellipse
    weight = np.ones(len(points))
    for _ in range(_ROUNDS):  # least absolute distances: outliers pull little
        distance = np.abs(_distance(points, *fit(points, weight)))
        weight = 1 / (distance + 0.1 * float(np.median(distance)) + 1e-12)
    used = np.ones(len(points), bool)
    ellipse = fit(points, weight)
    distance = _distance(points, *ellipse)
    for _ in range(_ROUNDS):
        scale = 1.4826 * float(np.median(np.abs(distance[used])))
        keep = np.abs(distance) <= _CUT * max(scale, 1e-9)
        if keep.sum() < 8:
            break
        settled = bool((keep == used).all())
        used = keep
        ellipse = fit(points[used], np.ones(int(used.sum())))
        distance = _distance(points, *ellipse)
        if settled:
            break
    x, y, major, minor, angle = ellipse
    if _covered(points[used], x, y) < 1 / 3:
        raise ValueError(
            "the edge points lie on less than a third of the way round; look at more of the edge"
        )
    left = np.abs(distance[used])
    rms = float(np.sqrt(np.mean(left**2)))
    return EllipseFit(x, y, major, minor, math.degrees(angle) % 180.0, rms, float(left.max()), used)


def _circle(points: Reals, weight: Reals) -> tuple[float, float, float, float, float]:
    """Return the circle that Kasa's linear fit finds, as an ellipse (IEEE Trans. IM 25 (1976) 8)."""
    middle = points.mean(axis=0)
    x, y = (points - middle).T
    root = np.sqrt(weight)
    design = np.stack([x, y, np.ones_like(x)], 1) * root[:, None]
    a, b, c = np.linalg.lstsq(design, (x**2 + y**2) * root, rcond=None)[0]
    radius = math.sqrt(c + (a * a + b * b) / 4)
    return float(middle[0] + a / 2), float(middle[1] + b / 2), radius, radius, 0.0


def _ellipse(points: Reals, weight: Reals) -> tuple[float, float, float, float, float]:
    """Return the direct least-squares ellipse (Halir and Flusser, WSCG 1998): x, y, axes, angle (rad)."""
    middle = points.mean(axis=0)
    scale = float(np.abs(points - middle).max())
    x, y = ((points - middle) / scale).T
    root = np.sqrt(weight / weight.max())[:, None]
    quadratic = np.stack([x * x, x * y, y * y], 1) * root
    linear = np.stack([x, y, np.ones_like(x)], 1) * root
    s1, s2, s3 = quadratic.T @ quadratic, quadratic.T @ linear, linear.T @ linear
    t = -np.linalg.solve(s3, s2.T)
    m = s1 + s2 @ t
    m = np.array([m[2] / 2, -m[1], m[0] / 2])
    _, vectors = np.linalg.eig(m)
    vectors = vectors.real
    a1 = vectors[:, 4 * vectors[0] * vectors[2] - vectors[1] ** 2 > 0][:, 0]
    a, b, c, d, e, f = (float(n) for n in (*a1, *(t @ a1)))
    x0, y0 = np.linalg.solve([[2 * a, b], [b, 2 * c]], [-d, -e])
    value = f + (d * x0 + e * y0) / 2
    strengths, axes = np.linalg.eigh(np.array([[a, b / 2], [b / 2, c]]) / -value)
    major, minor = scale / math.sqrt(strengths[0]), scale / math.sqrt(strengths[1])
    angle = math.atan2(axes[1, 0], axes[0, 0])
    return middle[0] + scale * x0, middle[1] + scale * y0, major, minor, angle


def _distance(points: Reals, x: float, y: float, major: float, minor: float, angle: float) -> Reals:
    """Return how far points lie outside an ellipse, along rays from its centre."""
    dx, dy = points[:, 0] - x, points[:, 1] - y
    theta = np.arctan2(dy, dx) - angle
    edge = major * minor / np.hypot(minor * np.cos(theta), major * np.sin(theta))
    return np.asarray(np.hypot(dx, dy) - edge)


def _covered(points: Reals, x: float, y: float) -> float:
    """Return which part of the way round has points, in steps of 15 deg."""
    theta = np.degrees(np.arctan2(points[:, 1] - y, points[:, 0] - x))
    return len(np.unique(np.floor(theta / 15.0))) / 24
