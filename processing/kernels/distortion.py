"""Distortion of a camera's field from images that overlap much: what a kernel must do, and two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from processing.kernels.blocks import BlockMatches, match_blocks
from processing.kernels.calibration import PatchShifts, fit_distortion, patch_shifts
from processing.kernels.field import MAX_DEGREE, FieldModel, fit_field
from processing.kernels.pairs import match_pair

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
_SEARCH: Final = 0.15
"""How far from their nominal places images are looked for, of their sides."""
_LEAST_MATCHES: Final = 40


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


class PolynomialDistortion:
    """A polynomial of both coordinates, of degree 2 to ``degree``: scan fields and lenses that are not round.

    Its radial and spiral part of third order is told as by `RadialDistortion`, beside the largest
    displacement of the field; the field itself is in the arrays, and `stored_field` makes a model of them.
    """

    def __init__(self, degree: int = 7) -> None:
        if not 2 <= degree <= MAX_DEGREE:
            raise ValueError(f"degree = {degree} must be 2 to {MAX_DEGREE}")
        self.degree = degree

    @property
    def name(self) -> str:
        """Name of the method, for the record."""
        return f"polynomial of degree {self.degree}"

    def fit(self, images: Sequence[Image], centres_px: Reals) -> Distortion:
        """Return the distortion; see `DistortionKernel.fit`.

        Residuals: the median and the 95th percentile of matches of blocks that a fit did not use, px.
        """
        height, width = images[0].shape
        frames = [_matchable(image) for image in images]
        search = _SEARCH * width, _SEARCH * height
        pairs: list[tuple[int, int, BlockMatches]] = []
        for i, j in _overlapping(centres_px, width, height):
            x, y = centres_px[j] - centres_px[i]
            found = match_pair(frames[i], frames[j], (float(x), float(y)), search)
            if found.accepted:
                blocks = match_blocks(frames[i], frames[j], (found.dx_px, found.dy_px))
                pairs.append((i, j, blocks))
        if len(pairs) < 3:
            raise ValueError(f"only {len(pairs)} pairs of images correlate; check focus, beam and overlap")
        fit = fit_field(pairs, centres_px, (width, height), degree=self.degree)
        if fit.matches < _LEAST_MATCHES:
            raise ValueError(
                f"only {fit.matches} blocks of the images are found in each other, {_LEAST_MATCHES} are "
                "needed; check focus, dose and that the specimen has structure everywhere"
            )
        radial, spiral = _third_order(fit.model)
        return Distortion(
            {
                "radial": radial,
                "spiral": spiral,
                "at_half_width_px": math.hypot(radial, spiral) * width / 2,
                "largest_px": fit.model.largest_px,
                "degree": float(fit.model.degree),
                "width_px": float(width),
                "height_px": float(height),
            },
            {
                "holdout_median_px": fit.holdout_median_px,
                "holdout_p95_px": fit.holdout_p95_px,
                "patch_rms_px": float(np.sqrt(np.mean(np.minimum(fit.residuals_px, 10.0) ** 2))),
                "matches": float(fit.matches),
                "pairs": float(len(pairs)),
            },
            {"field_coefficients_px": fit.model.coefficients},
        )


def stored_field(values: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> FieldModel:
    """Return the model of the field from values and arrays of a calibration by `PolynomialDistortion`.

    Raises
    ------
    ValueError
        Another kernel made them.
    """
    try:
        width, height, degree = (int(values[name]) for name in ("width_px", "height_px", "degree"))
        coefficients = np.asarray(arrays["field_coefficients_px"], np.float64)
    except KeyError as error:
        raise ValueError(
            f"this calibration of the distortion has no {error}: it was not made by a polynomial kernel; "
            "run calibrate_distortion again"
        ) from None
    return FieldModel(width, height, degree, coefficients)


def _matchable(image: Image) -> Image:
    """Return an image of a type that tiles have."""
    return image if image.dtype.name in ("uint8", "uint16", "float32") else image.astype(np.float32)


def _third_order(field: FieldModel) -> tuple[float, float]:
    """Return the radial and spiral part of a field, relative at half the width, with any affine part free."""
    x = np.linspace(-0.5, 0.5, 21) * field.width_px
    y = np.linspace(-0.5, 0.5, 21) * field.height_px
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    u, v = (points / (field.width_px / 2)).T
    r2, one, none = u**2 + v**2, np.ones_like(u), np.zeros_like(u)
    columns = [(u * r2, v * r2), (-v * r2, u * r2)]
    columns += [part for term in (one, u, v) for part in ((term, none), (none, term))]
    design = np.stack([np.concatenate(column) for column in columns], 1)
    wanted = field.displacement_px(points).T.ravel() / (field.width_px / 2)
    radial, spiral = np.linalg.lstsq(design, wanted, rcond=None)[0][:2]
    return float(radial), float(spiral)


def _overlapping(centres_px: Reals, width: int, height: int) -> list[tuple[int, int]]:
    """Return the pairs of images that share at least a quarter of a frame."""
    found = []
    for i in range(len(centres_px)):
        for j in range(i + 1, len(centres_px)):
            dx, dy = np.abs(centres_px[j] - centres_px[i])
            if max(0.0, 1 - dx / width) * max(0.0, 1 - dy / height) >= 0.25:
                found.append((i, j))
    return found
