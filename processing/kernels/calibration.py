"""Fits of calibrations: displacements of patches, radial distortion, matrices along tracks, straight lines.

A frame's pixels are counted from its middle, x along a line, y down the lines. What the optics does to an
ideal image is undone by ``ideal = u + radial u |u|^2 + spiral (u |u|^2 turned by 90 deg)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.shift import MIN_SIDE_PX, measure_shift

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Groups = npt.NDArray[np.intp]

_COARSE_PX: Final = 512
_CUT: Final = 6.0
"""Residuals over so many robust standard deviations are outliers; the median of two components is 1.177."""
_ROUNDS: Final = 20


@dataclass(frozen=True, slots=True)
class PatchShifts:
    """How patches of an image lie against a reference: where and how far (n, 2) px, one sigma (n,) px."""

    at_px: Reals
    shift_px: Reals
    error_px: Reals


def patch_shifts(reference: Image, image: Image, *, per_side: int = 4) -> PatchShifts:
    """Return the displacements of square patches all over what two images share.

    Parameters
    ----------
    reference, image
        (y, x), counts, of one shape; at least 128 px a side, or the whole is one patch.
    per_side
        Patches along the shorter side of the frame.

    Returns
    -------
    PatchShifts
        Those that were found; none where the images share nothing.
    """
    coarse = _coarse_shift(reference, image)
    height, width = reference.shape
    if coarse is None:
        return _gathered([])
    side = max(min(height, width) // per_side, MIN_SIDE_PX)
    dx, dy = round(coarse[0]), round(coarse[1])
    found = []
    for y in _starts(height, dy, side):
        for x in _starts(width, dx, side):
            ours = reference[y : y + side, x : x + side]
            theirs = image[y + dy : y + dy + side, x + dx : x + dx + side]
            fine = measure_shift(ours, theirs, max_shift_px=side / 4)
            if math.isfinite(fine.error_px):
                at = x + (side - width) / 2, y + (side - height) / 2
                found.append((*at, dx + fine.dx_px, dy + fine.dy_px, fine.error_px))
    return _gathered(found)


def _coarse_shift(reference: Image, image: Image) -> tuple[float, float] | None:
    """Return the displacement of the whole image, px, measured on one of at most `_COARSE_PX`."""
    step = max(1, -(-min(image.shape) // _COARSE_PX))
    found = measure_shift(_binned(reference, step), _binned(image, step))
    return (found.dx_px * step, found.dy_px * step) if math.isfinite(found.error_px) else None


def _binned(image: Image, step: int) -> Image:
    if step == 1:
        return image
    height, width = (length // step for length in image.shape)
    blocks = image[: height * step, : width * step].reshape(height, step, width, step)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _starts(length: int, shift: int, side: int) -> list[int]:
    """Return where patches begin so that they and their images lie inside."""
    first, last = max(0, -shift), min(length, length - shift) - side
    if last < first:
        return []
    count = 1 + (last - first) // side
    return np.linspace(first, last, count).astype(int).tolist() if count > 1 else [(first + last) // 2]


def _gathered(found: Sequence[tuple[float, ...]]) -> PatchShifts:
    table = np.array(found, float).reshape(-1, 5)
    return PatchShifts(table[:, :2], table[:, 2:4], table[:, 4])


@dataclass(frozen=True, slots=True)
class DistortionFit:
    """Distortion of the field, and the displacements of pairs of images without it.

    ``radial`` and ``spiral`` are relative at ``radius_px`` from the middle; ``ideal_px`` (pair, 2) the
    displacement of each pair free of distortion, NaN where its patches disagree; ``rms_px`` what is left of
    each patch, and ``rms_before_px`` what was left of it with no distortion taken out.
    """

    radial: float
    spiral: float
    radius_px: float
    radial_error: float
    ideal_px: Reals
    rms_px: float
    rms_before_px: float


def fit_distortion(pairs: Sequence[PatchShifts], radius_px: float) -> DistortionFit:
    """Return the distortion that explains why patches of one pair of images moved by different lengths.

    Needs no stage: free of distortion all patches of a pair move alike.

    Parameters
    ----------
    pairs
        Displacements of patches, at least one a pair.
    radius_px
        Where the distortion is expressed: half the sensor's width.

    Raises
    ------
    ValueError
        A pair has no patch.
    """
    if not pairs or min(len(pair.at_px) for pair in pairs) == 0:
        raise ValueError("a pair of images without a patch says nothing; leave it out")
    group = np.repeat(np.arange(len(pairs)), [len(pair.at_px) for pair in pairs])
    at = np.concatenate([pair.at_px for pair in pairs])
    shift = np.concatenate([pair.shift_px for pair in pairs])
    bent = (_cubic(at + shift) - _cubic(at)) / radius_px**2
    turned = np.stack([-bent[:, 1], bent[:, 0]], axis=1)
    terms = np.stack([bent, turned], axis=2)
    factors, covariance, used = _solve_common(terms, shift, group)
    left = shift + terms @ factors
    ideal = np.full((len(pairs), 2), math.nan)
    for pair in np.unique(group[used]):
        ideal[pair] = left[used & (group == pair)].mean(axis=0)
    return DistortionFit(
        float(factors[0]),
        float(factors[1]),
        radius_px,
        float(math.sqrt(covariance[0, 0])),
        ideal,
        _rms(_within_groups(left, group, used)[used]),
        _rms(_within_groups(shift, group, used)[used]),
    )


def _cubic(points: Reals) -> Reals:
    return np.asarray(points * np.sum(points**2, axis=1, keepdims=True))


def _solve_common(terms: Reals, shift: Reals, group: Groups) -> tuple[Reals, Reals, Flags]:
    """Return the factors with ``shift + terms @ factors`` alike within groups, without outliers."""
    used = np.ones(len(shift), bool)
    factors: Reals = np.zeros(2)
    covariance: Reals = np.zeros((2, 2))
    for _ in range(_ROUNDS):
        design = _within_groups(terms, group, used)[used].reshape(-1, 2)
        target = -_within_groups(shift, group, used)[used].ravel()
        normal = design.T @ design
        if np.linalg.matrix_rank(normal) == 2:
            factors = np.asarray(np.linalg.solve(normal, design.T @ target), float)
            spread = float(np.mean((target - design @ factors) ** 2))
            covariance = np.asarray(spread * np.linalg.inv(normal), float)
        keep = _agreeing(shift + terms @ factors, group)
        if (keep == used).all():
            break
        used = keep
    return factors, covariance, used


def _within_groups(values: Reals, group: Groups, used: Flags) -> Reals:
    """Return values less the mean of those of their group that are used."""
    out = values.copy()
    for one in np.unique(group):
        inside = group == one
        kept = inside & used
        out[inside] -= values[kept if kept.any() else inside].mean(axis=0)
    return out


def _agreeing(values: Reals, group: Groups, *, each: bool = False) -> Flags:
    """Return which values (n, 2) are near the median of their group, and whose group mostly is.

    ``each`` judges a group whose values are more spread than others' by its own spread.
    """
    away = np.empty(len(values))
    own = np.zeros(len(values))
    for one in np.unique(group):
        inside = group == one
        away[inside] = np.linalg.norm(values[inside] - np.median(values[inside], axis=0), axis=1)
        own[inside] = np.median(away[inside]) if each else 0.0
    alone = np.bincount(group)[group] == 1
    common = float(np.median(away[~alone])) if not alone.all() else 0.0
    near = away <= _CUT / 1.177 * np.maximum(own, max(common, 1e-9))
    share = np.bincount(group, near) / np.maximum(np.bincount(group), 1)
    return np.asarray(near & (share[group] >= 0.5))


def _rms(values: Reals) -> float:
    return float(np.sqrt(np.mean(np.sum(values**2, axis=-1)))) if len(values) else math.nan


@dataclass(frozen=True, slots=True)
class MatrixFit:
    """``y = matrix @ x + offset of the group``, fitted without outliers.

    ``error`` is one standard deviation of the matrix's elements, ``residual`` (n, 2) in the unit of y,
    ``used`` which points were kept, ``rms`` and ``largest`` of their residuals.
    """

    matrix: Reals
    error: Reals
    residual: Reals
    used: Flags
    rms: float
    largest: float


def fit_matrix(x: Reals, y: Reals, group: Groups) -> MatrixFit:
    """Return the matrix between two sets of points (n, 2) that agree up to a displacement of each group.

    Raises
    ------
    ValueError
        The points do not span a plane within their groups.
    """
    used = np.ones(len(x), bool)
    for _ in range(_ROUNDS):
        a, b = _within_groups(x, group, used), _within_groups(y, group, used)
        normal = a[used].T @ a[used]
        if used.sum() < 4 or np.linalg.cond(normal) > 1e8:
            raise ValueError(f"{int(used.sum())} points along one line tell no matrix; take more directions")
        matrix: Reals = np.asarray(np.linalg.solve(normal, a[used].T @ b[used]).T, float)
        residual = b - a @ matrix.T
        keep = _agreeing(y - x @ matrix.T, group, each=True)
        if (keep == used).all():
            break
        used = keep
    spread = np.mean(residual[used] ** 2, axis=0)
    error: Reals = np.sqrt(np.outer(spread, np.diag(np.linalg.inv(normal))))
    length = np.linalg.norm(residual[used], axis=1)
    return MatrixFit(matrix, error, residual, used, _rms(residual[used]), float(length.max()))


@dataclass(frozen=True, slots=True)
class LineFit:
    """``y = offset + slope x``; ``nonlinearity`` is the largest residual over the span of y."""

    offset: float
    slope: float
    nonlinearity: float


def fit_line(x: npt.ArrayLike, y: npt.ArrayLike) -> LineFit:
    """Return the straight line through points, by least squares.

    Raises
    ------
    ValueError
        There are fewer than three points, or they have one x.
    """
    along, up = np.asarray(x, float), np.asarray(y, float)
    if len(along) < 3 or np.ptp(along) == 0:
        raise ValueError("a line and its residual need three points at different x")
    slope, offset = np.polyfit(along, up, 1)
    left = up - offset - slope * along
    span = float(np.ptp(up))
    return LineFit(float(offset), float(slope), float(np.abs(left).max()) / span if span else math.inf)


def rotation_and_scale(matrix: npt.ArrayLike) -> tuple[float, float, float]:
    """Return the rotation (deg), the scale and the shear (deg) of a 2 x 2 matrix.

    The scale is the root of the determinant's size, the rotation that of the closest rotation, the shear how
    far the images of both axes are from a right angle. A mirroring matrix is turned about the x axis first.
    """
    m = np.asarray(matrix, float)
    if np.linalg.det(m) < 0:
        m = m @ np.diag([1.0, -1.0])
    scale = math.sqrt(float(np.linalg.det(m)))
    rotation = math.degrees(math.atan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1]))
    between = math.degrees(math.atan2(m[1, 1], m[0, 1]) - math.atan2(m[1, 0], m[0, 0]))
    return rotation, scale, (between + 180.0) % 360.0 - 180.0 - 90.0
