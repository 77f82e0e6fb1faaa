"""Defocus from tilted exposures and from series through focus, against what the images were made with."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.kernels.focus import (
    Sharpness,
    fit_peak,
    robust_fit,
    sharpness,
    spherical_defocus_um,
    tilt_displacement,
)

Reals = npt.NDArray[np.float64]


def tissue(seed: int, side: int, blur_px: float = 1.0) -> Reals:
    """Return a periodic texture with a falling spectrum, unit contrast."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    k2 = kx**2 + ky**2
    fall = np.exp(-2 * (np.pi * blur_px) ** 2 * k2) / np.sqrt(k2 + 0.02**2)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * fall, s=(side, side))
    return np.asarray(field / field.std())


def exposed(field: Reals, dx: float, dy: float, seed: int, noise: float = 0.1, side: int = 256) -> Reals:
    """Return a frame of a displaced field, with noise of its own."""
    ky, kx = np.fft.fftfreq(len(field))[:, None], np.fft.rfftfreq(len(field))[None, :]
    spectrum = np.fft.rfft2(field) * np.exp(-2j * np.pi * (kx * dx + ky * dy))
    cut = np.fft.irfft2(spectrum, s=field.shape)[:side, :side]
    return np.asarray(20_000 + 2000 * (cut + noise * np.random.default_rng(seed).standard_normal(cut.shape)))


@settings(max_examples=15)
@given(
    seen=st.tuples(st.floats(-30, 30), st.floats(-10, 10)),
    drift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    seed=st.integers(0, 1000),
)
def test_steady_drift_cancels(seen: tuple[float, float], drift: tuple[float, float], seed: int) -> None:
    field = tissue(seed, 384)
    frames = [
        exposed(field, tilt * seen[0] + n * drift[0], tilt * seen[1] + n * drift[1], 3 * seed + n)
        for n, tilt in enumerate((0, 1, 0))
    ]
    found = tilt_displacement(*frames)
    assert (found.dx_px, found.dy_px) == pytest.approx(seen, abs=0.05)
    assert (found.drift_x_px, found.drift_y_px) == pytest.approx(drift, abs=0.05)
    assert 0 < found.error_px < 0.05


def test_nothing_is_found_without_detail() -> None:
    rng = np.random.default_rng(0)
    frames = [20_000 + 300 * rng.standard_normal((128, 128)) for _ in range(3)]
    assert math.isinf(tilt_displacement(*frames).error_px)


def test_spherical_aberration() -> None:
    assert spherical_defocus_um(2.7, 10.0) == pytest.approx(0.27)


def test_sharpness_falls_with_blur_and_knows_noise() -> None:
    values = [sharpness(exposed(tissue(1, 256, blur), 0, 0, 5)).log_power for blur in (0.7, 1.2, 2.0)]
    assert values[0] > values[1] > values[2]
    noise = 20_000 + 300 * np.random.default_rng(2).standard_normal((256, 256))
    assert math.isinf(sharpness(noise).error)
    with pytest.raises(ValueError, match="too small"):
        sharpness(np.zeros((16, 16)))


def series(vertex: float, curvature: float, noise: float, seed: int) -> tuple[list[float], list[Sharpness]]:
    """Return a series through focus whose logarithm is a parabola near its vertex, with tails."""
    rng = np.random.default_rng(seed)
    places = [float(x) for x in np.linspace(-6, 6, 9)]
    values = [
        Sharpness(10 - 8 * math.log1p(curvature * (x - vertex) ** 2 / 8) + noise * rng.normal(), noise)
        for x in places
    ]
    return places, values


@given(vertex=st.floats(-4, 4), curvature=st.floats(0.1, 0.5), seed=st.integers(0, 1000))
def test_the_vertex_of_a_series(vertex: float, curvature: float, seed: int) -> None:
    peak = fit_peak(*series(vertex, curvature, 0.005, seed))
    assert peak.inside
    assert peak.defocus_um == pytest.approx(vertex, abs=0.5)


def test_an_outlier_does_not_move_the_vertex() -> None:
    places = [float(x) for x in np.linspace(-3, 3, 9)]
    values = [Sharpness(5 - 0.2 * (x - 0.4) ** 2, 0.01) for x in places]
    values[6] = Sharpness(values[6].log_power - 1.2, 0.01)
    assert fit_peak(places, values).defocus_um == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([Sharpness(5.0, 0.01)] * 7, "does not change"),
        ([Sharpness(-math.inf, math.inf)] * 5 + [Sharpness(1.0, 0.01)] * 2, "only 2 of 7"),
        ([Sharpness(float(x) ** 2, 0.01) for x in range(-3, 4)], "does not change|outside"),
    ],
)
def test_a_series_without_a_peak_says_why(values: list[Sharpness], words: str) -> None:
    peak = fit_peak([float(x) for x in range(-3, 4)], values)
    assert not peak.inside
    assert pytest.approx(0) != len(peak.reason)
    assert any(word in peak.reason for word in words.split("|"))


def test_a_peak_beyond_the_series_is_not_inside() -> None:
    places = [float(x) for x in range(-3, 4)]
    peak = fit_peak(places, [Sharpness(9 - 0.1 * (x - 5) ** 2, 0.01) for x in places])
    assert not peak.inside
    assert peak.defocus_um == pytest.approx(5, abs=0.3)


@given(slope=st.floats(-2, 2), wrong=st.floats(3, 50), seed=st.integers(0, 1000))
def test_robust_fit_of_a_line_with_an_outlier(slope: float, wrong: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 12)
    y = 0.3 + slope * x + 0.01 * rng.standard_normal(12)
    y[int(rng.integers(12))] += wrong
    coefficients, covariance, residual = robust_fit(np.stack([np.ones(12), x], axis=1), y, np.full(12, 0.01))
    assert coefficients == pytest.approx((0.3, slope), abs=0.03)
    assert residual < 0.03
    assert covariance.shape == (2, 2)
