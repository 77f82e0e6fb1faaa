"""Brightness of tiles matched over their overlaps, so that seams do not show and the montage does not drift.

Two tiles see the same specimen in their overlap, so ``log gain_i - log gain_j = log(level_j / level_i)``: one
equation an overlap, solved by least squares for all tiles together. Overlaps that do not fit (charging, dirt
on one of the two) lose their weight by Cauchy's function (Holland and Welsch, doi:10.1080/03610927708827533).
A prior that every gain is near 1 fixes the scale, leaves tiles without overlap alone, and keeps small errors
from adding up along a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu

from processing.kernels.render import Patch

_ROUNDS: Final = 20
_CAUCHY: Final = 2.385
"""Residual, in sigmas, whose weight is one half: 95 % efficient for normal errors."""
_SETTLED: Final = 1e-7
_SAMPLES: Final = 1 << 16

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OverlapLevels:
    """What two tiles show of the same area.

    Attributes
    ----------
    first, second
        Indices of the tiles.
    first_levels, second_levels
        Levels of the area in each, counts, above 0: a mean, or several (quantiles), the same number in both.
    sigma
        Relative error of a level's ratio, above 0.
    """

    first: int
    second: int
    first_levels: tuple[float, ...]
    second_levels: tuple[float, ...]
    sigma: float = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class Gains:
    """Gain and offset of every tile: ``matched = gain * counts + offset``.

    Attributes
    ----------
    gains
        (n,) float64, about 1.
    offsets
        (n,) float64, counts; zeros unless they were fitted.
    residuals
        (m,) float64: relative difference of the levels left in each overlap, rms over its levels.
    rejected
        (m,) bool: overlaps that fit so badly that they hardly counted (weight below 0.1).
    """

    gains: Floats
    offsets: Floats
    residuals: Floats
    rejected: npt.NDArray[np.bool_]


def gains(
    tiles: int,
    overlaps: Sequence[OverlapLevels],
    *,
    prior_sigma: float = 0.2,
    offset_sigma: float | None = None,
) -> Gains:
    """Return gain and offset of every tile.

    Parameters
    ----------
    tiles
        How many there are.
    overlaps
        Levels of their overlaps.
    prior_sigma
        How far gains are expected to be from 1, above 0.
    offset_sigma
        How far offsets are expected to be from 0, as a share of the mean level; None: there are none. They
        need overlaps with two levels or more.

    Raises
    ------
    ValueError
        A level is not above 0 or not finite, an index is outside, or a sigma is not above 0.
    """
    _check(tiles, overlaps, prior_sigma, offset_sigma)
    rows = [
        (edge, one.first, one.second, a, b, one.sigma)
        for edge, one in enumerate(overlaps)
        for a, b in zip(one.first_levels, one.second_levels, strict=True)
    ]
    table = np.array(rows, np.float64).reshape(-1, 6)
    edge, first, second = (table[:, k].astype(np.intp) for k in range(3))
    a, b, sigma = table[:, 3], table[:, 4], table[:, 5]
    scale = float(np.mean(np.concatenate([a, b]))) if len(a) else 1.0
    at = np.arange(len(a))
    if offset_sigma is None:
        design = _sparse([at, at], [first, second], [1 / sigma, -1 / sigma], (len(a), tiles))
        target = np.log(b / a) / sigma
        prior = np.full(tiles, 1 / prior_sigma**2)
    else:
        weight = 2 / ((a + b) * sigma)
        design = _sparse(
            [at, at, at, at],
            [first, second, first + tiles, second + tiles],
            [a * weight, -b * weight, scale * weight, -scale * weight],
            (len(a), 2 * tiles),
        )
        target = (b - a) * weight
        prior = np.repeat([1 / prior_sigma**2, 1 / offset_sigma**2], tiles)
    solution, residuals, weights = _robust(design, target, prior)
    squares = np.bincount(edge, (residuals * sigma) ** 2, len(overlaps))
    count = np.maximum(1, np.bincount(edge, minlength=len(overlaps)))
    kept = np.bincount(edge, weights, len(overlaps)) / count
    if offset_sigma is None:
        found, offsets = np.exp(solution), np.zeros(tiles)
    else:
        found, offsets = 1 + solution[:tiles], scale * solution[tiles:]
    return Gains(found, offsets, np.sqrt(squares / count), kept < 0.1)


def overlap_levels(
    first: Patch, second: Patch, quantiles: Sequence[float] = ()
) -> tuple[Floats, Floats] | None:
    """Return levels of two drawn tiles where both have data, None where that is under 64 pixels.

    The mean, or quantiles (0 to 1) of each: of up to about 65,000 pixels, evenly spread.
    """
    area = first.area & second.area
    if not area:
        return None
    step = max(1, int(((area.x1 - area.x0) * (area.y1 - area.y0) / _SAMPLES) ** 0.5))
    parts = []
    for patch in (first, second):
        x, y = patch.origin_px
        window = slice(area.y0 - y, area.y1 - y, step), slice(area.x0 - x, area.x1 - x, step)
        parts.append((patch.pixels[window], patch.weight[window] > 0))
    both = parts[0][1] & parts[1][1]
    if both.sum() < 64:
        return None
    values = [pixels[both].astype(np.float64) for pixels, _ in parts]
    if quantiles:
        return np.quantile(values[0], quantiles), np.quantile(values[1], quantiles)
    return np.array([values[0].mean()]), np.array([values[1].mean()])


def _check(
    tiles: int, overlaps: Sequence[OverlapLevels], prior_sigma: float, offset_sigma: float | None
) -> None:
    if not prior_sigma > 0 or (offset_sigma is not None and not offset_sigma > 0):
        raise ValueError(f"prior_sigma = {prior_sigma} and offset_sigma = {offset_sigma} must be above 0")
    for one in overlaps:
        if not (0 <= one.first < tiles and 0 <= one.second < tiles) or one.first == one.second:
            raise ValueError(
                f"overlap of tiles {one.first} and {one.second}: there are {tiles} tiles from 0 on"
            )
        if len(one.first_levels) != len(one.second_levels):
            raise ValueError(
                f"overlap of tiles {one.first} and {one.second}: {len(one.first_levels)} levels in the first "
                f"and {len(one.second_levels)} in the second"
            )
        levels = np.array([*one.first_levels, *one.second_levels, one.sigma])
        if not np.isfinite(levels).all() or (levels <= 0).any():
            raise ValueError(
                f"overlap of tiles {one.first} and {one.second}: levels {one.first_levels}, "
                f"{one.second_levels} and sigma {one.sigma} must be above 0"
            )


def _sparse(
    rows: list[npt.NDArray[np.intp]],
    columns: list[npt.NDArray[np.intp]],
    values: list[Floats],
    shape: tuple[int, int],
) -> csc_array:
    return csc_array(
        coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    )


def _robust(design: csc_array, target: Floats, prior: Floats) -> tuple[Floats, Floats, Floats]:
    """Return solution, residuals in sigmas, and the weights left, of least squares with a prior of 0."""
    weights = np.ones(len(target))
    solution = np.zeros(len(prior))
    spread = 1.0
    for _ in range(_ROUNDS):
        weighted = design.multiply(weights[:, None]) if len(target) else design
        normal = csc_array(weighted.T @ design)
        normal.setdiag(normal.diagonal() + prior)
        fresh = splu(csc_array(normal)).solve(np.asarray(weighted.T @ target).reshape(-1))
        residuals = target - np.asarray(design @ fresh).reshape(-1)
        if len(target):
            # levels differ by more than their stated error where tiles are not lit alike: that is no outlier
            spread = max(1.0, 1.4826 * float(np.median(np.abs(residuals))))
        weights = 1 / (1 + (residuals / (_CAUCHY * spread)) ** 2)
        if float(np.abs(fresh - solution).max(initial=0.0)) < _SETTLED:
            break
        solution = fresh
    return fresh, residuals, weights
