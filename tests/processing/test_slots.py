"""Slots: their outline, the fit through points of their edge, and what is seen of one in an image."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from processing.kernels.edges import edges_along, fit_ellipse
from processing.kernels.slots import Slot, fit_slot, slot_guess, traced

Reals = npt.NDArray[np.float64]


def image_of(slot: Slot, side: int = 400, seed: int = 0) -> Reals:
    """Return a bright slot over structure and noise."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:side, :side] - (side - 1) / 2
    depth = -slot.distance(np.stack([u.ravel(), v.ravel()], axis=1)).reshape(side, side)
    inside = 1 / (1 + np.exp(-np.clip(depth / 0.7, -50, 50)))
    structure = ndimage.gaussian_filter(rng.standard_normal((side, side)), 3)
    light = 1000 * inside * (1 + 0.15 * structure / structure.std())
    return np.asarray(light + rng.normal(0, 20, (side, side)) + 100)


def seen_in(image: Reals, about: Slot, reach_px: float = 12.0) -> Reals:
    """Return edge points about a slot."""
    outline, outwards = about.outline(360)
    return edges_along(image, outline - reach_px * outwards, outwards, np.arange(0, 2 * reach_px, 0.25), 1.0)


@given(st.floats(-50, 50), st.floats(1, 100), st.floats(0.1, 1), st.floats(0, 1), st.floats(-180, 180))
def test_an_outline_lies_on_the_edge_and_is_even(
    x: float, half_length: float, aspect: float, roundness: float, angle_deg: float
) -> None:
    half_width = aspect * half_length
    slot = Slot(x, -x / 2, half_length, half_width, roundness * half_width, angle_deg)
    points, outwards = slot.outline(200)
    assert np.abs(slot.distance(points)).max() < 1e-9 * max(1, half_length)
    assert np.abs(slot.distance(points + 0.1 * outwards) - 0.1).max() < 1e-7
    assert np.linalg.norm(outwards, axis=1) == pytest.approx(1)
    steps = np.linalg.norm(np.diff(points, axis=0, append=points[:1]), axis=1)
    assert steps.max() < 1.03 * steps.mean()
    x1, y1 = points.T
    area = abs(float(np.sum(x1 * np.roll(y1, -1) - y1 * np.roll(x1, -1)))) / 2
    assert area == pytest.approx(math.pi * slot.radius**2, rel=0.01)
    farthest = np.linalg.norm(points - (x, -x / 2), axis=1).max()
    assert farthest == pytest.approx(slot.reach, rel=0.01)


@settings(max_examples=10)
@given(st.floats(-15, 15), st.floats(-15, 15), st.floats(0, 179), st.floats(0.1, 1), st.integers(0, 99))
def test_a_slot_is_found_below_a_pixel(
    x: float, y: float, angle_deg: float, roundness: float, seed: int
) -> None:
    true = Slot(x, y, 130.0, 65.0, 65 * roundness, angle_deg)
    image = image_of(true, seed=seed)
    guess = slot_guess(image)
    assert guess is not None
    assert math.hypot(guess.x - x, guess.y - y) < 3
    found = fit_slot(seen_in(image, guess), guess).slot
    assert math.hypot(found.x - x, found.y - y) < 0.3
    assert (found.half_length, found.half_width) == pytest.approx((130.0, 65.0), abs=0.8)
    assert abs((found.angle_deg - angle_deg + 90) % 180 - 90) < 0.3
    assert found.radius == pytest.approx(true.radius, rel=0.01)


def test_dirt_on_an_edge_is_left_out() -> None:
    true = Slot(3.0, -5.0, 100.0, 50.0, 20.0, 25.0)
    points, outwards = true.outline(300)
    rng = np.random.default_rng(3)
    points = points + rng.normal(0, 0.3, (300, 1)) * outwards
    points[40:80] -= 9.0 * outwards[40:80]
    fit = fit_slot(points, Slot(0.0, 0.0, 95.0, 55.0, 14.0, 15.0))
    assert math.hypot(fit.slot.x - 3, fit.slot.y + 5) < 0.1
    assert fit.slot.half_length == pytest.approx(100, abs=0.2)
    assert fit.slot.corner == pytest.approx(20, abs=1)
    assert fit.rms == pytest.approx(0.3, rel=0.2)
    assert not fit.used[40:80].any()
    assert fit.used.sum() > 250


def test_the_longer_axis_comes_first() -> None:
    true = Slot(0.0, 0.0, 100.0, 50.0, 10.0, 100.0)
    points, _ = true.outline(200)
    found = fit_slot(points, Slot(1.0, 1.0, 52.0, 97.0, 12.0, 5.0)).slot
    assert (found.half_length, found.half_width) == pytest.approx((100, 50), abs=0.01)
    assert found.angle_deg == pytest.approx(100, abs=0.01)


def test_a_trace_follows_the_edge_where_it_was_seen() -> None:
    turns = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
    bump = np.where(np.abs(turns - 2.0) < 0.3, 1.5, 0.0)
    points = (50 + bump)[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points = points[turns < 5.0]
    fit = fit_ellipse(points[::10], circle=True)
    trace = traced(points, *fit.outline(360))
    assert trace.shape == (72, 2)
    angle, radius = np.arctan2(trace[:, 1], trace[:, 0]), np.linalg.norm(trace, axis=1)
    assert radius[np.abs(angle - 2.0) < 0.2] == pytest.approx(51.5, abs=0.05)
    assert radius[(angle > 0.1) & (angle < 1.6)] == pytest.approx(50, abs=0.05)
    assert radius[(angle > -1.1) & (angle < -0.2)] == pytest.approx(50, abs=0.05)  # as fitted, unseen


def test_too_little_of_a_slot_says_so() -> None:
    true = Slot(0.0, 0.0, 100.0, 50.0, 10.0, 0.0)
    points, _ = true.outline(100)
    with pytest.raises(ValueError, match="10 edge points are too few"):
        fit_slot(points[:10], true)
    with pytest.raises(ValueError, match="an end of the slot shows no edge"):
        fit_slot(points[points[:, 0] < 90], true)
    assert slot_guess(np.full((100, 100), 7.0)) is None
