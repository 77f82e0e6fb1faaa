"""What the power spectrum of a tile tells: focus, and whether one direction has lost more than another.

The spectrum is the mean over blocks of at most 128 px (Welch's method, DOI 10.1109/TAU.1967.1161901), the
noise floor that above 0.42 cycles a pixel. Blocks as small as that keep the spectrum of a few edges from
being that of their places: it varies less from tile to tile than that of larger ones.

Detail is the power at 0.13 to 0.25 cycles a pixel, structure of 4 to 8 px, against that at 0.03 to 0.08,
structure of 12 to 33 px. A disc of defocus 4 px across, or a smear of 4 px, has its first zero in the former
band and leaves most of the latter.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.sparse

Reals = npt.NDArray[np.float64]
LOWEST_SCORE_DB: Final = -60.0
DIRECTIONS: Final = 12
"""Sectors of 15 deg in which power is compared."""
_SIDE_PX: Final = 128
_FINE_BAND: Final = (0.12, 0.30)
_COARSE_BAND: Final = (0.02, 0.08)
_FLOOR_BAND: Final = (0.42, 0.5)
_DIRECTED_BAND: Final = (0.03, 0.15)
_DETAIL_BAND: Final = (0.13, 0.25)
_SOLID_BAND: Final = (0.03, 0.08)
_SMEARED_BAND: Final = (0.10, 0.20)
_SECTORS: Final = (_DIRECTED_BAND, _DETAIL_BAND, _SOLID_BAND, _SMEARED_BAND)
"""Bands whose directions are told apart."""
_SOLID: Final = 10.0
_LEAST_DIRECTIONS: Final = 8
_MAX_BLOCKS: Final = 64


class Spectrum(NamedTuple):
    """Mean squares of the transforms of blocks, in the order of `cv2.dft` of real numbers, and how many."""

    squares: npt.NDArray[np.float32]
    blocks: int


class Directions(NamedTuple):
    """How the power differs between directions.

    Attributes
    ----------
    levels_db
        Detail, dB, of 12 sectors from 0 deg (along x) on, each 15 deg wide, x to y; not a number where there
        is no coarse detail.
    floors_db
        The lowest levels that can be seen over the noise, dB; not a number likewise.
    detail_db, detail_floor_db
        Detail of all directions together, and the lowest that can be seen, dB.
    anisotropy_db
        Power at 0.03 to 0.15: the strongest over the weakest of six directions, dB.
    smear_db
        Power at 0.1 to 0.2 over that at 0.03 to 0.08: upper quartile of the directions less the lowest of
        three neighbours together, dB; 0 where fewer than 8 directions have coarse detail.
    smear_deg
        Direction of the lowest, 0 to 180 from x to y.
    """

    levels_db: tuple[float, ...] = ()
    floors_db: tuple[float, ...] = ()
    detail_db: float = LOWEST_SCORE_DB
    detail_floor_db: float = LOWEST_SCORE_DB
    anisotropy_db: float = 0.0
    smear_db: float = 0.0
    smear_deg: float = 0.0


class _Bands(NamedTuple):
    """Window, bands as rows of a sparse matrix that takes means of power, and their frequencies' number."""

    window: npt.NDArray[np.float32]
    means: scipy.sparse.csr_array[Any]
    sizes: Reals


def spectrum(image: npt.NDArray[np.unsignedinteger[Any]]) -> Spectrum:
    """Return the power spectrum of (y, x) counts, at least 32 px on both sides."""
    side = min(_SIDE_PX, *image.shape) // 2 * 2
    window, squares = _bands(side).window, np.zeros((side, side), np.float32)
    corners = _corners(image.shape, side)
    for y, x in corners:  # one by one: they stay in the cache
        block = image[y : y + side, x : x + side].astype(np.float32)
        block -= cv2.mean(block)[0]
        block *= window
        cv2.accumulateSquare(cv2.dft(block, block), squares)
    squares /= len(corners)
    return Spectrum(squares, len(corners))


def focus_score(image: npt.NDArray[np.unsignedinteger[Any]]) -> float:
    """Return the power of fine against coarse detail, in dB; higher is better focused, at least -60.

    Parameters
    ----------
    image
        (y, x), counts; at least 32 px on both sides.
    """
    return measure_spectrum(spectrum(image))[0]


