"""Discs in images: their edges and the ellipses through them, with known answers."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from processing.kernels.edges import disc_guess, edge_points, fit_ellipse

Reals = npt.NDArray[np.float64]


def disc(
    side: int, x: float, y: float, major: float, minor: float, angle_deg: float = 0.0, seed: int = 0
) -> Reals:
    """Return a bright ellipse over structure and noise; x, y px from the middle."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:side, :side] - (side - 1) / 2
    angle = math.radians(angle_deg)
    a = (u - x) * math.cos(angle) + (v - y) * math.sin(angle)
    b = (v - y) * math.cos(angle) - (u - x) * math.sin(angle)
    depth = (1 - np.hypot(a / major, b / minor)) * minor
    inside = 1 / (1 + np.exp(-np.clip(depth / 0.7, -50, 50)))
    structure = ndimage.gaussian_filter(rng.standard_normal((side, side)), 3)
    light = 1000 * inside * (1 + 0.15 * structure / structure.std())
    return np.asarray(light + rng.normal(0, 20, (side, side)) + 100)


def ellipse_points(x: float, y: float, major: float, minor: float, angle_deg: float, turns: Reals) -> Reals:
    """Return points of an ellipse."""
    angle = math.radians(angle_deg)
    a, b = major * np.cos(turns), minor * np.sin(turns)
    return np.stack(
        [x + a * math.cos(angle) - b * math.sin(angle), y + a * math.sin(angle) + b * math.cos(angle)], axis=1
    )


@settings(max_examples=12)
@given(st.floats(-60, 60), st.floats(-60, 60), st.floats(50, 120), st.integers(0, 1000))
def test_disc_is_found_below_a_pixel(x: float, y: float, radius: float, seed: int) -> None:
    image = disc(400, x, y, radius, radius, seed=seed)
    guess = disc_guess(image)
    assert guess is not None
    assert math.hypot(guess[0] - x, guess[1] - y) < 3
    fit = fit_ellipse(edge_points(image, guess[:2], guess[2]), circle=True)
    assert math.hypot(fit.x - x, fit.y - y) < 0.35
    assert fit.radius == pytest.approx(radius, abs=0.6)


def test_ellipse_in_an_image() -> None:
    image = disc(400, 12.3, -7.8, 110, 90, 30)
    fit = fit_ellipse(edge_points(image, (10.0, -5.0), 100.0))
    assert math.hypot(fit.x - 12.3, fit.y + 7.8) < 0.4
    assert fit.major == pytest.approx(110, abs=1.0)
    assert fit.minor == pytest.approx(90, abs=1.0)
    assert fit.angle_deg == pytest.approx(30, abs=2)


@given(
    st.floats(-1000, 1000),
    st.floats(-1000, 1000),
    st.floats(10, 500),
    st.floats(0.5, 0.95),
    st.floats(0, 179),
)
def test_exact_points_give_the_ellipse(x: float, y: float, major: float, flat: float, angle: float) -> None:
    turns = 2 * np.pi * np.arange(60) / 60
    fit = fit_ellipse(ellipse_points(x, y, major, flat * major, angle, turns))
    scale = 1e-5 * major
    assert [fit.x, fit.y] == pytest.approx([x, y], abs=scale)
    assert [fit.major, fit.minor] == pytest.approx([major, flat * major], rel=1e-5)
    assert abs((fit.angle_deg - angle + 90) % 180 - 90) < 0.01
    assert fit.rms < scale


def test_dirt_on_the_edge_is_left_out() -> None:
    rng = np.random.default_rng(5)
    points = ellipse_points(3, 4, 100, 100, 0, 2 * np.pi * np.arange(120) / 120)
    points += rng.normal(0, 0.3, points.shape)
    points[10:28] *= 0.9
    fit = fit_ellipse(points, circle=True)
    assert math.hypot(fit.x - 3, fit.y - 4) < 0.3
    assert not fit.used[12:26].any()


def test_too_little_of_the_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="8 are the least"):
        fit_ellipse(np.zeros((7, 2)))
    arc = ellipse_points(0, 0, 100, 100, 0, np.linspace(0, 0.5, 40))
    with pytest.raises(ValueError, match="third of the way"):
        fit_ellipse(arc, circle=True)


def test_edge_of_a_disc_larger_than_the_frame() -> None:
    image = disc(200, -300.0, 0.0, 310.0, 310.0)
    points = edge_points(image, (-296.0, 3.0), 305.0, reach=0.3, rays=720)
    assert len(points) > 30
    assert np.abs(np.hypot(points[:, 0] + 300, points[:, 1]) - 310).mean() < 1.0


def test_nothing_in_an_even_image() -> None:
    assert disc_guess(np.full((100, 100), 7.0)) is None
