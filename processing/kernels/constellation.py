"""Recognising points by how they lie to each other: after a small turn and any shift."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Points = npt.NDArray[np.float64]

LARGEST_TURN_DEG: Final = 15.0
TURN_STEP_DEG: Final = 3.0
ENOUGH: Final = 20
"""With more points than these only the shift of their means is tried, without a turn."""


def match_points(before: npt.ArrayLike, after: npt.ArrayLike) -> list[tuple[int, int]]:
    """Return which point is which after the whole has been shifted and a little turned.

    Of the shifts that bring the point nearest to the middle onto each of the others, with turns up to 15 deg
    either way, that one counts which brings the most points together, and these the closest. Two points are
    the same when they then lie within half the smallest distance of two points of ``before``; a single one is
    the one nearest to where it was.

    Parameters
    ----------
    before, after
        ``(n, 2)`` and ``(m, 2)``, any one unit.

    Returns
    -------
    list
        Pairs of indices into ``before`` and ``after``, by the former; points without a partner are left out.

    Examples
    --------
    >>> match_points([[0, 0], [10, 0], [0, 20]], [[3, 21], [3, 1], [13, 1]])
    [(0, 1), (1, 2), (2, 0)]
    """
    old, new = (np.asarray(points, float).reshape(-1, 2) for points in (before, after))
    if not len(old) or not len(new):
        return []
    if len(old) == 1:
        return [(0, int(np.argmin(np.linalg.norm(new - old[0], axis=1))))]
    limit = _smallest_distance(old) / 2
    best: tuple[int, float, list[tuple[int, int]]] = (0, 0.0, [])
    for moved in _candidates(old, new):
        distances = np.linalg.norm(moved[:, None] - new[None], axis=2)
        rows, columns = linear_sum_assignment(np.minimum(distances, limit))
        near = distances[rows, columns] < limit
        pairs = [(int(row), int(column)) for row, column in zip(rows[near], columns[near], strict=True)]
        closeness = -float(distances[rows, columns][near].sum())
        best = max(best, (len(pairs), closeness, pairs))
    return best[2]


def _candidates(old: Points, new: Points) -> list[Points]:
    """Return where the points would be after each of the turns and shifts that are tried."""
    if max(len(old), len(new)) > ENOUGH:
        return [old, old + (np.median(new, axis=0) - np.median(old, axis=0))]
    anchor = old[np.argmin(np.linalg.norm(old - old.mean(axis=0), axis=1))]
    moved = []
    for turn_deg in np.arange(-LARGEST_TURN_DEG, LARGEST_TURN_DEG + TURN_STEP_DEG / 2, TURN_STEP_DEG):
        cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
        turned = (old - anchor) @ np.array([[cos, sin], [-sin, cos]])
        moved += [turned + point for point in new]
    return moved


def _smallest_distance(points: Points) -> float:
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return float(distances[~np.eye(len(points), dtype=bool)].min())
