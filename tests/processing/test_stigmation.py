"""Defocus and astigmatism from spectra, against what the images were made with."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.kernels.stigmation import Aberration, measure_aberration

Reals = npt.NDArray[np.float64]
SIDE, PIXEL_NM, CONVERGENCE_RAD = 320, 3.0, 1.2e-3
STEPS_UM = (-3.0, 0.0, 3.0)


def frame(
    seed: int, defocus_um: float, astigmatism_um: tuple[float, float], salt: int, noise: float = 0.1
) -> Reals:
    """Return a frame of a texture, damped by the convergence of the illumination, with noise."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    k2 = kx**2 + ky**2
    theta = np.arctan2(ky, kx)
    focus = defocus_um + astigmatism_um[0] * np.cos(2 * theta) + astigmatism_um[1] * np.sin(2 * theta)
    damping = np.exp(-((np.pi * CONVERGENCE_RAD * 1e3 * focus / PIXEL_NM) ** 2) * k2)
    # a few grains of a stain: a spectrum that is not the same in all directions
    own = np.exp(-40 * (kx * 1.3 - 0.4 * ky) ** 2 - 25 * ky**2)
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * own * damping
    image = 3 * np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    return np.asarray(
        20_000 + 2000 * (image + noise * np.random.default_rng([salt, 1]).standard_normal(image.shape))
    )


def measured(
    seed: int, defocus_um: float, astigmatism_um: tuple[float, float], noise: float = 0.1
) -> Aberration:
    """Return what the kernel finds in a series."""
    frames = [
        frame(seed, defocus_um + step, astigmatism_um, 10 * seed + n, noise)
        for n, step in enumerate(STEPS_UM)
    ]
    return measure_aberration(frames, STEPS_UM)


@settings(max_examples=12)
@given(defocus_um=st.floats(-2, 2), a=st.floats(-1.2, 1.2), b=st.floats(-1.2, 1.2), seed=st.integers(0, 1000))
def test_known_defocus_and_astigmatism(defocus_um: float, a: float, b: float, seed: int) -> None:
    found = measured(seed, defocus_um, (a, b))
    assert found.reason == ""
    miss = math.hypot(found.astigmatism_um[0] - a, found.astigmatism_um[1] - b)
    assert miss < 0.04 * math.hypot(a, b) + 4 * found.error_um + 0.01
    assert found.defocus_um == pytest.approx(defocus_um, abs=0.1)
    assert found.error_um < 0.05


@pytest.mark.parametrize("angle_deg", [-60.0, 0.0, 30.0, 85.0])
def test_amplitude_and_angle(angle_deg: float) -> None:
    twice = math.radians(2 * angle_deg)
    found = measured(7, -0.5, (0.8 * math.cos(twice), 0.8 * math.sin(twice)))
    assert found.amplitude_um == pytest.approx(0.8, rel=0.05)
    assert found.angle_deg == pytest.approx(angle_deg, abs=2)


def test_a_place_without_detail_says_so() -> None:
    rng = np.random.default_rng(4)
    noise = [20_000 + 600 * rng.standard_normal((256, 256)) for _ in STEPS_UM]
    found = measure_aberration(noise, STEPS_UM)
    assert "without detail" in found.reason
    assert math.isnan(found.defocus_um)
    assert math.isnan(found.amplitude_um)


def test_a_series_that_does_not_change_says_so() -> None:
    same = [frame(1, 0.0, (0.0, 0.0), salt) for salt in range(3)]
    assert measure_aberration(same, STEPS_UM).reason


def test_too_few_defoci_are_refused() -> None:
    image = frame(1, 0.0, (0.0, 0.0), 1)
    with pytest.raises(ValueError, match="three"):
        measure_aberration([image, image, image], (0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="three"):
        measure_aberration([image, image], STEPS_UM)
