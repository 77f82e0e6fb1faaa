"""How fast the stage's read-back moves, and how small a speed it can tell from its own noise.

A straight line is fitted to the last readings of each axis. With readings of noise ``s`` (rms) the slope has
the standard error ``s / sqrt(sum((t - mean(t))^2))``; for ``n`` readings over a window ``T`` that is about
``s * sqrt(12 / n) / T`` (Bevington and Robinson, Data Reduction and Error Analysis, 3rd ed., eq. 6.22). The
window grows until three standard errors are below the limit, so that a stage that stands still passes at the
first look 99 times in 100, and one at twice the limit hardly ever does.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

SAMPLE_S: Final = 0.002
"""Time between readings, where the hardware answers so fast."""
WINDOW_MIN_S: Final = 0.05
WINDOW_MAX_S: Final = 0.5
SIGMAS: Final = 3.0
READINGS_MIN: Final = 6


def settle_floor_nm_s(noise_nm: float) -> float:
    """Return the smallest speed, nm/s, that readings of this rms noise can tell in the longest window.

    4 nm rms at 500 readings a second and 0.5 s: 5.3 nm/s.
    """
    readings = WINDOW_MAX_S / SAMPLE_S
    return SIGMAS * noise_nm * math.sqrt(12.0 / readings) / WINDOW_MAX_S


class ReadbackSpeed:
    """The speed of the read-back in the plane, over the shortest window that can tell ``limit_nm_s``.

    Parameters
    ----------
    noise_nm
        Noise of one reading on an axis, nm rms.
    limit_nm_s
        Speed that is to be told from standing still, nm/s.
    """

    def __init__(self, noise_nm: float, limit_nm_s: float) -> None:
        self._error_nm_s = limit_nm_s / SIGMAS
        self._noise_nm = noise_nm
        self._readings: deque[tuple[float, float, float]] = deque()

    def add(self, time_s: float, x_um: float, y_um: float) -> float | None:
        """Take a reading and return the speed, nm/s; None while the window is too short to tell."""
        self._readings.append((time_s, x_um, y_um))
        # readings older than what the limit needs would only make the answer late
        while len(self._readings) > READINGS_MIN and self._tells(1):
            self._readings.popleft()
        return self._slope() if self._tells(0) else None

    def _tells(self, skip: int) -> bool:
        """Return whether the window without its ``skip`` oldest readings can tell the limit."""
        count = len(self._readings) - skip
        span_s = self._readings[-1][0] - self._readings[skip][0] if count > 0 else 0.0
        if count < READINGS_MIN or span_s < WINDOW_MIN_S:
            return False
        return self._noise_nm * math.sqrt(12.0 / count) / span_s <= self._error_nm_s

    def _slope(self) -> float:
        times, xs, ys = np.array(self._readings).T
        times = times - times.mean()
        across = float(times @ times)
        return 1e3 * math.hypot(float(times @ xs) / across, float(times @ ys) / across)
