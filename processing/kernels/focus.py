"""Defocus from images: from the displacement between beam tilts, and from a series through focus.

A beam tilted by ``t`` displaces the image by ``defocus t + Cs t^3``: the slope of the wave aberration (Koster
and de Ruijter, Ultramicroscopy 40 (1992) 89, doi:10.1016/0304-3991(92)90052-L). Two opposite tilts double it
and cancel every even term; three exposures (+, -, +) cancel steady drift.

Away from focus, the convergence of the illumination damps the spectrum by ``exp(-(pi alpha defocus k)^2)``
(Frank, Optik 38 (1973) 519), so that the logarithm of the power in a band is a parabola in the defocus
whatever the specimen: its vertex is where the image is sharpest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels.shift import Image, measure_shift

Reals = npt.NDArray[np.float64]
SHARPNESS_BAND: Final = (0.06, 0.3)
_FLOOR_BAND: Final = (0.42, 0.5)
_TUKEY: Final = 4.685
_NEAR: Final = 2.0
"""How far under the highest point of a series the parabola is fitted, in units of ln(power)."""


@dataclass(frozen=True, slots=True)
class TiltDisplacement:
    """What a triplet of tilted exposures shows, px.

    ``dx_px``, ``dy_px`` is how far the image at the opposite tilt lies from that at the first, freed of
    steady drift; ``drift_x_px``, ``drift_y_px`` the drift between two exposures; ``peak`` the lower of the
    two correlations and ``error_px`` one standard deviation of a component, infinite if nothing was found.
    """

    dx_px: float
    dy_px: float
    drift_x_px: float
    drift_y_px: float
    peak: float
    error_px: float


def tilt_displacement(first: Image, opposite: Image, third: Image) -> TiltDisplacement:
    """Return the displacement between opposite beam tilts.

    Parameters
    ----------
    first, opposite, third
        (y, x), counts: exposures at tilts +t, -t and +t, equally spaced in time.
    """
    go = measure_shift(first, opposite)
    back = measure_shift(opposite, third)
    return TiltDisplacement(
        (go.dx_px - back.dx_px) / 2,
        (go.dy_px - back.dy_px) / 2,
        (go.dx_px + back.dx_px) / 2,
        (go.dy_px + back.dy_px) / 2,
        min(go.peak, back.peak),
        math.hypot(go.error_px, back.error_px) / 2,
    )


def spherical_defocus_um(spherical_aberration_mm: float, tilt_mrad: float) -> float:
    """Return what spherical aberration adds to the defocus that a tilt shows, um: ``Cs t^2``."""
    return spherical_aberration_mm * 1e3 * (tilt_mrad * 1e-3) ** 2


@dataclass(frozen=True, slots=True)
class Sharpness:
    """``log_power``: natural logarithm of the power in a band over the noise; ``error`` of it.

    Both are -inf and inf where there is nothing over the noise.
    """

    log_power: float
    error: float


def sharpness(image: Image, band: tuple[float, float] = SHARPNESS_BAND) -> Sharpness:
    """Return how much detail an image has.

    Parameters
    ----------
    image
        (y, x), counts; at least 32 px on both sides.
    band
        Frequencies, cycles a pixel.
    """
    radius, power = power_spectrum(image)
    inside = (band[0] <= radius) & (radius <= band[1])
    floor = noise_floor(radius, power)
    count = int(inside.sum())
    level = float(power[inside].mean())
    signal = level - floor
    # both powers are distributed exponentially; a Hann window leaves about a quarter independent
    quiet = int((radius >= _FLOOR_BAND[0]).sum())
    noise = 2 * floor * math.sqrt(1 / count + 1 / quiet)
    if signal <= 4 * noise or floor < 0:
        return Sharpness(-math.inf, math.inf)
    return Sharpness(math.log(signal), math.hypot(noise, 2 * math.sqrt(signal * floor / count)) / signal)


def power_spectrum(image: Image) -> tuple[Reals, Reals]:
    """Return frequencies (cycles a pixel) and power of the windowed image on the half plane of `rfft2`."""
    height, width = image.shape
    if min(image.shape) < 32:
        raise ValueError(f"an image of {image.shape} px is too small for its spectrum; 32 px are the least")
    window = np.outer(_hann(height), _hann(width))
    values = image.astype(np.float64)
    values -= float((values * window).sum() / window.sum())
    power = np.abs(np.fft.rfft2(values * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    return radius, np.asarray(power)


def noise_floor(radius: Reals, power: Reals) -> float:
    """Return the power of white noise: what there is near the highest frequencies."""
    return float(power[(radius >= _FLOOR_BAND[0]) & (radius < _FLOOR_BAND[1])].mean())


def _hann(length: int) -> Reals:
    return np.asarray(np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2)


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a series is sharpest.

    ``defocus_um`` of the vertex and its standard deviation; ``residual`` of the fit (rms, ln of power);
    ``inside`` whether the vertex lies within the series, ``reason`` why there is none, or "".
    """

    defocus_um: float
    error_um: float
    residual: float
    inside: bool
    reason: str = ""