def measure_spectrum(seen: Spectrum) -> tuple[float, Directions]:
    """Return the focus score of a spectrum, and its directions: nothing without noise or structure."""
    bands = _bands(len(seen.squares))
    means = (bands.means @ seen.squares.ravel()).astype(np.float64)
    noise = float(means[0])
    sizes = seen.blocks * bands.sizes / 2
    # the power of noise is distributed exponentially; a Hann window leaves half of the values independent
    least = 2 * noise / np.sqrt(np.maximum(sizes, 0.5))
    above = means - noise
    high, low = (max(float(above[i]), float(least[i])) for i in (1, 2))
    score = LOWEST_SCORE_DB
    if high > low * 10 ** (LOWEST_SCORE_DB / 10):  # else also a constant image, where both are 0
        score = 10 * math.log10(high / low)
    if noise <= 0:
        return score, Directions()
    directed, fine, coarse, smeared = (
        slice(3 + i * DIRECTIONS, 3 + (i + 1) * DIRECTIONS) for i in range(len(_SECTORS))
    )
    levels, floors = _levels(above, least, bands.sizes, fine, coarse)
    all_fine, all_coarse = (
        (
            float(above[band] @ bands.sizes[band]) / float(bands.sizes[band].sum()),
            2 * noise / math.sqrt(float(sizes[band].sum())),
        )
        for band in (fine, coarse)
    )
    base = max(all_coarse)
    return score, Directions(
        tuple(levels.tolist()),
        tuple(floors.tolist()),
        10 * math.log10(max(all_fine) / base),
        10 * math.log10(all_fine[1] / base),
        _anisotropy(above[directed], bands.sizes[directed], noise),
        *_smear(_levels(above, least, bands.sizes, smeared, coarse)[0]),
    )


def _levels(above: Reals, least: Reals, sizes: Reals, fine: slice, coarse: slice) -> tuple[Reals, Reals]:
    """Return fine against coarse power of each direction, dB, and the lowest that can be seen."""
    solid = np.maximum(above[coarse], least[coarse])
    levels = 10 * np.log10(np.maximum(above[fine], least[fine]) / solid)
    floors = 10 * np.log10(least[fine] / solid)
    unknown = (above[coarse] < _SOLID * least[coarse]) | (sizes[fine] == 0) | (sizes[coarse] == 0)
    levels[unknown] = floors[unknown] = np.nan
    return levels, floors


def _anisotropy(above: Reals, sizes: Reals, noise: float) -> float:
    pairs = (sizes * above).reshape(-1, 2).sum(axis=1) / np.maximum(sizes.reshape(-1, 2).sum(axis=1), 1)
    pairs = np.maximum(pairs, 0.05 * noise)
    return 10 * math.log10(float(pairs.max() / pairs.min()))


def _smear(levels: Reals) -> tuple[float, float]:
    """Return how far one direction lies under most, dB, and which, deg."""
    known = ~np.isnan(levels)
    if known.sum() < _LEAST_DIRECTIONS:
        return 0.0, 0.0
    filled = np.where(known, levels, levels[known].max())
    around = np.concatenate([filled[-1:], filled, filled[:1]])
    three = (around[:-2] + filled + around[2:]) / 3
    lowest = int(np.argmin(three))
    ordered = np.sort(levels[known])
    smear = max(0.0, float(ordered[(3 * len(ordered)) // 4] - three[lowest]))
    return smear, (lowest + 0.5) * 180.0 / DIRECTIONS


@cache
def _bands(side: int) -> _Bands:
    """Return the window, and floor, fine, coarse and the sectors of three bands in the half plane."""
    hann = np.hanning(side + 1)[:-1].astype(np.float32)
    y, x = scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None, :]
    radius, angle = np.hypot(y, x), np.mod(np.arctan2(y, x), np.pi)
    sector = np.minimum((angle * (DIRECTIONS / np.pi)).astype(int), DIRECTIONS - 1)
    masks = [(low <= radius) & (radius < high) for low, high in (_FLOOR_BAND, _FINE_BAND, _COARSE_BAND)]
    for low, high in _SECTORS:
        ring = (low <= radius) & (radius < high)
        masks += [ring & (sector == i) for i in range(DIRECTIONS)]
    sizes = np.array([float(mask.sum()) for mask in masks])
    weights = np.stack([_packed(mask) / max(1.0, size) for mask, size in zip(masks, sizes, strict=True)])
    means = scipy.sparse.csr_array(weights.reshape(len(masks), -1).astype(np.float32))
    return _Bands(np.outer(hann, hann), means, sizes)


def _packed(mask: npt.NDArray[np.bool_]) -> Reals:
    """Return how often each square counts, in the order of `cv2.dft` of real numbers (CCS), for a half plane.

    Columns hold real and imaginary parts in turn; the first and the last hold those of the frequencies 0 and
    half a cycle a pixel along x, each for the frequencies from 0 up along y.
    """
    side = len(mask)
    half = side // 2
    weights = np.zeros((side, side))
    weights[:, 1:-1:2] = weights[:, 2:-1:2] = mask[:, 1:-1]
    for packed, column in ((0, mask[:, 0]), (side - 1, mask[:, -1])):
        both = column[1:half].astype(float) + column[:half:-1]
        weights[0, packed], weights[-1, packed] = column[0], column[half]
        weights[1:-1:2, packed] = weights[2:-1:2, packed] = both
    return weights


@cache
def _corners(shape: tuple[int, ...], side: int) -> list[tuple[int, int]]:
    """Return where blocks begin: side by side over a small tile, spread evenly over a large one."""
    across = [max(1, length // side) for length in shape]
    while across[0] * across[1] > _MAX_BLOCKS:
        across[int(np.argmax(across))] -= 1
    rows, columns = (
        np.linspace(0, length - side, count).astype(int) for length, count in zip(shape, across, strict=True)
    )
    return [(int(y), int(x)) for y in rows for x in columns]
