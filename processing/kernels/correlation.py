"""Where one strip lies on another, to about a pixel: correlation in the band that rises over the noise.

Both strips are padded with zeros so far that nothing wraps round inside the search. The cross spectrum is
half whitened (its modulus to the power 1/2: between plain and phase correlation) and each frequency weighted
by its part of signal, as the strips' own spectra tell it. Each lag is divided by what chance gives there,
which goes with the root of the overlap, so that one threshold holds for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft

from processing.kernels.spectra import (
    PER_CYCLE,
    SHELLS,
    add_common,
    add_powers,
    cross_spectrum,
    shared_ncc,
    weigh,
)
from processing.kernels.strips import shared

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Spectrum = npt.NDArray[np.complex64]
_QUIET: Final = 0.3
"""Cycles a pixel from where on the noise is looked for."""
_TAPER_PX: Final = 16
_APART_PX: Final = 4
_FAR_PX: Final = 12
"""Beyond it a maximum is another one: closer, a bent field splits a peak into several."""
_LEARN_PX: Final = 24
_LEAST_LAGS: Final = 64
_ALONE: Final = 3.0
"""A peak so many times as high as the next needs no comparison."""


@dataclass(frozen=True, slots=True)
class Peak:
    """A place of the second strip's first pixel in the first strip, binned px, and how sure it is.

    ``z``: height over the field's standard deviation; ``ncc``: normalised correlation of the
    overlap, not-a-number where no other peak came near. ``at_edge``: it rises beyond the window.
    """

    x_px: float
    y_px: float
    z: float
    ncc: float
    at_edge: bool


class Search:
    """Two strips and their correlation inside a window of lags.

    Parameters
    ----------
    first, second
        (y, x) float32, binned.
    low, high
        (x, y) of the window: first and last lag.
    min_px
        Least overlap on each axis that counts.
    """

    def __init__(
        self, first: Floats, second: Floats, low: tuple[int, int], high: tuple[int, int], min_px: float
    ) -> None:
        self._shapes = first.shape, second.shape
        # what chance gives is learnt in a window that is never small
        around = [
            (min(a - 1, (a + b) // 2 - _LEARN_PX), max(b + 1, (a + b) // 2 + _LEARN_PX))
            for a, b in zip(low, high, strict=True)
        ]
        inner = tuple(slice(a - c, b - c + 1) for a, b, (c, _) in zip(low, high, around, strict=True))
        low, high = (around[0][0], around[1][0]), (around[0][1], around[1][1])
        self._low, self._high = low, high
        (h1, w1), (h2, w2) = self._shapes
        height = _padded(h1, h2, low[1], high[1])
        width = _padded(w1, w2, low[0], high[0])
        self._padded = height, width
        self._spectra: tuple[Spectrum, Spectrum] = (
            np.asarray(scipy.fft.rfft2(_tapered(first), (height, width)), np.complex64),
            np.asarray(scipy.fft.rfft2(_tapered(second), (height, width)), np.complex64),
        )
        powers = np.zeros((3, SHELLS + 1))
        add_powers(*self._spectra, width, powers)
        self._counts = powers[2]
        counts = np.maximum(self._counts, 1.0)
        self._power = powers[:2] / counts
        self._weights = self._signal() * _slow_cut(min(min(first.shape), min(second.shape)))
        overlap = (
            np.array([shared(w1, w2, lag) for lag in range(low[0], high[0] + 1)], float),
            np.array([shared(h1, h2, lag) for lag in range(low[1], high[1] + 1)], float),
        )
        self._area = np.outer(overlap[1], overlap[0])
        self._valid = np.outer(overlap[1] >= min_px, overlap[0] >= min_px)
        self._searched = np.zeros_like(self._valid)
        self._searched[inner[1], inner[0]] = self._valid[inner[1], inner[0]]

    @property
    def lags(self) -> int:
        """How many lags are looked at."""
        return int(np.count_nonzero(self._searched))

    def chance_z(self, rate: float) -> float:
        """Return the height that Gaussian values, as many as there are lags, exceed at a rate."""
        return NormalDist().inv_cdf(1.0 - min(0.5, rate / max(self.lags, 1)))

    def _signal(self) -> Reals:
        """Return which part of each ring's power is more than the noise."""
        radius = (np.arange(SHELLS + 1) + 0.5) / PER_CYCLE
        known = self._counts >= 8
        quiet = known & (radius >= _QUIET)
        if not quiet.any():
            return np.asarray(known, float)
        part: Reals = np.ones(SHELLS + 1)
        for power in self._power:
            floor = float(power[quiet].min())
            part *= np.where(power > 0, np.clip(1 - floor / np.maximum(power, 1e-30), 0, 1), 0)
        return np.asarray(np.sqrt(part) * known)

    def _tilt(self) -> Reals:
        """Return what half whitens the product of the two spectra."""
        product = self._power[0] * self._power[1]
        return np.asarray(np.where(product > 0, np.maximum(product, 1e-30) ** -0.25, 0.0))

    def peaks(self, count: int) -> list[Peak]:
        """Return the highest maxima of the correlation, the one that agrees best first."""
        if not np.any(self._weights > 0) or not self.lags:
            return []
        height, width = self._padded
        cross = np.empty_like(self._spectra[0])
        cross_spectrum(*self._spectra, width, self._weights.astype(np.float32), cross)
        field = self._window(np.asarray(scipy.fft.irfft2(cross, (height, width))))
        field = np.where(self._valid, field / np.sqrt(np.maximum(self._area, 1.0)), -np.inf)
        found = self._highest(field, count)
        if not found or (len(found) > 1 and found[0].z < _ALONE * found[1].z):
            filtered = self._filtered()
            found = [
                replace(peak, ncc=float(shared_ncc(*filtered, round(peak.x_px), round(peak.y_px))))
                for peak in found
            ]
            found.sort(key=lambda peak: -peak.ncc)
        return found

    def _highest(self, field: Floats, count: int) -> list[Peak]:
        """Return the highest maxima of a field.

        Far from a peak the highest of ``n`` Gaussian values hardly exceeds ``sqrt(2 ln n)`` standard
        deviations; where it does, the field's tails are heavier and its deviation counts as so much larger.
        """
        places: list[tuple[int, int]] = []
        left = np.where(self._searched, field, -np.inf)
        for _ in range(4 * count):
            j, i = divmod(int(left.argmax()), left.shape[1])
            if not math.isfinite(left[j, i]) or len(places) == count:
                break
            rows = slice(max(0, j - _APART_PX), j + _APART_PX + 1)
            columns = slice(max(0, i - _APART_PX), i + _APART_PX + 1)
            if not places or not _rises(field, j, i):
                places.append((j, i))
            left[rows, columns] = -np.inf
        if not places:
            return []
        mean, spread = _away(field, places[0])
        heights = [(float(field[place]) - mean) for place in places]
        return [
            Peak(
                self._low[0] + i + vertex(field[j], i),
                self._low[1] + j + vertex(field[:, i], j),
                height / max(spread, 1e-30),
                math.nan,
                _rises(field, j, i),
            )
            for (j, i), height in zip(places, heights, strict=True)
        ]

    def _window(self, correlation: Floats) -> Floats:
        rows = np.arange(self._low[1], self._high[1] + 1) % self._padded[0]
        columns = np.arange(self._low[0], self._high[0] + 1) % self._padded[1]
        return np.asarray(correlation[rows][:, columns], np.float32)

    def _filtered(self) -> tuple[Floats, Floats]:
        """Return both strips in the band, half whitened."""
        height, width = self._padded
        gain = (np.sqrt(self._weights) * self._tilt() ** 0.5).astype(np.float32)
        parts = []
        for spectrum, shape in zip(self._spectra, self._shapes, strict=True):
            weighted = np.empty_like(spectrum)
            weigh(spectrum, width, gain, weighted)
            back = np.asarray(scipy.fft.irfft2(weighted, (height, width)), np.float32)
            parts.append(back[: shape[0], : shape[1]])
        return parts[0], parts[1]

    def smoothing_px(self, peak: Peak, sigmas_px: Sequence[float]) -> float:
        """Return which Gaussian's sigma (binned px) gives the smallest error of the shift at a peak.

        The variance of the shift between images of signal S and power P, filtered with G, is
        ``sum(k^2 G^4 (P^2 - S^2)) / sum(k^2 G^2 S)^2`` over the frequencies k; S is the cross spectrum at
        the peak, which noise of the two does not share.
        """
        common = np.zeros(SHELLS + 1)
        add_common(*self._spectra, self._padded, peak.x_px, peak.y_px, common)
        (h1, w1), (h2, w2) = self._shapes
        area = shared(w1, w2, round(peak.x_px)) * shared(h1, h2, round(peak.y_px))
        part = area / math.sqrt(h1 * w1 * h2 * w2)
        power = np.sqrt(self._power[0] * self._power[1])
        signal = np.clip(common / np.maximum(self._counts, 1.0) / max(part, 1e-6), 0.0, 0.995 * power)
        k = 2 * math.pi * (np.arange(SHELLS + 1) + 0.5) / PER_CYCLE
        best, least = sigmas_px[-1], math.inf
        for sigma in sigmas_px:
            gain2 = np.exp(-((k * sigma) ** 2))
            information = float(np.sum(self._counts * k**2 * gain2 * signal))
            noise = float(np.sum(self._counts * k**2 * gain2**2 * (power**2 - signal**2)))
            if information > 0 and noise / information**2 < least:
                best, least = sigma, noise / information**2
        return best


