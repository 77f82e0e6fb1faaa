"""What a camera says about its newest frames: mean, spread, extremes, and how many come a second."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

STATISTICS_PERIOD_S = 0.1
RATE_PERIOD_S = 1.0


class FrameStatistics:
    """Statistics of the last frame measured, in counts; ``rate_hz`` is that of the frames written."""

    def __init__(self) -> None:
        self.mean = self.std = self.rate_hz = 0.0
        self.low = self.high = 0
        self._measured_at = 0.0
        self._counted = (time.monotonic(), 0)

    def measure(self, data: npt.NDArray[np.uint16]) -> None:
        """Take the statistics of a frame, (y, x) counts: of every 16th pixel, ten times a second at most."""
        now = time.monotonic()
        if now - self._measured_at < STATISTICS_PERIOD_S:
            return
        self._measured_at = now
        part = data[::4, ::4]
        self.mean, self.std = float(part.mean()), float(part.std())
        self.low, self.high = int(part.min()), int(part.max())

    def count(self, written: int) -> None:
        """Note how many frames of the file are written now."""
        now = time.monotonic()
        since, before = self._counted
        if now - since >= RATE_PERIOD_S:
            self.rate_hz = max(0.0, (written - before) / (now - since))
            self._counted = (now, written)

    def values(self) -> dict[str, float]:
        """Return the attributes of the camera that show them, by name."""
        return {
            "frame_rate_hz": self.rate_hz,
            "last_mean": self.mean,
            "last_std": self.std,
            "last_min": self.low,
            "last_max": self.high,
        }
