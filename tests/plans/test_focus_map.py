"""Surfaces of focus, against surfaces that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import ConfigurationError
from plans.specs.focus import MapKind
from plans.specs.focus_map import FocusMap, MapPoint, spread_points

PLACES = [(float(x), float(y)) for x in (-80, 0, 75) for y in (-60, 5, 90)]


def surface(kind: MapKind, x: float, y: float) -> float:
    """Return a tilted plane, bent if it is to be."""
    plane = 0.4 + 0.01 * x - 0.004 * y
    return plane + (2e-4 * x * x - 1e-4 * x * y + 5e-5 * y * y if kind == "paraboloid" else 0.0)


@pytest.mark.parametrize("kind", ["plane", "paraboloid"])
def test_an_exact_surface_is_found(kind: MapKind) -> None:
    points = [MapPoint(x, y, surface(kind, x, y)) for x, y in PLACES]
    fitted = FocusMap.fit(points, kind)
    for x, y in [(10.0, 20.0), (-80.0, 90.0), (150.0, 0.0)]:
        assert fitted.offset_um(x, y) == pytest.approx(surface(kind, x, y), abs=1e-6)
    assert fitted.residual_um == pytest.approx(0, abs=1e-9)
    assert fitted.left_out_rms_um == pytest.approx(0, abs=1e-9)
    assert fitted.outliers == ()


@given(
    slope=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
    wrong=st.floats(2, 20),
    at=st.integers(0, len(PLACES) - 1),
)
def test_an_outlier_is_named_and_does_not_move_the_plane(
    slope: tuple[float, float], wrong: float, at: int
) -> None:
    points = [MapPoint(x, y, slope[0] * x + slope[1] * y) for x, y in PLACES]
    points[at] = MapPoint(*PLACES[at], points[at].offset_um + wrong)
    fitted = FocusMap.fit(points)
    assert fitted.outliers == (at,)
    assert fitted.offset_um(30.0, 30.0) == pytest.approx(slope[0] * 30 + slope[1] * 30, abs=0.05)
    assert fitted.residual_um < 0.05
    assert fitted.left_out_um[at] == pytest.approx(wrong, rel=0.05)


def test_residual_and_leave_one_out_tell_the_noise() -> None:
    rng = np.random.default_rng(0)
    places = [(float(x), float(y)) for x, y in rng.uniform(-100, 100, (40, 2))]
    points = [MapPoint(x, y, surface("plane", x, y) + 0.1 * rng.normal(), 0.1) for x, y in places]
    fitted = FocusMap.fit(points)
    assert 0.05 < fitted.residual_um < 0.2
    assert fitted.left_out_rms_um > fitted.residual_um


def test_three_points_define_a_plane_and_leave_nothing_over() -> None:
    fitted = FocusMap.fit([MapPoint(0, 0, 1), MapPoint(100, 0, 2), MapPoint(0, 100, 3)])
    assert fitted.offset_um(100, 100) == pytest.approx(4)
    assert math.isnan(fitted.left_out_rms_um)


@pytest.mark.parametrize(
    ("places", "kind", "words"),
    [
        ([(0, 0), (1, 1)], "plane", "2 points.*at least 3"),
        ([(0, 0), (10, 10), (20, 20), (30, 30)], "plane", "on a line"),
        ([(5, 5)] * 4, "plane", "on a line"),
        (PLACES[:5], "paraboloid", "5 points.*at least 6"),
        ([(math.cos(t), math.sin(t)) for t in range(8)], "paraboloid", "on a conic"),
    ],
)
def test_points_that_define_nothing_are_refused(
    places: list[tuple[float, float]], kind: MapKind, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FocusMap.fit([MapPoint(x, y, 0.0) for x, y in places], kind)


@given(
    places=st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=30),
    count=st.integers(1, 10),
)
def test_spread_points_are_different_places(places: list[tuple[float, float]], count: int) -> None:
    chosen = spread_points(places, count)
    assert len(chosen) == min(count, len(set(places)))
    assert set(chosen) <= {(x, y) for x, y in places}


def test_spread_points_reach_the_corners_of_a_grid() -> None:
    grid = [(float(x), float(y)) for x in range(11) for y in range(11)]
    assert set(spread_points(grid, 5)) == {(5, 5), (0, 0), (0, 10), (10, 0), (10, 10)}
