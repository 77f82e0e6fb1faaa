"""How good a tile is: brightness, sharpness, focus. One pass over the pixels and a few small FFTs.

Every score says which way is better. Sharpness and focus score do not change when a tile is made brighter or
its contrast stretched, and white noise cancels out of both, so that tiles of one montage can be compared:

* Sharpness rests on the structure function ``D(k) = <(I(p + k) - I(p))^2>``, for lags k along x and y.
  White noise adds the same to every ``D(k)``, and so drops out of their differences;
  ``(D(2) - D(1)) / (D(8) - D(4))`` is the structure of one to two pixels against that of four to eight. It is
  1/16 for an image without any detail as fine as its pixels, and 0.25 where ``D`` grows in proportion to k.
* The focus score compares the power at 0.12 to 0.30 cycles a pixel with that at 0.02 to 0.08, after taking
  off the noise floor seen above 0.42 (Welch's method, DOI 10.1109/TAU.1967.1161901). Power that does not
  stand over the noise counts as two standard deviations of it: a tile without structure scores about 0.
* Anisotropy compares the power at 0.03 to 0.15 cycles a pixel between six directions: a drift smears the
  image along one of them, a defocus along all.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft
from numba import njit

_FINE_BAND: Final = (0.12, 0.30)
_COARSE_BAND: Final = (0.02, 0.08)
_FLOOR_BAND: Final = (0.42, 0.5)
_DIRECTED_BAND: Final = (0.03, 0.15)
_SECTORS: Final = 6
_MAX_BLOCKS: Final = 24
_LOWEST_SCORE_DB: Final = -60.0
_TORN_RATIO: Final = 4.0
_BLOCKS_ACROSS: Final = 48
_MIN_SIDE_PX: Final = 256
_SHADOW, _OPAQUE = 0.45, 0.3
_BAND_WINDOW_PX: Final = 65


@dataclass(frozen=True, slots=True)
class TileMetrics:
    """What was measured of one tile.

    Attributes
    ----------
    mean_counts, std_counts
        Mean and standard deviation, counts.
    saturated_fraction
        Share of pixels at or over the saturation level, 0 to 1.
    dark_fraction
        Share of pixels at or under the dark level, 0 to 1.
    damaged_fraction
        Share of lines that are constant, or do not fit to the lines beside them, 0 to 1. A line that is only
        brighter or darker fits.
    sharpness
        Fine against coarse structure, about 0.06 (blurred) to 1; higher is sharper; 0 where there is none.
    focus_score
        Power of fine against coarse detail, dB, from -60; higher is better focused.
    texture
        How far the structure stands over the noise, in standard deviations of the latter; sharpness and
        focus score mean little under about 20.
    relief
        Structure of 8 to 32 px, relative to the mean squared; survives a blur that leaves no texture.
    anisotropy_db
        Power of the strongest over that of the weakest direction, dB; 1 to 5 for most samples.
    banding
        Standard deviation of the brightness of lines that both halves of the frame share, relative to it:
        0 to 0.02 in tissue, over 0.05 where the sample charges.
    shadow_fraction, opaque_fraction
        Share of the 48 x 48 blocks of a frame with less than 0.45, and less than 0.3, of the median's
        counts: folds and dirt. 0 for frames under 256 px, whose blocks are as small as organelles.
    fingerprint
        Of every 16th pixel: two exposures never have the same.
    """

    mean_counts: float
    std_counts: float
    saturated_fraction: float
    dark_fraction: float
    damaged_fraction: float
    sharpness: float
    focus_score: float
    texture: float
    relief: float
    anisotropy_db: float = 0.0
    banding: float = 0.0
    shadow_fraction: float = 0.0
    opaque_fraction: float = 0.0
    fingerprint: int = 0


def measure_tile(
    image: npt.NDArray[np.unsignedinteger[Any]],
    saturation_counts: int | None = None,
    dark_counts: float = 0.0,
) -> TileMetrics:
    """Measure a tile.

    Parameters
    ----------
    image
        (y, x) uint8 or uint16, counts; at least 48 px on both sides.
    saturation_counts
        The value at which the sensor saturates; None for the largest of the type.
    dark_counts
        The largest value that counts as dark.

    Raises
    ------
    ValueError
        Not a two-dimensional image of at least 48 x 48 px, or of another type.
    """
    if image.ndim != 2 or min(image.shape) < 48 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"a tile is (y, x) uint8 or uint16, at least 48 x 48 px, not {image.shape} {image.dtype}"
        )
    image = np.ascontiguousarray(image)
    full = saturation_counts if saturation_counts is not None else np.iinfo(image.dtype).max
    # every line for brightness; every 2nd or 4th of a large tile for structure, where that is plenty
    sums, structure, lines, halves = _one_pass(
        image, float(full), float(dark_counts), max(1, image.shape[0] // 1024)
    )
    total, squares, saturated, dark = (float(value) / image.size for value in sums)
    sharpness, texture = _sharpness(structure)
    power = _spectrum(image)
    shadow, opaque = _dark_blocks(image)
    return TileMetrics(
        mean_counts=total,
        std_counts=math.sqrt(max(0.0, squares - total**2)),
        saturated_fraction=saturated,
        dark_fraction=dark,
        damaged_fraction=_damaged_lines(lines),
        sharpness=sharpness,
        focus_score=_fine_against_coarse(*power),
        texture=texture,
        relief=_relief(structure, total),
        anisotropy_db=_anisotropy(power[0]),
        banding=_banding(halves),
        shadow_fraction=shadow,
        opaque_fraction=opaque,
        fingerprint=zlib.crc32(image[::16, ::16].tobytes()),
    )


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _one_pass(
    image: npt.NDArray[Any], full: float, dark: float, step: int
) -> tuple[
    npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]
]:
    """Return sums, structure, lines and halves.

    These are (sum, sum of squares, saturated, dark), D at the lags and its count, each line's change from the
    one before beyond that of its mean, and the mean of both halves of each line.
    """
    height, width = image.shape
    sums = np.zeros(4)
    lags = np.zeros(6)
    lines = np.zeros(height)
    halves = np.zeros((height, 2))
    half = width // 2
    middle = np.float32(image[height // 2, width // 2])
    for i in range(height):
        s = np.float32(0)
        s2 = np.float32(0)
        bright = np.float32(0)
        black = np.float32(0)
        left = np.float32(0)
        for j in range(half):
            left += np.float32(image[i, j]) - middle
        for j in range(width):
            value = np.float32(image[i, j])
            shifted = value - middle  # keeps float32 sums exact enough
            s += shifted
            s2 += shifted * shifted
            bright += value >= full
            black += value <= dark
        sums[0] += s
        sums[1] += s2
        sums[2] += bright
        sums[3] += black
        halves[i, 0] = left / half + middle
        halves[i, 1] = (s - left) / (width - half) + middle
        if i > 0:
            change = np.float32(0)
            shift = np.float32(0)
            same = True
            for j in range(width):
                d = np.float32(image[i, j]) - np.float32(image[i - 1, j])
                change += d * d
                shift += d
            for j in range(1, width):
                if image[i, j] != image[i, 0]:
                    same = False
                    break
            lines[i] = -1.0 if same else max(0.0, change / width - (shift / width) ** 2)
    for i in range(0, height - 32, step):
        d1 = np.float32(0)
        d2 = np.float32(0)
        d4 = np.float32(0)
        d8 = np.float32(0)
        d32 = np.float32(0)
        for j in range(width - 32):
            value = np.float32(image[i, j])
            x1 = np.float32(image[i, j + 1]) - value
            x2 = np.float32(image[i, j + 2]) - value
            x4 = np.float32(image[i, j + 4]) - value
            x8 = np.float32(image[i, j + 8]) - value
            x32 = np.float32(image[i, j + 32]) - value
            y1 = np.float32(image[i + 1, j]) - value
            y2 = np.float32(image[i + 2, j]) - value
            y4 = np.float32(image[i + 4, j]) - value
            y8 = np.float32(image[i + 8, j]) - value
            y32 = np.float32(image[i + 32, j]) - value
            d1 += x1 * x1 + y1 * y1
            d2 += x2 * x2 + y2 * y2
            d4 += x4 * x4 + y4 * y4
            d8 += x8 * x8 + y8 * y8
            d32 += x32 * x32 + y32 * y32
        lags[0] += d1
        lags[1] += d2
        lags[2] += d4
        lags[3] += d8
        lags[4] += d32
        lags[5] += 2 * (width - 32)
    sums[1] += 2 * middle * sums[0] + image.size * float(middle) ** 2
    sums[0] += image.size * float(middle)
    return sums, lags, lines, halves


def _sharpness(structure: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return sharpness, and the significance of the structure it rests on."""
    d1, d2, d4, d8 = (float(value) / float(structure[5]) for value in structure[:4])
    coarse, fine = d8 - d4, d2 - d1
    if coarse <= 0 or d1 <= 0:
        return 0.0, 0.0
    # a difference of two such means of white noise has a standard deviation of about 2 D(1) / sqrt(N)
    texture = coarse / (2 * d1 / math.sqrt(float(structure[5])))
    return max(0.0, fine / coarse), texture


