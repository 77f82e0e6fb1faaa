"""Distortion of a camera's field that all tiles of a montage share: a polynomial, and its fit from overlaps.

A point p of a tile, in px from its centre (x right, y down), lies in the mosaic at
``position + matrix @ (p + D(p))``: position and 2 x 2 matrix belong to the tile, the displacement D to the
camera and magnification. D has no affine part over the frame: that belongs to position, matrix and stage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels._field_fit import Fitted, choose_and_fit
from processing.kernels._field_system import Matches
from processing.kernels._legendre import degrees, values
from processing.kernels.blocks import BlockMatches

Reals = npt.NDArray[np.float64]
MAX_DEGREE: Final = 7
_ROUNDS: Final = 60
_TOLERANCE_PX: Final = 1e-6
_GRID: Final = 33


@dataclass(frozen=True, slots=True, eq=False)
class FieldModel:
    """Displacement of the field, a polynomial of both coordinates.

    Attributes
    ----------
    width_px, height_px
        Size of the frames that it is for, px.
    degree
        Highest total degree, 2 to 7; 1: no displacement.
    coefficients
        (2, k) float64, px, of the displacement along x and y: rms over the frame of the terms
        ``P_(n-q)(u) P_q(v)``, n = 2 to ``degree``, q = 0 to n, with Legendre's polynomials of mean square 1,
        ``u = x / (width / 2)``, ``v = y / (height / 2)``.
    """

    width_px: int
    height_px: int
    degree: int
    coefficients: Reals

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"the field is {self.width_px} x {self.height_px} px; both must be 1 or more")
        if not 1 <= self.degree <= MAX_DEGREE:
            raise ValueError(f"degree = {self.degree} of the field must be 1 to {MAX_DEGREE}")
        given = np.array(self.coefficients, np.float64)
        expected = 2, len(degrees(self.degree))
        if given.shape != expected or not np.isfinite(given).all():
            raise ValueError(f"coefficients must be {expected} finite numbers for degree {self.degree}")
        given.setflags(write=False)
        object.__setattr__(self, "coefficients", given)

    @classmethod
    def identity(cls, width_px: int, height_px: int) -> FieldModel:
        """Return a field without displacement."""
        return cls(width_px, height_px, 1, np.zeros((2, 0)))

    @property
    def largest_px(self) -> float:
        """Largest displacement in the frame, px."""
        return float(np.hypot(*self.displacement_px(self._grid()).T).max())

    def displacement_px(self, points_px: npt.ArrayLike) -> Reals:
        """Return the displacement D, (..., 2) px, at points (..., 2) as (x, y) px from the centre."""
        points = np.asarray(points_px, np.float64)
        if points.shape[-1:] != (2,):
            raise ValueError(f"points must be (..., 2), not {points.shape}")
        half = np.array([self.width_px, self.height_px]) / 2
        found = values((points / half).reshape(-1, 2), self.degree) @ self.coefficients.T
        return found.reshape(points.shape)

    def undistort(self, points_px: npt.ArrayLike) -> Reals:
        """Return ``p + D(p)``: where points of a frame, (..., 2) px, are without distortion."""
        points = np.asarray(points_px, np.float64)
        return points + self.displacement_px(points)

    def inverse(self, points_px: npt.ArrayLike) -> Reals:
        """Return the points of a frame that `undistort` takes to the given ones, (..., 2) px.

        Found by fixed-point iteration, to 1e-6 px.

        Raises
        ------
        ValueError
            It does not converge: the points are far outside the frame, or the displacement changes by more
            than a pixel a pixel.
        """
        wanted = np.asarray(points_px, np.float64)
        points = wanted.copy()
        for _ in range(_ROUNDS):
            after = wanted - self.displacement_px(points)
            step = float(np.abs(after - points).max(initial=0.0))
            points = after
            if step < _TOLERANCE_PX:
                return points
            if not step < 1e6:
                break
        raise ValueError(
            "the field cannot be inverted at the points given: they are too far outside the frame of "
            f"{self.width_px} x {self.height_px} px, or its displacement is too steep"
        )

    def to_json(self) -> str:
        """Return the model as JSON text."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the model as plain numbers and lists."""
        return {
            "width_px": self.width_px,
            "height_px": self.height_px,
            "degree": self.degree,
            "terms": "legendre",
            "coefficients_px": self.coefficients.tolist(),
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> FieldModel:
        """Return the model that `to_dict` wrote.

        Raises
        ------
        ValueError
            Something is missing or wrong.
        """
        if saved.get("terms") != "legendre":
            raise ValueError(f"this is not a field model of Legendre terms: terms = {saved.get('terms')!r}")
        try:
            width, height, degree = (int(saved[name]) for name in ("width_px", "height_px", "degree"))
            coefficients = np.array(saved["coefficients_px"], np.float64).reshape(2, -1)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not a field model: {error!r}") from error
        return cls(width, height, degree, coefficients)

    @classmethod
    def from_json(cls, text: str) -> FieldModel:
        """Return the model that `to_json` wrote.

        Raises
        ------
        ValueError
            The text is not one.
        """
        saved = json.loads(text)
        if not isinstance(saved, dict):
            raise ValueError("this is not a field model: the JSON text is no object")
        return cls.from_dict(saved)

    def _grid(self) -> Reals:
        x = np.linspace(-0.5, 0.5, _GRID) * (self.width_px - 1)
        y = np.linspace(-0.5, 0.5, _GRID) * (self.height_px - 1)
        return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class FieldChange:
    """How far two models differ over the frame, px, apart from an affine part: rms and largest."""

    rms_px: float
    largest_px: float


def field_change(before: FieldModel, after: FieldModel) -> FieldChange:
    """Return how far two models differ over the frame.

    The affine part of the difference (a shift, a rotation, a scale) belongs to tiles and stage: left out.

    Raises
    ------
    ValueError
        They are for frames of different size.
    """
    if (before.width_px, before.height_px) != (after.width_px, after.height_px):
        raise ValueError(
            f"the fields are for frames of {before.width_px} x {before.height_px} and "
            f"{after.width_px} x {after.height_px} px; only those of one size can be compared"
        )
    grid = before._grid()
    difference = after.displacement_px(grid) - before.displacement_px(grid)
    affine = np.column_stack([np.ones(len(grid)), grid / max(before.width_px, before.height_px)])
    difference -= affine @ np.linalg.lstsq(affine, difference, rcond=None)[0]
    lengths = np.hypot(*difference.T)
    return FieldChange(math.sqrt(float(np.mean(lengths**2))), float(lengths.max()))


@dataclass(frozen=True, slots=True, eq=False)
class FieldFit:
    """A field and the places of the tiles, from matches of blocks in their overlaps.

    Attributes
    ----------
    model
        The shared field.
    matrices, positions_px
        (n, 2, 2) and (n, 2) float64: matrix and place of each tile's centre in the mosaic, px.
    residuals_px
        (m,) float64: distance left between both ends of each match, in the order of ``pairs``, px.
    holdout_median_px, holdout_p95_px
        Of the distances of matches that a fit did not use (five folds; the first alone of more than 5000
        matches), px; NaN with fewer than 10 matches.
    matches
        Number of matches.
    """

    model: FieldModel
    matrices: Reals
    positions_px: Reals
    residuals_px: Reals
    holdout_median_px: float
    holdout_p95_px: float
    matches: int


def fit_field(
    pairs: Sequence[tuple[int, int, BlockMatches]],
    nominal_px: Reals,
    size_px: tuple[int, int],
    *,
    degree: int = 7,
    affine: bool = True,
    field: FieldModel | None = None,
    holdout: bool = True,
) -> FieldFit:
    """Fit the field that all tiles share, with a place and a matrix for each, to matches of blocks.

    Robust (iteratively reweighted least squares with Cauchy's weights whose scale follows the residuals). The
    matrices are tied to the identity as if they were known to half a percent or what they vary by, if less,
    and the coefficients to 0 to two percent of half the frame, so that what the overlaps do not tell does not
    run away; the places of tiles are tied weakly to the nominal ones. Where there are few matches for the
    parameters, simpler models (lower degree, no matrices) compete by their error on matches held out.

    Parameters
    ----------
    pairs
        First and second tile and the matches of their blocks.
    nominal_px
        (n, 2): the places to begin with, as from `processing.kernels.placement.place`, px. A tile without
        match stays there.
    size_px
        Width and height of the tiles, px.
    degree
        Highest degree of the field, 2 to 7; 1: none.
    affine
        Whether each tile has a matrix of its own.
    field
        A known field: only places and matrices are fitted.
    holdout
        Whether to find the error on matches held out: costs about as much as the fit.

    Raises
    ------
    ValueError
        An argument has the wrong shape or range, or a tile's index is outside the nominal places.
    """
    nominal = np.asarray(nominal_px, np.float64)
    if nominal.ndim != 2 or nominal.shape[1] != 2 or not np.isfinite(nominal).all():
        raise ValueError(f"nominal_px must be (n, 2) finite numbers, not {nominal.shape}")
    if not 1 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree = {degree} must be 1 to {MAX_DEGREE}")
    width, height = size_px
    if field is not None and (field.width_px, field.height_px) != (width, height):
        raise ValueError(
            f"the field given is for frames of {field.width_px} x {field.height_px} px, the tiles have "
            f"{width} x {height}; give that of this camera and binning"
        )
    matches = _matches(pairs, len(nominal), (width, height), field)
    fitted = choose_and_fit(
        matches, nominal, degree=1 if field is not None else degree, affine=affine, holdout=holdout
    )
    model = field or FieldModel(width, height, fitted.degree, fitted.coefficients)
    return _as_fit(model, fitted, len(matches.first))


def _matches(
    pairs: Sequence[tuple[int, int, BlockMatches]],
    tiles: int,
    size_px: tuple[int, int],
    field: FieldModel | None,
) -> Matches:
    """Return all matches in one table, points undistorted where the field is known."""
    for first, second, _ in pairs:
        if not (0 <= first < tiles and 0 <= second < tiles and first != second):
            raise ValueError(f"a pair of tiles {first} and {second} of {tiles}: they must differ and exist")
    counts = [len(blocks.first_px) for _, _, blocks in pairs]
    ends = [np.concatenate([np.zeros((0, 2)), *(getattr(b, name) for _, _, b in pairs)]) for name in _ENDS]
    if field is not None:
        ends = [field.undistort(points) for points in ends]
    return Matches(
        np.repeat([first for first, _, _ in pairs], counts).astype(np.intp),
        np.repeat([second for _, second, _ in pairs], counts).astype(np.intp),
        ends[0],
        ends[1],
        np.array(size_px, np.float64) / 2,
    )


_ENDS: Final = ("first_px", "second_px")


def _as_fit(model: FieldModel, fitted: Fitted, matches: int) -> FieldFit:
    held = fitted.holdout_px
    median, p95 = np.percentile(held, [50, 95]) if len(held) else (math.nan, math.nan)
    return FieldFit(
        model, fitted.matrices, fitted.positions_px, fitted.residuals_px, float(median), float(p95), matches
    )
