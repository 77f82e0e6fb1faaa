"""Defocus and astigmatism from the power spectra of a short series through focus.

In every direction of the spectrum the logarithm of the power is a parabola in the defocus that was set,
whatever the specimen (see `processing.kernels.focus`); where its vertex lies is the focus in that direction.
Over the directions ``theta`` it is ``f + a cos 2 theta + b sin 2 theta`` (two-fold astigmatism). The
parabolas' widths are measured and not assumed: one number a frequency, the same in all directions.

The vertex is where contrast is highest. That is not exactly 0 where a specimen shows phase contrast beside
amplitude contrast (w their ratio): it is at ``-w lambda / (2 pi alpha^2)``, with ``alpha`` the convergence,
the same in all directions, so that astigmatism is free of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels.focus import noise_floor, power_spectrum, robust_fit
from processing.kernels.shift import Image

Reals = npt.NDArray[np.float64]
BAND: Final = (0.03, 0.4)
SHELLS: Final = 14
SECTORS: Final = 24
"""Sectors of half a turn."""
_MIN_SIGNAL: Final = 1.0
_MIN_BINS: Final = 40


@dataclass(frozen=True, slots=True)
class Aberration:
    """Defocus and astigmatism that a series shows.

    Attributes
    ----------
    defocus_um
        Of the image taken at 0: negative is underfocus.
    astigmatism_um
        ``(a, b)``: the difference of focus is ``a cos 2 theta + b sin 2 theta``, theta from the image's x to
        its y axis.
    error_um
        One standard deviation of each component.
    defocus_error_um
        One standard deviation of the defocus.
    reason
        Why there is none, or "".
    """

    defocus_um: float
    astigmatism_um: tuple[float, float]
    error_um: float
    defocus_error_um: float
    reason: str = ""

    @property
    def amplitude_um(self) -> float:
        """Half the difference between the foci of the two directions."""
        return math.hypot(*self.astigmatism_um)

    @property
    def angle_deg(self) -> float:
        """Direction of the highest focus, -90 to 90 from the image's x axis."""
        return math.degrees(math.atan2(self.astigmatism_um[1], self.astigmatism_um[0])) / 2


def measure_aberration(images: Sequence[Image], steps_um: Sequence[float]) -> Aberration:
    """Return the defocus and astigmatism of a series of one place.

    Parameters
    ----------
    images
        (y, x) each, counts; at least 64 px on both sides, of the same shape.
    steps_um
        What was added to the defocus of each; at least three different values.

    Raises
    ------
    ValueError
        There are fewer than three, or they do not fit the images.
    """
    steps = np.array(steps_um, float)
    if len(images) != len(steps) or len(set(steps_um)) < 3:
        raise ValueError(f"{len(images)} images at {len(set(steps_um))} defoci; three of each are the least")
    bins = _Bins(images[0].shape)
    logs, errors = bins.logarithms(images)
    usable = np.isfinite(logs).sum(axis=0) >= 3
    return _fit(bins, logs, errors, steps, usable)


