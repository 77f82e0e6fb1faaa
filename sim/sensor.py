"""From electrons at the camera to counts: shot noise, gain and dark pattern, read noise, saturation.

Shot noise is Gaussian with the variance of the Poisson distribution, too symmetric at fewer than about ten
electrons a pixel; the noise comes from a table of a million numbers, entered anew in every row.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraSettings
from sim.config import SimulationConfig
from sim.jit import kernel

Floats = npt.NDArray[np.float32]
_TABLE: Final = 1 << 20
_REFERENCE_E: Final = 2400.0
"""Electrons a pixel of blank resin at the default dose, pixel size and exposure."""


class Sensor:
    """The sensor of a camera: fixed patterns by seed."""

    def __init__(self, config: SimulationConfig, shape: tuple[int, int]) -> None:
        camera = config.camera
        rng = np.random.default_rng([config.seed, 1234])
        self._full = 2**camera.bit_depth - 1
        self.gain = camera.gain_counts or 0.45 * self._full / _REFERENCE_E
        self._offset = 0.003 * self._full if camera.offset_counts is None else camera.offset_counts
        self._dark_e_s = camera.dark_current_e_s
        self._read_e = camera.read_noise_e
        spread = camera.gain_spread
        self._pattern = 1.0 + spread * rng.standard_normal(shape, dtype=np.float32)
        self._columns = rng.normal(0.0, 0.4 * camera.read_noise_e * self.gain, shape[1]).astype(np.float32)
        self._noise = rng.standard_normal(_TABLE + shape[1], dtype=np.float32)
        self._seed = config.seed
        self._patterns = functools.lru_cache(maxsize=4)(self._patterns_for)

    def _patterns_for(self, settings: CameraSettings, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        region, step = settings.region, settings.binning
        x, y = (region.x_px, region.y_px) if region is not None else (0, 0)
        height, width = shape
        part = self._pattern[y : y + height * step, x : x + width * step]
        columns = self._columns[x : x + width * step]
        if step > 1:
            part = part.reshape(height, step, width, step).mean(axis=(1, 3))
            columns = columns.reshape(width, step).mean(axis=1)
        return np.ascontiguousarray(part), np.ascontiguousarray(columns)

    def detect(
        self,
        intensity: Floats,
        margin_px: int,
        dose_e: float,
        index: int,
        exposure_s: float,
        settings: CameraSettings,
    ) -> npt.NDArray[np.uint16]:
        """Return the counts of a frame, ``(y, x)``.

        ``intensity`` is relative to the beam's middle and has a margin around it; ``dose_e`` the electrons a
        (binned) pixel where it is 1. Binned pixels hold the mean of theirs, so they saturate no sooner.
        """
        shape = (intensity.shape[0] - 2 * margin_px, intensity.shape[1] - 2 * margin_px)
        pattern, columns = self._patterns(settings, shape)
        out = np.empty(shape, np.uint16)
        pixels = settings.binning**2
        _detect(
            intensity,
            margin_px,
            np.float32(dose_e),
            np.float32(self.gain / pixels),
            np.float32(self._offset + self._dark_e_s * exposure_s * self.gain),
            np.float32(pixels * (self._read_e**2 + self._dark_e_s * exposure_s)),
            np.float32(self._full),
            pattern,
            columns,
            self._noise,
            (self._seed * 7919 + index * 104_729) & 0x7FFFFFFF,
            out,
        )
        return out


@kernel
def _detect(
    intensity: Floats,
    margin: int,
    dose: np.float32,
    gain: np.float32,
    offset: np.float32,
    variance: np.float32,
    full: np.float32,
    pattern: Floats,
    columns: Floats,
    noise: Floats,
    salt: int,
    out: npt.NDArray[np.uint16],
) -> None:
    height, width = out.shape
    state = salt
    zero, half = np.float32(0.0), np.float32(0.5)
    for v in range(height):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        start = (state >> 8) & 0xFFFFF
        source = intensity[v + margin, margin : margin + width]
        table = noise[start : start + width]
        gains, row = pattern[v], out[v]
        for u in range(width):
            electrons = max(source[u] * dose, zero)
            counts = electrons * gains[u] + np.sqrt(electrons + variance) * table[u]
            value = counts * gain + offset + columns[u] + half
            row[u] = np.uint16(np.int32(min(max(value, zero), full)))
