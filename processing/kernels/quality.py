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
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.fft
from numba import njit

_FINE_BAND: Final = (0.12, 0.30)
_COARSE_BAND: Final = (0.02, 0.08)
_FLOOR_BAND: Final = (0.42, 0.5)
_MAX_BLOCKS: Final = 24
_LOWEST_SCORE_DB: Final = -60.0
_TORN_RATIO: Final = 4.0


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
        Share of lines that are constant, or do not fit to the lines beside them, 0 to 1.
    sharpness
        Fine against coarse structure, about 0.06 (blurred) to 1; higher is sharper; 0 where there is none.
    focus_score
        Power of fine against coarse detail, dB, from -60; higher is better focused.
    texture
        How far the structure stands over the noise, in standard deviations of the latter; sharpness and
        focus score mean little under about 20.
    relief
        Structure of 8 to 32 px, relative to the mean squared; survives a blur that leaves no texture.
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
    sums, structure, lines = _one_pass(image, float(full), float(dark_counts), max(1, image.shape[0] // 1024))
    total, squares, saturated, dark = (float(value) / image.size for value in sums)
    sharpness, texture = _sharpness(structure)
    return TileMetrics(
        mean_counts=total,
        std_counts=math.sqrt(max(0.0, squares - total**2)),
        saturated_fraction=saturated,
        dark_fraction=dark,
        damaged_fraction=_damaged_lines(lines),
        sharpness=sharpness,
        focus_score=focus_score(image),
        texture=texture,
        relief=_relief(structure, total),
    )


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz", "arcp"})
def _one_pass(
    image: npt.NDArray[Any], full: float, dark: float, step: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (sum, sum of squares, saturated, dark), D at the lags and its count, and each line's change."""
    height, width = image.shape
    sums = np.zeros(4)
    lags = np.zeros(6)
    lines = np.zeros(height)
    middle = np.float32(image[height // 2, width // 2])
    for i in range(height):
        s = np.float32(0)
        s2 = np.float32(0)
        bright = np.float32(0)
        black = np.float32(0)
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
        if i > 0:
            change = np.float32(0)
            same = True
            for j in range(width):
                d = np.float32(image[i, j]) - np.float32(image[i - 1, j])
                change += d * d
            for j in range(1, width):
                if image[i, j] != image[i, 0]:
                    same = False
                    break
            lines[i] = -1.0 if same else change / width
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
    return sums, lags, lines


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
    side = min(256, *image.shape)
    window, fine, coarse, floor = _bands(side)
    blocks = np.stack([image[y : y + side, x : x + side] for y, x in _corners(image.shape, side)])
    blocks = blocks.astype(np.float32)
    blocks -= blocks.mean(axis=(1, 2), keepdims=True)
    blocks *= window
    spectrum = scipy.fft.rfft2(blocks)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
    noise = float(np.mean(power[floor]))
    high, low = (
        # the power of noise is distributed exponentially; a Hann window leaves half of the values independent
        max(float(np.mean(power[band])) - noise, 2 * noise / math.sqrt(len(blocks) * power[band].size / 2))
        for band in (fine, coarse)
    )
    if high <= low * 10 ** (_LOWEST_SCORE_DB / 10):  # also a constant image, where both are 0
        return _LOWEST_SCORE_DB
    return 10 * math.log10(high / low)


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
