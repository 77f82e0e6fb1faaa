"""How far one image lies from another, below a pixel, with an error that the images themselves tell.

Cross-correlation in a band of frequencies, each weighted by its ratio of signal to noise (Hannan and
Thomson, Biometrika 60 (1973) 469, doi:10.1093/biomet/60.3.469); the peak is refined on the overlap of the two
images by Newton's method on the sum of the aligned cross spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.fft

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]
Band = tuple[float, float]
BAND: Final[Band] = (0.01, 0.3)
"""Cycles a pixel between which images are compared: slower is illumination, faster is noise."""
MIN_SIDE_PX: Final = 32
_FLOOR_BAND: Final = (0.42, 0.5)
_TAPER: Final = 0.25
_HANN_CORRELATION: Final = 3.78
"""A Hann window leaves one of so many frequencies independent: (1 + 2 (2/3)^2 + 2 (1/6)^2)^2."""
_CANDIDATES: Final = 3
_NEWTON_STEPS: Final = 6


@dataclass(frozen=True, slots=True)
class Shift:
    """A displacement: ``image(x, y) = reference(x - dx, y - dy)``.

    Attributes
    ----------
    dx_px, dy_px
        How far the image's content lies to the right of and below the reference's.
    peak
        Normalised correlation of the overlap in the band, 0 to 1.
    error_px
        One standard deviation of a component. Infinite where the images show nothing in common: then
        ``dx_px`` and ``dy_px`` mean nothing.
    """

    dx_px: float
    dy_px: float
    peak: float
    error_px: float

    @property
    def found(self) -> bool:
        """Whether the images show anything in common."""
        return math.isfinite(self.error_px)


def measure_shift(
    reference: Image,
    image: Image,
    *,
    max_shift_px: float | None = None,
    band: Band = BAND,
    white_is_noise: bool = True,
) -> Shift:
    """Return how far an image lies from a reference.

    Parameters
    ----------
    reference, image
        (y, x), counts; the same shape, at least 32 px on both sides.
    max_shift_px
        Longest displacement to look for on each axis; None: half the image, which is the longest possible.
    band
        Lowest and highest frequency to compare, cycles a pixel, within 0 to 0.5.
    white_is_noise
        Take what is equally strong at all frequencies for noise of the camera (its fixed pattern would pull
        the result to 0). Images that are white themselves need False.

    Raises
    ------
    ValueError
        The images differ in shape or are too small, or the band is not one.
    """
    _check(reference, image, band)
    search = _search_range(reference.shape, max_shift_px)
    first, second = _transforms(reference, image, _taper)
    spectrum = _Compared(first, second, reference.shape, band, white_is_noise)
    if not spectrum.informed:
        return Shift(0.0, 0.0, 0.0, math.inf)
    best = Shift(0.0, 0.0, -1.0, math.inf)
    for dx, dy in spectrum.peaks(search):
        found = _refine(reference, image, dx, dy, band, white_is_noise)
        if (found.found, found.peak) > (best.found, best.peak):
            best = found
    return best


def _check(reference: Image, image: Image, band: Band) -> None:
    if reference.ndim != 2 or reference.shape != image.shape:
        raise ValueError(f"images of shapes {reference.shape} and {image.shape} cannot be compared")
    if min(image.shape) < MIN_SIDE_PX:
        raise ValueError(f"images of {image.shape} px are too small; {MIN_SIDE_PX} px a side are the least")
    if not 0 <= band[0] < band[1] <= 0.5:
        raise ValueError(f"band = {band} must rise within 0 to 0.5 cycles a pixel")


def _search_range(shape: tuple[int, ...], max_shift_px: float | None) -> tuple[float, float]:
    height, width = shape
    longest = math.inf if max_shift_px is None else max_shift_px
    return min(longest, width / 2), min(longest, height / 2)


def _taper(length: int) -> Reals:
    """Return a window that is flat in the middle and falls to 0 over a quarter of the length."""
    distance = (np.arange(length) + 0.5) / length
    edge = np.clip(np.minimum(distance, 1 - distance) / (_TAPER / 2), 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * edge))


def _hann(length: int) -> Reals:
    return np.asarray(np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2)


def _transforms(reference: Image, image: Image, window: Any) -> tuple[Complexes, Complexes]:
    weights = np.outer(window(reference.shape[0]), window(reference.shape[1]))
    total = weights.sum()
    parts = []
    for one in (reference, image):
        values = one.astype(np.float64)
        values -= (values * weights).sum() / total
        parts.append(np.asarray(scipy.fft.rfft2(values * weights)))
    return parts[0], parts[1]


class _Compared:
    """The cross spectrum of two images in a band, whitened, with the weight of each frequency."""

    def __init__(
        self,
        first: Complexes,
        second: Complexes,
        shape: tuple[int, ...],
        band: Band,
        white_is_noise: bool,
    ) -> None:
        height, width = shape
        ky = np.fft.fftfreq(height)[:, None]
        kx = np.fft.rfftfreq(width)[None, :]
        radius = np.hypot(kx, ky)
        self.inside = (band[0] <= radius) & (radius <= band[1])
        self.shape = height, width
        shells = (radius * min(shape)).astype(np.intp)
        powers = [np.abs(one) ** 2 for one in (first, second)]
        counts = np.maximum(np.bincount(shells.ravel()), 1)
        means = [np.bincount(shells.ravel(), power.ravel()) / counts for power in powers]
        shell_mean = np.sqrt(means[0] * means[1])
        # what the mean of so few powers may reach by chance; they are distributed exponentially
        chance = np.sqrt(_HANN_CORRELATION / counts)
        margin = 1.0 + 4.0 * chance + 4.0 * chance**2
        floor = 0.0
        if white_is_noise:
            quiet = (radius >= _FLOOR_BAND[0]) & (radius < _FLOOR_BAND[1])
            floor = math.sqrt(math.prod(float(np.mean(power[quiet])) for power in powers))
        safe = np.maximum(shell_mean, 1e-200)  # a shell may be empty; quotients stay finite
        weight = np.where(shell_mean > 0, np.clip((shell_mean - margin * floor) / safe, 0, 1), 0)
        chosen = shells[self.inside]
        self.kx = np.broadcast_to(kx, radius.shape)[self.inside]
        self.ky = np.broadcast_to(ky, radius.shape)[self.inside]
        # the half plane holds the frequencies of column 0 (and of the last, of an even width) twice
        twice = (self.kx == 0) | (self.kx == 0.5)
        self.weight = weight[chosen] * np.where(twice, 0.5, 1.0)
        scale = safe[chosen]
        self.cross = second[self.inside] * np.conj(first[self.inside]) / scale
        self._norm = math.sqrt(
            math.prod(float(np.sum(self.weight * power[self.inside] / scale)) for power in powers)
        )
        total = float(np.sum(self.weight))
        self.independent = total**2 / max(float(np.sum(self.weight**2)), 1e-300) / _HANN_CORRELATION

    @property
    def informed(self) -> bool:
        """Whether there is anything over the noise."""
        return self._norm > 0 and self.independent >= 4

    def peaks(self, search: tuple[float, float]) -> list[tuple[int, int]]:
        """Return the highest maxima of the correlation, whole pixels (dx, dy)."""
        spectrum = np.zeros(self.inside.shape, complex)
        spectrum[self.inside] = self.cross * self.weight
        height, width = self.shape
        surface = scipy.fft.irfft2(spectrum, s=self.shape)
        y = np.fft.fftfreq(height, 1 / height)
        x = np.fft.fftfreq(width, 1 / width)
        surface[np.abs(y) > max(search[1], 1), :] = -np.inf
        surface[:, np.abs(x) > max(search[0], 1)] = -np.inf
        found: list[tuple[int, int]] = []
        highest = 0.0
        for _ in range(_CANDIDATES):
            j, i = (int(n) for n in np.unravel_index(np.argmax(surface), surface.shape))
            value = float(surface[j, i])
            highest = highest or value
            if value < 0.5 * highest or not math.isfinite(value):
                break
            found.append((int(x[i]), int(y[j])))
            rows = (np.arange(j - 4, j + 5)) % height
            columns = (np.arange(i - 4, i + 5)) % width
            surface[np.ix_(rows, columns)] = -np.inf
        return found

    def climb(self) -> Shift:
        """Return the maximum nearest to no displacement, with its height and error, px."""
        d = np.zeros(2)
        k = 2 * np.pi * np.stack([self.kx, self.ky])
        for _ in range(_NEWTON_STEPS):
            aligned = self.weight * self.cross * np.exp(1j * (d @ k))
            gradient = -(k * aligned.imag).sum(axis=1)
            curvature = (k * aligned.real) @ k.T
            if np.linalg.det(curvature) <= 0:
                return Shift(0.0, 0.0, 0.0, math.inf)
            step = np.linalg.solve(curvature, gradient)
            d += np.clip(step, -1.0, 1.0)
            if np.abs(step).max() < 1e-4:
                break
        peak = float(aligned.real.sum()) / self._norm
        inverse = np.linalg.inv(curvature)
        scatter = (k * aligned.imag**2) @ k.T
        covariance = _HANN_CORRELATION * inverse @ scatter @ inverse
        # a random maximum, the highest of as many places as there are frequencies
        chance = math.sqrt(2 * math.log(max(self.kx.size, 2))) / math.sqrt(2 * self.independent)
        if peak < 1.2 * chance or np.abs(d).max() > 3:
            return Shift(float(d[0]), float(d[1]), max(peak, 0.0), math.inf)
        return Shift(float(d[0]), float(d[1]), min(peak, 1.0), math.sqrt(float(np.trace(covariance)) / 2))


def _refine(reference: Image, image: Image, dx: int, dy: int, band: Band, white_is_noise: bool) -> Shift:
    """Return the displacement near whole pixels, measured on what both images show."""
    found = Shift(0.0, 0.0, 0.0, math.inf)
    for _ in range(2):
        ours, theirs = _overlap(reference, image, dx, dy)
        if min(ours.shape) < MIN_SIDE_PX // 2:
            return Shift(float(dx), float(dy), 0.0, math.inf)
        compared = _Compared(*_transforms(ours, theirs, _hann), ours.shape, band, white_is_noise)
        if not compared.informed:
            return Shift(float(dx), float(dy), 0.0, math.inf)
        found = compared.climb()
        found = Shift(found.dx_px + dx, found.dy_px + dy, found.peak, found.error_px)
        nearest = round(found.dx_px), round(found.dy_px)
        if nearest == (dx, dy):
            break
        dx, dy = nearest
    return found


def _overlap(reference: Image, image: Image, dx: int, dy: int) -> tuple[Image, Image]:
    height, width = image.shape
    ours = reference[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    theirs = image[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
    return ours, theirs
