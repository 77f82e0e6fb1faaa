"""The lenses: beam profile, and the point spread of defocus, astigmatism, aberration and drift.

Contrast transfer after Reimer and Kohl, Transmission Electron Microscopy (2008), chapter 6: the wave
aberration ``chi = pi lambda Df k^2 + pi/2 Cs lambda^3 k^4`` acts on the amplitude contrast of a stained
section with ``cos(chi)`` and on its small phase contrast with ``-sin(chi)``, damped by the convergence of the
illumination.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from sim.config import ColumnConfig
from sim.exposure import Shot
from sim.frame_geometry import BLOCK
from sim.jit import kernel

Floats = npt.NDArray[np.float32]
MARGIN_PX: Final = 48
"""Widest margin of a frame: a point spread is cut off there."""
_SEPARABLE_RANK: Final = 3
_LOST: Final = 3e-4
"""Share of a point spread's energy that is cut off: every frame pays for its width."""
_ASTIGMATIC_NM, _LOST_ASTIGMATIC = 200.0, 3e-5
"""Over so much astigmatism less is cut off: 3e-4 would take 1 % of what spectra show of it."""


def wavelength_nm(high_voltage_kv: float) -> float:
    """Return the wavelength of electrons, nm (relativistic)."""
    energy_ev = high_voltage_kv * 1e3
    return 1.226426 / math.sqrt(energy_ev * (1.0 + 0.978476e-6 * energy_ev))


@dataclass(frozen=True, slots=True)
class Spread:
    """What blurs a frame, rounded so that equal frames share a filter; lengths in nm at the specimen."""

    pixel_nm: float
    defocus_nm: float
    astigmatism_nm: tuple[float, float]
    drift_nm: tuple[float, float]
    high_voltage_kv: float
    sensor_blur_px: float

    @classmethod
    def of(cls, shot: Shot, step_px: int, sensor_blur_px: float, high_voltage_kv: float) -> Spread:
        """Return the spread of an exposure in a frame binned by ``step_px``."""
        cos, sin = math.cos(shot.rotation_rad), math.sin(shot.rotation_rad)
        x, y = shot.drift_um
        drift = (_rounded(1e3 * (cos * x + sin * y)), _rounded(1e3 * (cos * y - sin * x)))
        a, b = shot.astigmatism_um
        return cls(
            shot.pixel_size_nm * step_px,
            20.0 * round(50.0 * shot.defocus_um),
            (20.0 * round(50.0 * a), 20.0 * round(50.0 * b)),
            drift,
            high_voltage_kv,
            sensor_blur_px / step_px,
        )


def _rounded(length_nm: float) -> float:
    return 0.5 * round(2.0 * length_nm)


@dataclass(frozen=True)
class Filter:
    """A point spread: a sum of separable filters (row, column), or one in two dimensions where they fail."""

    radius_px: int
    separable: tuple[tuple[Floats, Floats], ...]
    whole: Floats

    def apply(self, image: Floats) -> Floats:
        """Return the image blurred, ``(y, x)``."""
        if not self.separable:
            return np.asarray(cv2.filter2D(image, cv2.CV_32F, self.whole, borderType=cv2.BORDER_REFLECT))
        total: Floats | None = None
        for row, column in self.separable:
            part = cv2.sepFilter2D(image, cv2.CV_32F, row, column, borderType=cv2.BORDER_REFLECT)
            total = part if total is None else cv2.add(total, part)
        return np.asarray(total)


def transfer(spread: Spread, config: ColumnConfig, side_px: int) -> npt.NDArray[np.float64]:
    """Return the transfer of contrast on the grid of a real transform, ``(side, side // 2 + 1)``."""
    ky = np.fft.fftfreq(side_px)[:, None] / spread.pixel_nm
    kx = np.fft.rfftfreq(side_px)[None, :] / spread.pixel_nm
    k2 = kx**2 + ky**2
    angle = 2.0 * np.arctan2(ky, kx)
    focus = (
        spread.defocus_nm
        + spread.astigmatism_nm[0] * np.cos(angle)
        + spread.astigmatism_nm[1] * np.sin(angle)
    )
    wave = wavelength_nm(spread.high_voltage_kv)
    chi = np.pi * wave * focus * k2 + 0.5 * np.pi * config.spherical_aberration_mm * 1e6 * wave**3 * k2**2
    slope = focus + config.spherical_aberration_mm * 1e6 * wave**2 * k2
    damping = np.exp(-((np.pi * config.convergence_mrad * 1e-3 * slope) ** 2) * k2)
    phase = math.sqrt(1.0 - config.amplitude_contrast**2) / max(config.amplitude_contrast, 0.05)
    smear = np.sinc(kx * spread.drift_nm[0] + ky * spread.drift_nm[1])
    sensor = np.exp(-2.0 * (np.pi * spread.sensor_blur_px * spread.pixel_nm) ** 2 * k2)
    return np.asarray(damping * (np.cos(chi) - phase * np.sin(chi)) * smear * sensor)


