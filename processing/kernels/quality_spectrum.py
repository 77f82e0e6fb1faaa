"""What the power spectrum of a tile tells: focus, and whether one direction has lost more than another.

The spectrum is the mean over blocks of at most 256 px (Welch's method, DOI 10.1109/TAU.1967.1161901), the
noise floor that above 0.42 cycles a pixel.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

LOWEST_SCORE_DB: Final = -60.0
DIRECTIONS: Final = 12
"""Sectors of 15 deg in which power is compared."""
_FINE_BAND: Final = (0.12, 0.30)
_COARSE_BAND: Final = (0.02, 0.08)
_FLOOR_BAND: Final = (0.42, 0.5)
_DIRECTED_BAND: Final = (0.03, 0.15)
_SMEARED_BAND: Final = (0.06, 0.18)
_SOLID_BAND: Final = (0.015, 0.05)
_SOLID: Final = 10.0
_LEAST_DIRECTIONS: Final = 8
_MAX_BLOCKS: Final = 24


class Spectrum(NamedTuple):
    """Mean power of blocks, in the half plane of `scipy.fft.rfft2`, and how many blocks."""

    power: npt.NDArray[np.float32]
    blocks: int


class Directions(NamedTuple):
    """How the power differs between directions.

    Attributes
    ----------
    levels_db
        Power at 0.06 to 0.18 over that at 0.015 to 0.05 cycles a pixel, dB, of 12 sectors from 0 deg (along
        x) on, each 15 deg wide, x to y; not a number where there is no coarse detail.
    anisotropy_db
        Power at 0.03 to 0.15: the strongest over the weakest of six directions, dB.
    smear_db
        Upper quartile of the levels less the lowest of three neighbours together, dB; 0 where fewer than 8
        directions have coarse detail.
    smear_deg
        Direction of the lowest, 0 to 180 from x to y.
    """

    levels_db: tuple[float, ...]
    anisotropy_db: float
    smear_db: float
    smear_deg: float


def spectrum(image: npt.NDArray[np.unsignedinteger[Any]]) -> Spectrum:
    """Return the power spectrum of (y, x) counts, at least 32 px on both sides."""
    side = min(256, *image.shape)
    window, total = _bands(side)[0], np.zeros((side, side // 2 + 1), np.float32)
    corners = _corners(image.shape, side)
    for y, x in corners:  # one by one: they stay in the cache
        block = image[y : y + side, x : x + side].astype(np.float32)
        block -= block.mean()
        block *= window
        transform = scipy.fft.rfft2(block)
        total += transform.real**2
        total += transform.imag**2
    total /= len(corners)
    return Spectrum(total, len(corners))


def focus_score(image: npt.NDArray[np.unsignedinteger[Any]]) -> float:
    """Return the power of fine against coarse detail, in dB; higher is better focused, at least -60.

    Parameters
    ----------
    image
        (y, x), counts; at least 32 px on both sides.
    """
    return fine_against_coarse(spectrum(image))


def fine_against_coarse(seen: Spectrum) -> float:
    """Return the focus score of a spectrum; see `focus_score`."""
    power, blocks = seen
    _, fine, coarse, floor = _bands(len(power))
    noise = float(np.mean(power[floor]))
    high, low = (
        # the power of noise is distributed exponentially; a Hann window leaves half of the values independent
        max(float(np.mean(power[band])) - noise, 2 * noise / math.sqrt(blocks * power[band].size / 2))
        for band in (fine, coarse)
    )
    if high <= low * 10 ** (LOWEST_SCORE_DB / 10):  # also a constant image, where both are 0
        return LOWEST_SCORE_DB
    return 10 * math.log10(high / low)


def directions(seen: Spectrum) -> Directions:
    """Return how the power differs between directions; all 0 for an image without noise or structure."""
    power, blocks = seen
    noise = float(np.mean(power[_bands(len(power))[3]]))
    if noise <= 0:
        return Directions((0.0,) * DIRECTIONS, 0.0, 0.0, 0.0)
    (sizes, directed), (fine_sizes, fine), (coarse_sizes, coarse) = (
        _sectors(len(power), band) for band in (_DIRECTED_BAND, _SMEARED_BAND, _SOLID_BAND)
    )
    # two standard deviations of the noise, as in the focus score
    least_fine, least_coarse = (
        2 * noise / np.sqrt(blocks * np.maximum(size, 1) / 2) for size in (fine_sizes, coarse_sizes)
    )
    above_fine, above_coarse = (_means(power, sectors) - noise for sectors in (fine, coarse))
    levels = 10 * np.log10(np.maximum(above_fine, least_fine) / np.maximum(above_coarse, least_coarse))
    levels[(above_coarse < _SOLID * least_coarse) | (fine_sizes == 0) | (coarse_sizes == 0)] = np.nan
    means = _means(power, directed) - noise
    pairs = (sizes * means).reshape(-1, 2).sum(axis=1) / np.maximum(sizes.reshape(-1, 2).sum(axis=1), 1)
    pairs = np.maximum(pairs, 0.05 * noise)
    anisotropy = 10 * math.log10(float(pairs.max() / pairs.min()))
    return Directions(tuple(levels.tolist()), anisotropy, *_smear(levels))


def _means(power: npt.NDArray[np.float32], sectors: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.float64]:
    """Return the mean power of sectors, 0 for those without a point: blocks may be small."""
    return np.array([float(power[sector].mean()) if sector.any() else 0.0 for sector in sectors])


def _smear(levels: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return how far one direction lies under most, dB, and which, deg."""
    known = ~np.isnan(levels)
    if known.sum() < _LEAST_DIRECTIONS:
        return 0.0, 0.0
    filled = np.where(known, levels, np.nanmax(levels))
    three = (np.roll(filled, 1) + filled + np.roll(filled, -1)) / 3
    lowest = int(np.argmin(three))
    smear = max(0.0, float(np.percentile(levels[known], 75) - three[lowest]))
    return smear, (lowest + 0.5) * 180.0 / DIRECTIONS


@cache
def _sectors(
    side: int, band: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.bool_]]]:
    """Return sizes and masks of the directions of a band in the half plane of `scipy.fft.rfft2`."""
    y, x = scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None, :]
    radius, angle = np.hypot(y, x), np.mod(np.arctan2(y, x), np.pi)
    ring = (band[0] <= radius) & (radius < band[1])
    sector = np.minimum((angle * (DIRECTIONS / np.pi)).astype(int), DIRECTIONS - 1)
    masks = [ring & (sector == i) for i in range(DIRECTIONS)]
    return np.array([float(mask.sum()) for mask in masks]), masks


@cache
def _bands(side: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the window, and the masks of the bands in the half plane of `scipy.fft.rfft2`."""
    hann = np.hanning(side + 1)[:-1].astype(np.float32)
    radius = np.hypot(scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None, :])
    masks = [(low <= radius) & (radius < high) for low, high in (_FINE_BAND, _COARSE_BAND, _FLOOR_BAND)]
    return np.outer(hann, hann), masks[0], masks[1], masks[2]


def _corners(shape: tuple[int, ...], side: int) -> list[tuple[int, int]]:
    """Return where blocks begin: side by side over a small tile, spread evenly over a large one."""
    across = [max(1, length // side) for length in shape]
    while across[0] * across[1] > _MAX_BLOCKS:
        across[int(np.argmax(across))] -= 1
    rows, columns = (
        np.linspace(0, length - side, count).astype(int) for length, count in zip(shape, across, strict=True)
    )
    return [(int(y), int(x)) for y in rows for x in columns]
