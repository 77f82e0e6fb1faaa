"""Fits of calibrations: known answers, with noise, outliers and distortion."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from processing.kernels.calibration import (
    PatchShifts,
    fit_distortion,
    fit_line,
    fit_matrix,
    patch_shifts,
    rotation_and_scale,
)
from processing.kernels.distortion import PolynomialDistortion, RadialDistortion, stored_field

Reals = npt.NDArray[np.float64]
RADIUS = 512.0


def texture(side: int, seed: int = 1) -> Reals:
    """Return an image with structure at all scales."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    fine, coarse = ndimage.gaussian_filter(noise, 2.0), ndimage.gaussian_filter(noise, 8.0)
    return np.asarray(1000 + 200 * fine / fine.std() + 300 * coarse / coarse.std())


def seen(specimen: Reals, centre: tuple[float, float], side: int, radial: float) -> Reals:
    """Return what a camera with noise and radial distortion sees of a specimen about a point (x, y) of it."""
    v, u = np.mgrid[:side, :side] - (side - 1) / 2
    warp = 1 + radial * (u**2 + v**2) / (side / 2) ** 2
    image = ndimage.map_coordinates(specimen, [centre[1] + v * warp, centre[0] + u * warp], order=3)
    return np.asarray(image + np.random.default_rng(int(sum(centre))).normal(0, 20, image.shape))


def distorted_pair(shift: tuple[float, float], radial: float, spiral: float) -> PatchShifts:
    """Return how patches move when the ideal image moves by ``shift`` px."""
    grid = np.linspace(-400, 400, 5)
    at = np.array([(x, y) for x in grid for y in grid])

    def ideal(points: Reals) -> Reals:
        r2 = np.sum(points**2, axis=1, keepdims=True) / RADIUS**2
        return np.asarray(points + radial * r2 * points + spiral * r2 * points[:, ::-1] * (-1, 1))

    there = at + shift
    for _ in range(30):
        there = there - (ideal(there) - ideal(at) - shift)
    return PatchShifts(at, there - at, np.full(len(at), 0.01))


@given(
    st.floats(-0.02, 0.02),
    st.floats(-0.01, 0.01),
    st.lists(st.tuples(st.floats(-90, 90), st.floats(-90, 90)), min_size=3, max_size=6, unique=True),
)
def test_distortion_is_found_and_taken_out(
    radial: float, spiral: float, shifts: list[tuple[float, float]]
) -> None:
    shifts = [(x + 100, y - 100) for x, y in shifts]
    fit = fit_distortion([distorted_pair(shift, radial, spiral) for shift in shifts], RADIUS)
    assert fit.radial == pytest.approx(radial, abs=1e-6)
    assert fit.spiral == pytest.approx(spiral, abs=1e-6)
    assert np.abs(fit.ideal_px - shifts).max() < 1e-3


def test_distortion_leaves_wrong_patches_and_pairs_out() -> None:
    pairs = [distorted_pair((90.0 + 20 * n, -150.0), 0.004, 0.0) for n in range(5)]
    rng = np.random.default_rng(3)
    for pair in pairs:
        pair.shift_px[:] += rng.normal(0, 0.02, pair.shift_px.shape)
    pairs[0].shift_px[::6] += 7.0
    pairs[1].shift_px[:] = rng.uniform(-60, 60, pairs[1].shift_px.shape)
    fit = fit_distortion(pairs, RADIUS)
    assert fit.radial == pytest.approx(0.004, abs=2e-4)
    assert np.isnan(fit.ideal_px[1]).all()
    assert np.abs(fit.ideal_px[0] - (90, -150)).max() < 0.05
    assert fit.rms_px < 0.05 < fit.rms_before_px
    with pytest.raises(ValueError, match="without a patch"):
        fit_distortion([PatchShifts(np.empty((0, 2)), np.empty((0, 2)), np.empty(0))], RADIUS)


def test_patches_and_distortion_of_real_images() -> None:
    side, radial = 512, 0.006
    specimen = texture(1100)
    centres = [(420.0, 430.0), (600.5, 430.25), (420.0, 640.0), (600.0, 640.5)]
    images = [seen(specimen, centre, side, radial) for centre in centres]
    pair = patch_shifts(images[0], images[1])
    assert len(pair.at_px) >= 6
    assert np.abs(np.median(pair.shift_px, axis=0) - (-180.5, 0.25)).max() < 3.0
    found = RadialDistortion().fit(images, np.array(centres))
    half_px = side / 2
    assert found.values["radial"] * half_px == pytest.approx(radial * half_px, abs=0.1)
    assert abs(found.values["spiral"] * half_px) < 0.1
    assert found.residuals["patch_rms_px"] < found.residuals["patch_rms_before_px"] / 3


