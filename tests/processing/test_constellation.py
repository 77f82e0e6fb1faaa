"""Points recognised after a shift and a turn, some gone, some new."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from processing.kernels.constellation import match_points

RING = [(22 * math.cos(angle), 22 * math.sin(angle)) for angle in (0.1, 2.2, 4.3)]


def moved(
    points: list[tuple[float, float]], turn_deg: float, shift: tuple[float, float]
) -> np.ndarray[Any, Any]:
    """Return points turned about the origin and shifted."""
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    turned: np.ndarray[Any, Any] = np.array(points) @ np.array([[cos, sin], [-sin, cos]])
    turned += np.array(shift)
    return turned


@pytest.mark.parametrize("turn_deg", [-13.0, -4.0, 0.0, 7.5, 15.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (-30.0, 25.0)])
def test_a_ring_is_recognised_in_any_order(turn_deg: float, shift: tuple[float, float]) -> None:
    after = moved(RING, turn_deg, shift)[[2, 0, 1]]
    assert match_points(RING, after) == [(0, 1), (1, 2), (2, 0)]


def test_what_is_gone_and_what_is_new_has_no_partner() -> None:
    before = [*RING, (0.0, 0.0)]
    after = np.vstack([moved(RING[1:], 3.0, (2.0, 1.0)), [[2.0, 1.0], [90.0, 90.0]]])
    assert match_points(before, after) == [(1, 0), (2, 1), (3, 2)]


def test_a_single_point_is_the_nearest() -> None:
    assert match_points([(5, 5)], [(40, 0), (7, 9)]) == [(0, 1)]


def test_nothing_matches_nothing() -> None:
    assert match_points([], [(1, 2)]) == []
    assert match_points([(1, 2)], np.empty((0, 2))) == []


def test_many_points_are_matched_by_their_common_shift() -> None:
    rng = np.random.default_rng(4)
    before = np.stack(np.meshgrid(np.arange(8), np.arange(6)), axis=-1).reshape(-1, 2) * 10.0
    order = rng.permutation(len(before))
    after = (before + np.array([17.0, -33.0]) + rng.normal(0, 0.5, before.shape))[order]
    assert match_points(before, after) == [(int(order[new]), new) for new in np.argsort(order)]