def _padded(first: int, second: int, low: int, high: int) -> int:
    """Return the length of a transform in which no lag of the window meets another that is not 0."""
    least = max(high + second, first - low, first, second)
    return int(scipy.fft.next_fast_len(least, real=True))


def _slow_cut(side_px: int) -> Reals:
    """Return a high-pass: what is longer than half a strip is light, not specimen."""
    radius = (np.arange(SHELLS + 1) + 0.5) / PER_CYCLE
    return np.asarray(radius**2 / (radius**2 + (2.0 / side_px) ** 2))


def _ramp(length: int) -> Floats:
    edge = min(_TAPER_PX, length // 4)
    ramp = np.ones(length, np.float32)
    rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / max(edge, 1))).astype(np.float32)
    ramp[:edge], ramp[length - edge :] = rise, rise[::-1]
    return ramp


def _tapered(strip: Floats) -> Floats:
    """Return a strip around 0, of variance 1, that ends smoothly."""
    mean, spread = (value.item() for value in cv2.meanStdDev(strip))
    out = (strip - np.float32(mean)) * np.float32(1 / max(spread, 1e-12))
    out *= _ramp(strip.shape[0])[:, None]
    out *= _ramp(strip.shape[1])
    return np.asarray(out)


def _away(field: Floats, peak: tuple[int, int]) -> tuple[float, float]:
    """Return mean and standard deviation of a field far from its peak; infinite where little is left."""
    j, i = peak
    rest = np.isfinite(field)
    rest[max(0, j - _FAR_PX) : j + _FAR_PX + 1, max(0, i - _FAR_PX) : i + _FAR_PX + 1] = False
    values = field[rest]
    if values.size < _LEAST_LAGS:
        return 0.0, math.inf
    mean, spread = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return mean, max(spread, (float(values.max()) - mean) / math.sqrt(2 * math.log(values.size)))


def _rises(field: Floats, j: int, i: int) -> bool:
    """Return whether a field goes on rising from a place, or ends there."""
    near = field[max(0, j - 1) : j + 2, max(0, i - 1) : i + 2]
    return near.shape != (3, 3) or not np.isfinite(near).all() or bool(near.max() > field[j, i])


def vertex(line: Floats, i: int) -> float:
    """Return where a parabola through a maximum and its neighbours has its vertex, from the maximum."""
    if not 0 < i < line.size - 1:
        return 0.0
    before, here, after = (float(v) for v in line[i - 1 : i + 2])
    curve = before - 2 * here + after
    if not (math.isfinite(curve) and curve < 0):
        return 0.0
    return max(-0.5, min(0.5, 0.5 * (before - after) / curve))