def _relief(structure: npt.NDArray[np.float64], mean: float) -> float:
    if mean <= 0:
        return 0.0
    return max(0.0, float(structure[4] - structure[3]) / float(structure[5]) / mean**2)


def _damaged_lines(changes: npt.NDArray[np.float64]) -> float:
    """Return the share of lines that are constant, or whose change from the line before stands out."""
    inner = changes[1:]
    moving = inner[inner >= 0]
    if moving.size < 9:
        return float(np.mean(inner < 0))
    padded = np.pad(np.where(inner < 0, np.median(moving), inner), 4, mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 9), axis=1)
    return float(np.mean((inner < 0) | (inner > _TORN_RATIO * np.maximum(around, 1e-12))))


def focus_score(image: npt.NDArray[np.unsignedinteger[Any]]) -> float:
    """Return the power of fine against coarse detail, in dB; higher is better focused, at least -60.

    Parameters
    ----------
    image
        (y, x), counts; at least 32 px on both sides.
    """
    return _fine_against_coarse(*_spectrum(image))


def _spectrum(image: npt.NDArray[np.unsignedinteger[Any]]) -> tuple[npt.NDArray[np.float32], int]:
    """Return the mean power of blocks of an image, in the half plane of `scipy.fft.rfft2`, and how many."""
    side = min(256, *image.shape)
    window = _bands(side)[0]
    blocks = np.stack([image[y : y + side, x : x + side] for y, x in _corners(image.shape, side)])
    blocks = blocks.astype(np.float32)
    blocks -= blocks.mean(axis=(1, 2), keepdims=True)
    blocks *= window
    spectrum = scipy.fft.rfft2(blocks)
    return (spectrum.real**2 + spectrum.imag**2).mean(axis=0), len(blocks)