def test_a_polynomial_tells_the_field_that_is_not_round() -> None:
    side, radial = 400, 0.006
    specimen = texture(1000)
    centres = np.array([(350.0 + 160.3 * c, 360.0 + 159.7 * r) for r in range(3) for c in range(3)])
    images = [seen(specimen, (x, y), side, radial) for x, y in centres]
    found = PolynomialDistortion(5).fit(images, centres + np.random.default_rng(2).normal(0, 4, (9, 2)))
    assert found.values["radial"] * side / 2 == pytest.approx(radial * side / 2, abs=0.05)
    assert abs(found.values["spiral"] * side / 2) < 0.05
    assert found.residuals["holdout_median_px"] < 0.1
    field = stored_field(found.values, found.arrays)
    at = np.array([[-180.0, -150.0], [0.0, 190.0], [120.0, 30.0]])
    true = at * (1 + radial * np.sum(at**2, 1, keepdims=True) / (side / 2) ** 2)
    grid = np.stack(np.meshgrid(*[np.linspace(-200, 200, 9)] * 2), -1).reshape(-1, 2)
    whole = grid * (1 + radial * np.sum(grid**2, 1, keepdims=True) / (side / 2) ** 2)
    design = np.column_stack([np.ones(len(grid)), grid])
    affine = np.linalg.lstsq(design, whole - field.undistort(grid), rcond=None)[0]
    left = true - field.undistort(at) - np.column_stack([np.ones(3), at]) @ affine
    assert np.abs(left).max() < 0.15
    with pytest.raises(ValueError, match="not made by a polynomial"):
        stored_field({"radial": 0.003}, {})
    with pytest.raises(ValueError, match="only 0 pairs"):
        PolynomialDistortion().fit([texture(256, n) for n in range(4)], np.zeros((4, 2)))


def test_images_that_share_nothing_have_no_patches() -> None:
    assert len(patch_shifts(texture(256, 1), texture(256, 2)).at_px) == 0
    with pytest.raises(ValueError, match="0 pairs"):
        RadialDistortion().fit(
            [texture(256, n) for n in range(4)], np.array([[0, 0], [100, 0], [0, 100], [100, 100]], float)
        )


@given(
    st.tuples(*[st.floats(-2, 2)] * 4).filter(lambda m: abs(m[0] * m[3] - m[1] * m[2]) > 0.1),
    st.integers(0, 2**32 - 1),
)
def test_matrix_with_offsets_of_groups_and_outliers(
    elements: tuple[float, float, float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.array(elements).reshape(2, 2)
    group = np.repeat(np.arange(4), 20)
    angle = np.pi * group / 4
    along = np.tile(np.linspace(-50, 50, 20), 4)
    x = np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1)
    y = x @ matrix.T + rng.normal(0, 30, (4, 2))[group] + rng.normal(0, 0.01, x.shape)
    wrong = rng.choice(len(x), 6, replace=False)
    y[wrong] += 5.0
    fit = fit_matrix(x, y, group)
    assert np.abs(fit.matrix - matrix).max() < 1e-3
    assert not fit.used[wrong].any()
    assert fit.rms < 0.03
    assert np.abs(fit.matrix - matrix).max() < 8 * fit.error.max()


def test_one_line_tells_no_matrix() -> None:
    x = np.stack([np.arange(10.0), 2 * np.arange(10.0)], axis=1)
    with pytest.raises(ValueError, match="more directions"):
        fit_matrix(x, x, np.zeros(10, int))


def test_line() -> None:
    fit = fit_line([1, 2, 3, 4], [12, 14, 16, 18])
    assert [fit.offset, fit.slope] == pytest.approx([10, 2])
    assert fit.nonlinearity < 1e-9
    assert fit_line([1, 2, 3], [1, 4, 9]).nonlinearity > 0.05
    for x in ([1, 2], [1, 1, 1]):
        with pytest.raises(ValueError, match="three points"):
            fit_line(x, x)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [-170.0, -30.0, 0.0, 1.5, 95.0])
def test_rotation_and_scale(angle: float, mirrored: bool) -> None:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = 0.004 * np.array([[cos, -sin], [sin, cos]])
    if mirrored:
        matrix = matrix @ np.diag([1, -1])
    assert list(rotation_and_scale(matrix)) == pytest.approx([angle, 0.004, 0.0], abs=1e-9)


def test_shear_is_told_from_rotation() -> None:
    slant = math.tan(math.radians(2.0))
    rotation, _, shear = rotation_and_scale([[1.0, slant], [0.0, 1.0]])
    assert shear == pytest.approx(-2.0)
    assert rotation == pytest.approx(-1.0, abs=0.01)