def fit_peak(defoci_um: Sequence[float], values: Sequence[Sharpness]) -> Peak:
    """Return the vertex of a parabola through the sharpest points of a series, an outlier left out.

    Parameters
    ----------
    defoci_um
        Where each image was taken, um, in any order.
    values
        How sharp each was.
    """
    points = [(x, v.log_power, v.error) for x, v in zip(defoci_um, values, strict=True)]
    points = sorted(point for point in points if math.isfinite(point[1]))
    if len(points) < 3:
        return _no_peak(f"only {len(points)} of {len(values)} images show detail over the noise")
    x, y, error = (np.array(column, float) for column in zip(*points, strict=True))
    top = int(np.argmax(_median_of_three(y)))
    near = y >= y[top] - _NEAR
    near[max(0, top - 1) : top + 2] = True
    if near.sum() < 3:
        near[max(0, top - 2) : top + 3] = True
    return _parabola(x[near], y[near], np.maximum(error[near], 1e-4), (float(x[0]), float(x[-1])))


def _median_of_three(values: Reals) -> Reals:
    padded = np.concatenate([values[:1], values, values[-1:]])
    return np.asarray(np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0))


def _parabola(x: Reals, y: Reals, error: Reals, ends: tuple[float, float]) -> Peak:
    middle, half = (x[0] + x[-1]) / 2, (x[-1] - x[0]) / 2
    if half <= 0:
        return _no_peak("all images have the same defocus")
    t = (x - middle) / half
    design = np.stack([np.ones_like(t), t, t * t], axis=1)
    coefficients, covariance, residual = robust_fit(design, y, error)
    _, b, c = coefficients
    curvature_error = math.sqrt(covariance[2, 2])
    if c >= -3 * curvature_error:
        return _no_peak("sharpness does not change over the series: a place without detail, or too short")
    vertex = -b / (2 * c)
    slope = np.array([0.0, -1 / (2 * c), b / (2 * c * c)])
    vertex_error = math.sqrt(float(slope @ covariance @ slope)) * half
    place = float(middle + half * vertex)
    inside = ends[0] <= place <= ends[1]
    return Peak(place, vertex_error, residual, inside, "" if inside else "the sharpest is outside the series")


def _no_peak(reason: str) -> Peak:
    return Peak(math.nan, math.inf, math.inf, inside=False, reason=reason)


def robust_fit(design: Reals, values: Reals, errors: Reals) -> tuple[Reals, Reals, float]:
    """Return coefficients, their covariance and the rms residual of a linear fit that outliers do not move.

    Tukey's biweight, reweighted from a least-absolute start; the covariance is scaled up where the residuals
    are larger than the errors given.

    Parameters
    ----------
    design
        (point, coefficient).
    values, errors
        (point,): what is fitted, and its standard deviations.
    """
    scaled, target = design / errors[:, None], values / errors
    weight: Reals = np.ones(len(values))
    freedom = len(values) - design.shape[1]
    coefficients = np.linalg.lstsq(scaled, target, rcond=None)[0]
    for step in range(30 if freedom > 0 else 0):
        residual = target - scaled @ coefficients
        spread = max(1.0, 1.4826 * float(np.median(np.abs(residual))))
        if step < 10:
            weight = 1 / np.maximum(np.abs(residual) / spread, 0.05)
        else:
            weight = np.clip(1 - (residual / (_TUKEY * spread)) ** 2, 0, None) ** 2
        if np.count_nonzero(weight) < design.shape[1]:
            break
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(scaled * root[:, None], target * root, rcond=None)[0]
    kept = weight > 0
    normal = (scaled * weight[:, None]).T @ scaled
    residual = (target - scaled @ coefficients)[kept]
    excess = 1.0
    if freedom > 0:
        excess = max(1.0, float(np.sum(weight[kept] * residual**2)) / max(1, kept.sum() - design.shape[1]))
    covariance = np.linalg.pinv(normal) * excess
    rms = math.sqrt(float(np.mean((residual * errors[kept]) ** 2)))
    return np.asarray(coefficients), np.asarray(covariance), rms
