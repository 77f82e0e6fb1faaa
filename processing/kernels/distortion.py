"""Distortion of a camera's field from images that overlap much: what a kernel must do, and a simple one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from processing.kernels.calibration import PatchShifts, fit_distortion, patch_shifts

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distortion:
    """What a kernel found: numbers, residuals in px, and arrays where it has a field of displacements."""

    values: dict[str, float]
    residuals: dict[str, float]
    arrays: dict[str, Reals] = field(default_factory=dict)


class DistortionKernel(Protocol):
    """Fits the distortion of the field, the same in all images, from images of overlapping places."""

    @property
    def name(self) -> str:
        """Name of the method, for the record."""

    def fit(self, images: Sequence[Image], centres_px: Reals) -> Distortion:
        """Return the distortion.

        Parameters
        ----------
        images
            Frames (y, x) of one shape, counts.
        centres_px
            (image, 2): roughly where the middle of each lies, px along camera x and y.

        Raises
        ------
        ValueError
            The images do not tell it.
        """


class RadialDistortion:
    """A radial and a spiral term of third order: two numbers, for lenses that are round.

    ``radial`` and ``spiral`` are relative at half the width: ``ideal = u (1 + radial r^2)`` and across.
    """

    name = "third-order radial and spiral"

    def fit(self, images: Sequence[Image], centres_px: Reals) -> Distortion:
        """Return the distortion; see `DistortionKernel.fit`."""
        height, width = images[0].shape
        pairs: list[PatchShifts] = []
        for i, j in _overlapping(centres_px, width, height):
            found = patch_shifts(images[i], images[j], per_side=6)
            if len(found.at_px) >= 3:
                pairs.append(found)
        if len(pairs) < 3:
            raise ValueError(f"only {len(pairs)} pairs of images correlate; check focus, beam and overlap")
        fit = fit_distortion(pairs, width / 2)
        return Distortion(
            {
                "radial": fit.radial,
                "spiral": fit.spiral,
                "at_half_width_px": math.hypot(fit.radial, fit.spiral) * width / 2,
            },
            {
                "radial": fit.radial_error,
                "patch_rms_px": fit.rms_px,
                "patch_rms_before_px": fit.rms_before_px,
                "pairs": float(len(pairs)),
            },
        )


def _overlapping(centres_px: Reals, width: int, height: int) -> list[tuple[int, int]]:
    """Return the pairs of images that share at least a quarter of a frame."""
    found = []
    for i in range(len(centres_px)):
        for j in range(i + 1, len(centres_px)):
            dx, dy = np.abs(centres_px[j] - centres_px[i])
            if max(0.0, 1 - dx / width) * max(0.0, 1 - dy / height) >= 0.25:
                found.append((i, j))
    return found
