"""The displacement between two images, against displacements that are known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.kernels.shift import measure_shift

Reals = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]
SIDE = 160


def texture(seed: int, height: int, width: int, grain_px: float = 2.5) -> Reals:
    """Return a random texture of unit contrast, whose detail is about ``grain_px``."""
    rng = np.random.default_rng(seed)
    k2 = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None, :] ** 2
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) * np.exp(-2 * (np.pi * grain_px) ** 2 * k2)
    field = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(field / field.std())


def moved(field: Reals, dx: float, dy: float) -> Reals:
    """Return the (periodic) field displaced."""
    ky, kx = np.fft.fftfreq(field.shape[0])[:, None], np.fft.rfftfreq(field.shape[1])[None, :]
    spectrum = np.fft.rfft2(field) * np.exp(-2j * np.pi * (kx * dx + ky * dy))
    return np.asarray(np.fft.irfft2(spectrum, s=field.shape))


def pair(
    seed: int, dx: float, dy: float, noise: float, shape: tuple[int, int] = (SIDE, SIDE), pattern: float = 0.0
) -> tuple[Counts, Counts]:
    """Return two frames in counts, cut from a larger field, with noise relative to their contrast."""
    rng = np.random.default_rng([seed, 1])
    field = texture(seed, 2 * shape[0], 2 * shape[1])
    fixed = pattern * rng.standard_normal(shape)
    frames = []
    for one in (field, moved(field, dx, dy)):
        cut = one[shape[0] // 2 :, shape[1] // 2 :][: shape[0], : shape[1]]
        counts = 20_000 + 2000 * (cut + noise * rng.standard_normal(shape) + fixed)
        frames.append(np.clip(np.rint(counts), 0, 65535).astype(np.uint16))
    return frames[0], frames[1]


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.37, -0.61), (5.25, 3.0), (-31.4, 12.7), (48.2, -44.9)])
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (128, 192), (161, 173)])
def test_known_displacements_without_noise(dx: float, dy: float, shape: tuple[int, int]) -> None:
    found = measure_shift(*pair(3, dx, dy, 0.0, shape))
    assert (found.dx_px, found.dy_px) == pytest.approx((dx, dy), abs=0.03)
    assert found.peak > 0.95


@settings(max_examples=25)
@given(
    dx=st.floats(-40, 40),
    dy=st.floats(-40, 40),
    noise=st.floats(0.1, 2.0),
    seed=st.integers(0, 10_000),
)
def test_error_bound(dx: float, dy: float, noise: float, seed: int) -> None:
    found = measure_shift(*pair(seed, dx, dy, noise))
    assert found.found
    assert found.error_px < 0.25
    assert math.hypot(found.dx_px - dx, found.dy_px - dy) < 6 * found.error_px + 0.02


def test_the_error_grows_with_the_noise_and_the_peak_falls() -> None:
    clear, noisy = (measure_shift(*pair(5, 3.3, -2.2, noise)) for noise in (0.2, 2.0))
    assert noisy.error_px > 2 * clear.error_px
    assert noisy.peak < clear.peak


def test_the_errors_are_as_large_as_they_say() -> None:
    misses, said = [], []
    for seed in range(24):
        found = measure_shift(*pair(seed, 2.4, -1.7, 1.0))
        misses += [found.dx_px - 2.4, found.dy_px + 1.7]
        said.append(found.error_px)
    assert 0.5 < np.std(misses) / np.mean(said) < 2.0


@pytest.mark.parametrize("pattern", [0.0, 0.5, 2.0])
def test_nothing_is_found_on_noise_even_with_a_fixed_pattern(pattern: float) -> None:
    rng = np.random.default_rng(1)
    fixed = pattern * rng.standard_normal((256, 256))
    for _ in range(5):
        first, second = (
            (20_000 + 300 * (fixed + rng.standard_normal((256, 256)))).astype(np.uint16) for _ in range(2)
        )
        assert not measure_shift(first, second).found


def test_two_different_places_have_nothing_in_common() -> None:
    first, _ = pair(1, 0, 0, 0.2)
    second, _ = pair(2, 0, 0, 0.2)
    found = measure_shift(first, second)
    assert not found.found or found.peak < 0.4


def test_a_constant_image_shows_nothing() -> None:
    constant = np.full((64, 64), 700, np.uint16)
    assert not measure_shift(constant, constant).found


def test_a_fixed_pattern_does_not_pull_to_zero() -> None:
    found = measure_shift(*pair(7, 6.4, 3.1, 0.3, pattern=0.5))
    assert (found.dx_px, found.dy_px) == pytest.approx((6.4, 3.1), abs=0.25)


def test_the_search_range_is_kept() -> None:
    first, second = pair(4, 30.0, 0.0, 0.1)
    assert abs(measure_shift(first, second).dx_px - 30.0) < 0.1
    near = measure_shift(first, second, max_shift_px=10)
    assert not near.found or abs(near.dx_px) < 15


def test_white_images_need_to_be_told() -> None:
    field = np.random.default_rng(0).standard_normal((128, 128))
    second = np.roll(field, (3, -5), (0, 1))
    assert not measure_shift(field, second).found
    found = measure_shift(field, second, white_is_noise=False)
    assert (found.dx_px, found.dy_px) == pytest.approx((-5, 3), abs=0.1)


@pytest.mark.parametrize(
    ("first", "second", "band", "words"),
    [
        ((64, 64), (64, 65), (0.01, 0.3), "shapes"),
        ((20, 64), (20, 64), (0.01, 0.3), "too small"),
        ((64, 64), (64, 64), (0.3, 0.1), "band"),
    ],
)
def test_refusals(
    first: tuple[int, int], second: tuple[int, int], band: tuple[float, float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        measure_shift(np.zeros(first), np.zeros(second), band=band)