class _Bins:
    """Polar bins of the half plane of a spectrum."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        ky = np.fft.fftfreq(shape[0])[:, None]
        kx = np.fft.rfftfreq(shape[1])[None, :]
        radius = np.hypot(kx, ky)
        # theta and theta + 180 deg are the same direction
        angle = np.broadcast_to(np.arctan2(ky, kx), radius.shape)
        inside = (radius >= BAND[0]) & (radius < BAND[1]) & (kx > 0)
        edges = np.geomspace(*BAND, SHELLS + 1)
        shell = np.digitize(radius[inside], edges) - 1
        sector = ((angle[inside] / np.pi + 0.5) * SECTORS).astype(np.intp) % SECTORS
        self._inside = inside
        self._index = shell * SECTORS + sector
        self.size = SHELLS * SECTORS
        self._count = np.bincount(self._index, minlength=self.size)
        self.shell = np.arange(self.size) // SECTORS
        self._cos, self._sin = np.cos(2 * angle[inside]), np.sin(2 * angle[inside])
        self._k2 = radius[inside] ** 2
        self.cos = self.sin = self.k2 = np.ones(self.size)

    def _weigh(self, power: Reals) -> None:
        """Take the means of direction and squared frequency of each bin where its power is."""
        total = np.bincount(self._index, power, self.size)
        total = np.where(total > 0, total, 1.0)
        self.cos, self.sin, self.k2 = (
            np.bincount(self._index, power * values, self.size) / total
            for values in (self._cos, self._sin, self._k2)
        )

    def logarithms(self, images: Sequence[Image]) -> tuple[Reals, Reals]:
        """Return ln of power over the noise and its error, (image, bin); NaN where it drowns."""
        logs = np.full((len(images), self.size), np.nan)
        errors = np.full_like(logs, np.inf)
        count = np.maximum(self._count, 1)
        spectra = [power_spectrum(image) for image in images]
        # noise is the same in all; where they are sharp, the highest frequencies hold more than noise
        floor = min(noise_floor(*spectrum) for spectrum in spectra)
        self._weigh(np.mean([power[self._inside] for _, power in spectra], axis=0))
        for i, (_, power) in enumerate(spectra):
            mean = np.bincount(self._index, power[self._inside], self.size) / count
            signal = mean - floor
            good = (signal > _MIN_SIGNAL * floor) & (self._count >= 4) & (signal > 0)
            logs[i, good] = np.log(signal[good])
            relative = np.sqrt(2 * signal[good] * floor + floor**2) / signal[good]
            errors[i, good] = 2 * relative / np.sqrt(count[good]) + 1e-3
        return logs, errors


def _fit(bins: _Bins, logs: Reals, errors: Reals, steps: Reals, usable: npt.NDArray[np.bool_]) -> Aberration:
    """Fit a parabola to each bin, one width (a squared frequency) a shell; then the vertices."""
    slope, bend, bend_error, slope_error = _parabolas(logs, errors, steps, usable)
    width, width_error = np.zeros(SHELLS), np.full(SHELLS, np.inf)
    for shell in range(SHELLS):
        mine = usable & (bins.shell == shell) & np.isfinite(bend_error)
        if mine.sum() >= SECTORS // 2:
            weight = (bins.k2[mine] / bend_error[mine]) ** 2
            width[shell] = -np.sum(weight * bend[mine] / bins.k2[mine]) / weight.sum()
            width_error[shell] = 1 / math.sqrt(weight.sum())
    clear = width > 4 * width_error
    chosen = usable & clear[bins.shell] & np.isfinite(slope_error)
    if chosen.sum() < _MIN_BINS:
        return _nothing(
            "the spectrum does not change over the series: a place without detail, or steps too small"
        )
    s = width[bins.shell[chosen]] * bins.k2[chosen]
    focus = -slope[chosen] / (2 * s)
    relative = (width_error / np.maximum(width, 1e-30))[bins.shell[chosen]]
    sigma = np.hypot(slope_error[chosen] / (2 * s), focus * relative)
    return _over_directions(bins.cos[chosen], bins.sin[chosen], focus, sigma)


def _parabolas(
    logs: Reals, errors: Reals, steps: Reals, usable: npt.NDArray[np.bool_]
) -> tuple[Reals, Reals, Reals, Reals]:
    """Return slope and bend of ln(power) against the step in each bin, and their errors."""
    powers = np.stack([np.ones_like(steps), steps, steps**2], axis=1)
    results = np.full((4, logs.shape[1]), np.inf)
    results[:2] = 0.0
    for i in np.flatnonzero(usable):
        there = np.isfinite(logs[:, i])
        design = powers[there] / errors[there, i][:, None]
        covariance = np.linalg.pinv(design.T @ design)
        _, slope, bend = covariance @ design.T @ (logs[there, i] / errors[there, i])
        results[:, i] = slope, bend, math.sqrt(covariance[2, 2]), math.sqrt(covariance[1, 1])
    return results[0], results[1], results[2], results[3]


def _over_directions(cos: Reals, sin: Reals, focus: Reals, sigma: Reals) -> Aberration:
    design = np.stack([np.ones_like(cos), cos, sin], axis=1)
    coefficients, covariance, _ = robust_fit(design, focus, sigma)
    f, a, b = (float(value) for value in coefficients)
    error = math.sqrt(float(covariance[1, 1] + covariance[2, 2]) / 2)
    return Aberration(f, (a, b), error, math.sqrt(float(covariance[0, 0])))


def _nothing(reason: str) -> Aberration:
    return Aberration(math.nan, (math.nan, math.nan), math.inf, math.inf, reason)
