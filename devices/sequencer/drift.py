"""Drift of the sample from short frames: how far one image lies from the one before, and how fast that is.

Phase correlation (Kuglin and Hines 1975) under a Hann window. The cross-power spectrum, of which only the
phase is kept, is weighted with a Gaussian: fine detail of a short frame is noise. The peak is then a Gaussian
too, and the logarithm of its neighbours gives its top to a fraction of a pixel.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

SIDE_PX: Final = 1024
"""The middle of a frame, at most so large, is compared: more costs time and tells no more."""
BAND_PER_PX: Final = 0.1
"""Width of the Gaussian weight over spatial frequency, cycles a pixel."""
PRECISION_PX: Final = 0.1
"""Error of a measured displacement, in binned pixels: frames lie far enough apart that it is small."""
RESPONSE_MIN: Final = 0.1
NOISE_PEAK_PX: Final = 20.0
"""Noise alone peaks at up to 17 over the side of the frame in pixels (measured); 1 is the same frame."""
GAIN_MIN: Final = 0.3
"""Logarithm of how much more power the second of two frames has at least if the first was smeared: 2.1 after
a move of the simulated stage; it is 0.02 at most while that creeps by 800 nm/s (measured)."""
NOISE_GAIN_PX: Final = 40.0
"""The same of noise alone, over the side of the frame in pixels: 4 of its standard deviations (measured)."""
FRAMES_APART_MAX_S: Final = 2.0


class Displacement(NamedTuple):
    """How far the second image lies from the first, in pixels, and the height of the peak, 0 to 1.

    ``found`` is whether the peak is higher than noise could make it; ``sharper`` whether the second image has
    so much more detail that the first was smeared.
    """

    dx_px: float
    dy_px: float
    response: float
    found: bool
    sharper: bool


def displacement(first: npt.NDArray[np.uint16], second: npt.NDArray[np.uint16]) -> Displacement:
    """Return how far the middle of ``second`` (y, x) lies from that of ``first``, of the same shape."""
    one, two = _middle(first), _middle(second)
    height, width = one.shape
    window, weight = _window(height, width), _weight(height, width)
    spectrum, other = (fft.rfft2((image - image.mean()) * window) for image in (one, two))
    cross = other * np.conj(spectrum)
    surface = fft.irfft2(cross * weight / np.maximum(np.abs(cross), 1e-12), s=(height, width))
    row, column = (int(i) for i in np.unravel_index(np.argmax(surface), surface.shape))
    dx = (column + width // 2) % width - width // 2
    dy = (row + height // 2) % height - height // 2
    gain = float(np.vdot(weight, _log_power(other) - _log_power(spectrum)) / weight.sum())
    side = math.sqrt(height * width)
    response = float(surface[row, column]) / _full_peak(height, width)
    return Displacement(
        dx + _top([float(surface[row, (column + i) % width]) for i in (-1, 0, 1)]),
        dy + _top([float(surface[(row + i) % height, column]) for i in (-1, 0, 1)]),
        response,
        response > max(RESPONSE_MIN, NOISE_PEAK_PX / side),
        gain > max(GAIN_MIN, NOISE_GAIN_PX / side),
    )


def _log_power(spectrum: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    return np.asarray(2.0 * np.log(np.maximum(np.abs(spectrum), 1e-12)), np.float32)


def _middle(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    top, left = (max(0, (size - SIDE_PX) // 2) for size in image.shape)
    return image[top : top + SIDE_PX, left : left + SIDE_PX].astype(np.float32)


@functools.lru_cache(maxsize=4)
def _window(height: int, width: int) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.createHanningWindow((width, height), cv2.CV_32F), np.float32)


@functools.lru_cache(maxsize=4)
def _weight(height: int, width: int) -> npt.NDArray[np.float32]:
    along_y, along_x = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :]
    weight = np.exp(-(along_x**2 + along_y**2) / (2.0 * BAND_PER_PX**2))
    weight[0, 0] = 0.0
    return np.asarray(weight, np.float32)


@functools.lru_cache(maxsize=4)
def _full_peak(height: int, width: int) -> float:
    """Return the height of the peak of a frame against itself."""
    return float(fft.irfft2(_weight(height, width).astype(np.complex64), s=(height, width))[0, 0])


def _top(values: list[float]) -> float:
    """Return where the top of a Gaussian lies, from its values at -1, 0 and 1."""
    before, at, after = (math.log(max(value, 1e-12)) for value in values)
    curvature = before - 2.0 * at + after
    return 0.5 * (before - after) / curvature if curvature < 0.0 else 0.0


def frames_apart_s(limit_nm_s: float, pixel_nm: float) -> float:
    """Return how far apart two frames begin so that the limit is three times the error, s, at most 2."""
    return min(3.0 * PRECISION_PX * pixel_nm / limit_nm_s, FRAMES_APART_MAX_S)


@dataclass
class DriftMeter:
    """Speed of the image from frame to frame.

    Attributes
    ----------
    pixel_nm
        Size of a binned pixel at the specimen, nm.
    smeared
        Whether the frame before the newest was: the newest has much detail that it had not. How far it lies
        from it says nothing, the sample moved within the exposure.
    """

    pixel_nm: float
    smeared: bool = False
    _data: npt.NDArray[np.uint16] | None = None
    _start_s: float = 0.0

    def add(self, data: npt.NDArray[np.uint16], start_s: float) -> float:
        """Take a frame that began at ``start_s`` and return the speed since the one before, nm/s.

        NaN for the first frame, and where two frames show nothing that could be compared, or the one before
        was smeared.
        """
        before, since_s = self._data, start_s - self._start_s
        self._data, self._start_s, self.smeared = data, start_s, False
        if before is None or since_s <= 0.0:
            return math.nan
        moved = displacement(before, data)
        self.smeared = moved.sharper
        if self.smeared or not moved.found:
            return math.nan
        return math.hypot(moved.dx_px, moved.dy_px) * self.pixel_nm / since_s