@functools.lru_cache(maxsize=64)
def point_spread(spread: Spread, config: ColumnConfig) -> Filter:
    """Return the filter that blurs a frame; its sum is 1."""
    reach_nm = abs(spread.defocus_nm) + max(map(abs, spread.astigmatism_nm))
    wide_px = 4.0 * config.convergence_mrad * 1e-3 * reach_nm / spread.pixel_nm
    wide_px += max(map(abs, spread.drift_nm)) / spread.pixel_nm
    wide_px += math.sqrt(wavelength_nm(spread.high_voltage_kv) * reach_nm) / spread.pixel_nm
    side = 32 if wide_px < 4 else 64 if wide_px < 12 else 128
    whole = np.fft.fftshift(np.fft.irfft2(transfer(spread, config, side), s=(side, side)))
    astigmatic = max(map(abs, spread.astigmatism_nm)) > _ASTIGMATIC_NM
    whole = _cropped(whole, _LOST_ASTIGMATIC if astigmatic else _LOST)
    whole /= whole.sum()
    columns, strengths, rows = np.linalg.svd(whole)
    total = np.cumsum(strengths**2) / np.sum(strengths**2)
    rank = int(np.searchsorted(total, 1.0 - 1e-4)) + 1
    parts = []
    if rank <= _SEPARABLE_RANK:
        for i in range(rank):
            root = math.sqrt(strengths[i])
            parts.append(((root * rows[i]).astype(np.float32), (root * columns[:, i]).astype(np.float32)))
    return Filter(len(whole) // 2, tuple(parts), whole.astype(np.float32))


def _cropped(whole: npt.NDArray[np.float64], lost: float) -> npt.NDArray[np.float64]:
    """Cut a point spread off where all but ``lost`` of its energy is inside, at the latest at the margin."""
    middle = len(whole) // 2
    energy = float(np.sum(whole**2))
    for radius in range(1, min(middle - 1, MARGIN_PX)):
        part = whole[middle - radius : middle + radius + 1, middle - radius : middle + radius + 1]
        if float(np.sum(part**2)) > (1.0 - lost) * energy:
            break
    return part.copy()


def is_small(radius_nm: float, edge: float, pixel_nm: float) -> bool:
    """Whether a beam's edge is too narrow to be drawn block by block: `shine` draws it then."""
    return radius_nm * edge < 1.5 * BLOCK * pixel_nm


@kernel
def shine(
    grid: npt.NDArray[np.float64],
    x_nm: float,
    y_nm: float,
    radius_nm: float,
    edge: float,
    falloff: float,
    image: Floats,
) -> None:
    """Multiply an image by the beam of `beam`, pixel by pixel, in place."""
    for j in range(grid.shape[1] - 1):
        for i in range(grid.shape[2] - 1):
            corners = grid[:, j : j + 2, i : i + 2]
            out = image[j * BLOCK : (j + 1) * BLOCK, i * BLOCK : (i + 1) * BLOCK]
            for r in range(out.shape[0]):
                t = r / BLOCK
                left, right = corners[:, 0, 0] * (1 - t) + corners[:, 1, 0] * t, corners[:, 0, 1] * (1 - t)
                right += corners[:, 1, 1] * t
                for c in range(out.shape[1]):
                    dx = left[0] + (right[0] - left[0]) * c / BLOCK - x_nm
                    dy = left[1] + (right[1] - left[1]) * c / BLOCK - y_nm
                    r2 = (dx * dx + dy * dy) / (radius_nm * radius_nm)
                    rim = 4.0 * (math.sqrt(r2) - 1.0) / edge
                    out[r, c] *= 0.0 if rim > 60.0 else (1.0 - falloff * min(r2, 1.0)) / (1.0 + math.exp(rim))


@kernel
def beam(
    grid: npt.NDArray[np.float64], x_nm: float, y_nm: float, radius_nm: float, edge: float, falloff: float
) -> Floats:
    """Return the beam at points of the specimen, 1 in its middle.

    ``grid`` is (2, rows, columns) in nm, the answer (rows, columns). The beam falls by
    ``falloff`` towards its radius and to nothing over ``edge`` of it.
    """
    rows, columns = grid.shape[1], grid.shape[2]
    out = np.empty((rows, columns), np.float32)
    for j in range(rows):
        for i in range(columns):
            dx, dy = grid[0, j, i] - x_nm, grid[1, j, i] - y_nm
            r2 = (dx * dx + dy * dy) / (radius_nm * radius_nm)
            rim = (np.sqrt(r2) - 1.0) / edge
            out[j, i] = (1.0 - falloff * min(r2, 1.0)) / (1.0 + np.exp(min(4.0 * rim, 60.0)))
    return out
