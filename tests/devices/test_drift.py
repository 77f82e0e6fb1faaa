"""Drift between two short frames, against shifts that are known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from devices.sequencer.dose import flux_e_per_a2_s
from devices.sequencer.drift import DriftMeter, displacement, frames_apart_s


def scene(seed: int = 1, side: int = 300) -> npt.NDArray[np.float64]:
    """Return smooth structure, 0 to 1."""
    rough = np.random.default_rng(seed).standard_normal((side, side))
    smooth = ndimage.gaussian_filter(rough, 3.0, mode="wrap")
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth), np.float64)


def frame(image: npt.NDArray[np.float64], dx: float, dy: float, seed: int) -> npt.NDArray[np.uint16]:
    """Return a noisy frame of the image shifted by (dx, dy) px, without its border."""
    moved = ndimage.shift(image, (dy, dx), order=3, mode="wrap")[20:-20, 20:-20]
    return np.random.default_rng(seed).poisson(4000 + 4000 * moved).astype(np.uint16)


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, -0.2), (1.5, 0.0), (-4.0, 3.25)])
def test_displacement_to_a_tenth_of_a_pixel(dx: float, dy: float) -> None:
    moved = displacement(frame(scene(), 0, 0, 2), frame(scene(), dx, dy, 3))
    assert (moved.dx_px, moved.dy_px) == pytest.approx((dx, dy), abs=0.1)
    assert moved.found


def test_speed_is_way_over_time() -> None:
    meter = DriftMeter(pixel_nm=16.0)
    assert math.isnan(meter.add(frame(scene(), 0, 0, 4), 100.0))
    # 2 px of 16 nm in 0.5 s
    assert meter.add(frame(scene(), 2, 0, 5), 100.5) == pytest.approx(64.0, abs=4.0)
    assert meter.add(frame(scene(), 2, 0, 6), 101.0) == pytest.approx(0.0, abs=4.0)


@pytest.mark.parametrize("smear_px", [6, 12, 24])
def test_a_frame_smeared_while_the_sample_shook_tells_no_speed(smear_px: int) -> None:
    meter = DriftMeter(pixel_nm=16.0)
    smeared = ndimage.uniform_filter1d(scene(), smear_px, axis=1, mode="wrap")
    meter.add(frame(smeared, 0, 0, 4), 100.0)
    assert math.isnan(meter.add(frame(scene(), 0, 0, 5), 100.1))
    assert meter.smeared
    assert meter.add(frame(scene(), 2, 0, 6), 100.6) == pytest.approx(64.0, abs=4.0)
    assert not meter.smeared
    assert not math.isnan(meter.add(frame(smeared, 2, 0, 7), 101.1))  # only what was smeared before counts
    assert not meter.smeared


def test_what_comes_into_view_is_no_smear() -> None:
    meter = DriftMeter(pixel_nm=16.0)
    for dx in range(0, 60, 6):
        meter.add(frame(scene(), dx, 0, dx), 100.0 + dx)
        assert not meter.smeared


def test_frames_with_nothing_in_common_are_not_measured() -> None:
    rng = np.random.default_rng(7)
    for side in (64, 256):
        meter = DriftMeter(pixel_nm=16.0)
        for i in range(20):
            assert math.isnan(meter.add(rng.poisson(100.0, (side, side)).astype(np.uint16), float(i)))
            assert not meter.smeared


def test_slow_limits_need_frames_far_apart() -> None:
    assert frames_apart_s(50.0, 16.0) == pytest.approx(0.096)
    assert frames_apart_s(1e-3, 16.0) == 2.0


def test_flux_is_current_over_area() -> None:
    # 1 nA is 6.24e9 e/s; a disc of 2 um is pi um^2, 3.14e8 A^2
    assert flux_e_per_a2_s(1.0, 2.0) == pytest.approx(6.2415e9 / (math.pi * 1e8), rel=1e-4)