def _fine_against_coarse(power: npt.NDArray[np.float32], blocks: int) -> float:
    _, fine, coarse, floor = _bands(len(power))
    noise = float(np.mean(power[floor]))
    high, low = (
        # the power of noise is distributed exponentially; a Hann window leaves half of the values independent
        max(float(np.mean(power[band])) - noise, 2 * noise / math.sqrt(blocks * power[band].size / 2))
        for band in (fine, coarse)
    )
    if high <= low * 10 ** (_LOWEST_SCORE_DB / 10):  # also a constant image, where both are 0
        return _LOWEST_SCORE_DB
    return 10 * math.log10(high / low)


def _anisotropy(power: npt.NDArray[np.float32]) -> float:
    """Return the power of the strongest direction over that of the weakest, dB."""
    noise = float(np.mean(power[_bands(len(power))[3]]))
    if noise <= 0:
        return 0.0
    levels = [max(float(np.mean(power[sector])) - noise, 0.05 * noise) for sector in _sectors(len(power))]
    return 10 * math.log10(max(levels) / min(levels))


def _banding(halves: npt.NDArray[np.float64]) -> float:
    """Return the brightness of lines against those around them, as far as both halves of a frame share it."""
    length = min(_BAND_WINDOW_PX, len(halves) // 2 * 2 - 1)
    window = np.hanning(length + 2)[1:-1]
    window /= window.sum()
    padded = np.pad(halves, ((length // 2, length // 2), (0, 0)), mode="reflect")
    around = np.stack([np.convolve(side, window, "valid") for side in padded.T], axis=1)
    if around.min() <= 0:
        return 0.0
    left, right = (halves / around - 1).T
    return math.sqrt(max(0.0, float(np.mean(left * right))))


def _dark_blocks(image: npt.NDArray[np.unsignedinteger[Any]]) -> tuple[float, float]:
    if min(image.shape) < _MIN_SIDE_PX:
        return 0.0, 0.0
    step = max(1, min(image.shape) // 512)
    part = np.ascontiguousarray(image[::step, ::step])
    blocks = cv2.resize(part, (_BLOCKS_ACROSS, _BLOCKS_ACROSS), interpolation=cv2.INTER_AREA)
    usual = float(np.median(blocks))
    return float(np.mean(blocks < _SHADOW * usual)), float(np.mean(blocks < _OPAQUE * usual))


@cache
def _sectors(side: int) -> list[npt.NDArray[np.bool_]]:
    """Return the masks of the directions in the half plane of `scipy.fft.rfft2`."""
    y, x = scipy.fft.fftfreq(side)[:, None], scipy.fft.rfftfreq(side)[None, :]
    low, high = _DIRECTED_BAND
    radius, angle = np.hypot(y, x), np.mod(np.arctan2(y, x), np.pi)
    ring = (low <= radius) & (radius < high)
    sector = np.minimum((angle * (_SECTORS / np.pi)).astype(int), _SECTORS - 1)
    return [ring & (sector == i) for i in range(_SECTORS)]


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
