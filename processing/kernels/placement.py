"""Where tiles lie, from how pairs of them lie to each other and where the stage says they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels._placement_groups import doubts, merged, too_weak
from processing.kernels._placement_loops import close, few_loops
from processing.kernels._placement_solve import Flags, Indices, Links, Reals, Robust, components, fit_stage
from processing.kernels.prediction import Prediction, Predictor

__all__ = ["Edge", "Placement", "Prediction", "Predictor", "place"]

_LEAST_NCC: Final = 0.05
_FLOOR_PX: Final = 0.02


@dataclass(frozen=True, slots=True)
class Edge:
    """How two tiles lie to each other, measured.

    Attributes
    ----------
    first, second
        Indices of the tiles.
    dx_px, dy_px
        Centre of the second minus that of the first, px.
    covariance_px2
        xx, xy, yy of that, px^2.
    ncc
        Correlation coefficient of the overlap, above 0 to 1.
    z
        Height of the peak in standard deviations, above 0; NaN: not known.
    """

    first: int
    second: int
    dx_px: float
    dy_px: float
    covariance_px2: tuple[float, float, float]
    ncc: float
    z: float = math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Places of tiles.

    Attributes
    ----------
    positions_px
        (n, 2) float64: the centres, as (x, y) px.
    matched
        (n,) bool: whether an edge tells the place; if not, the stage does.
    reasons
        For each tile: empty, or why it is not matched or what is doubtful about it.
    residuals_px
        (m,): distance between each edge and the solution, px.
    weights
        (m,): 0 to 1, how far each edge is trusted.
    rejected
        (m,) bool: edges that contradict the others, and do not count.
    component
        (n,) int: which tiles hang together by edges, numbered by their first tile.
    stage_sigma_px
        Error of the stage between neighbours, a coordinate, apart from the affine part, px.
    stage_affine
        (2, 3): takes nominal to mosaic coordinates in the mean.
    """

    positions_px: Reals
    matched: Flags
    reasons: tuple[str, ...]
    residuals_px: Reals
    weights: Reals
    rejected: Flags
    component: npt.NDArray[np.intp]
    stage_sigma_px: float
    stage_affine: Reals


def place(
    nominal_px: npt.ArrayLike,
    edges: Sequence[Edge],
    *,
    stage_sigma_px: float | None = None,
    start: Placement | None = None,
) -> Placement:
    """Return the places of tiles.

    Weighted least squares over all edges, whose weights follow from covariance and correlation, with the
    stage as a weak prior; edges that contradict the others, or the stage where nothing else tells, are left
    out. A rotation, a scale and a shear common to the whole stage are taken out of the nominal places first,
    as far as the edges tell them. Tiles without an edge stay where the stage, so corrected, says, and groups
    of tiles that hang together stay there in the mean.

    Parameters
    ----------
    nominal_px
        (n, 2): where the stage says the centres are, px.
    edges
        The pairs that were matched.
    stage_sigma_px
        Error of the stage between neighbours, a coordinate, px; None: from the edges.
    start
        An earlier placement of the first of these tiles by the first of these edges: quicker where the new
        edges contradict nothing.

    Raises
    ------
    ValueError
        Something is not finite, or an edge names a tile that is not there.
    """
    nominal = np.asarray(nominal_px, np.float64)
    if nominal.ndim != 2 or nominal.shape[1] != 2 or not len(nominal):
        raise ValueError(f"nominal_px must be (n, 2) with at least one tile, not {nominal.shape}")
    if not np.isfinite(nominal).all():
        bad = np.flatnonzero(~np.isfinite(nominal).all(1))[:5]
        raise ValueError(f"nominal_px of tiles {bad.tolist()} is not finite; give the place of every tile")
    if stage_sigma_px is not None and not stage_sigma_px > 0:
        raise ValueError(f"stage_sigma_px = {stage_sigma_px} must be above 0")
    links = _links(edges, len(nominal))
    everything = np.ones(len(links), np.bool_)
    robust = Robust(links, nominal, fit_stage(nominal, links, everything, stage_sigma_px))
    if len(links):
        return _solved(robust, start, stage_sigma_px)
    return _placement(robust, robust.stage_places(), np.zeros(0), everything, {})


def _solved(robust: Robust, start: Placement | None, sigma_px: float | None) -> Placement:
    links = robust.links
    if few_loops(robust):
        return _of_few_loops(robust, sigma_px)
    if start is not None and len(start.rejected) <= len(links):
        good = np.ones(len(links), np.bool_)
        good[: len(start.rejected)] = ~start.rejected
        found = robust.finish(robust.at(good.astype(np.float64), links.variance, exact=False), good)
        if (found[2] == good).all():
            return _placement(robust, *found, doubts(robust, found[0], found[2]))
    positions, good = robust.search()
    robust.stage = fit_stage(robust.nominal, links, good, sigma_px)
    found = robust.finish(positions, good)
    positions, joined = merged(robust, found[0], found[2])
    if not (joined == found[2]).all():
        found = robust.finish(positions, joined)
    return _placement(robust, *found, doubts(robust, found[0], found[2]))


def _of_few_loops(robust: Robust, sigma_px: float | None) -> Placement:
    """Place tiles whose edges make few loops or none: each edge has its say before the stage."""
    links = robust.links
    robust.barred = too_weak(robust, ~robust.barred)
    closed = close(robust)
    robust.barred = ~closed.good
    robust.stage = fit_stage(robust.nominal, links, closed.good, sigma_px)
    found = robust.finish(closed.positions, closed.good)
    return _placement(robust, *found, doubts(robust, found[0], found[2]) | closed.doubts)


def _links(edges: Sequence[Edge], tiles: int) -> Links:
    """Return the edges as arrays.

    Of a covariance less than (0.02 px)^2 no more is believed: interpolation is no better.
    """
    table = np.array(
        [
            (e.first, e.second, e.dx_px, e.dy_px, e.covariance_px2[0], e.covariance_px2[2], e.ncc, e.z)
            for e in edges
        ],
        np.float64,
    ).reshape(-1, 8)
    for k in np.flatnonzero(~np.isfinite(table[:, :7]).all(1))[:1]:
        row = table[k, :7]
        raise ValueError(
            f"edge {k} between tiles {row[0]:.0f} and {row[1]:.0f} is not finite: {row.tolist()}"
        )
    first, second = table[:, 0].astype(np.intp), table[:, 1].astype(np.intp)
    wrong = (first < 0) | (second < 0) | (first >= tiles) | (second >= tiles) | (first == second)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(
            f"edge {k} joins tiles {first[k]} and {second[k]} of {tiles}; they must differ and exist"
        )
    ncc = np.clip(table[:, 6], _LEAST_NCC, 1.0)
    variance = (np.maximum(table[:, 4:6], 0.0) + _FLOOR_PX**2) / ncc[:, None]
    trust = np.minimum(1.0, (ncc / np.median(ncc)) ** 2) if len(ncc) else ncc
    known = np.isfinite(table[:, 7])
    if known.any():
        z = np.where(known, table[:, 7], np.median(table[known, 7]))
        trust = trust * np.clip(z / np.median(z), 0.01, 1.0)
    return Links(first, second, table[:, 2:4], variance, trust)


def _placement(
    robust: Robust, positions: Reals, weights: Reals, good: Flags, doubtful: dict[int, str]
) -> Placement:
    links, tiles = robust.links, len(positions)
    matrix = robust.stage.matrix
    affine = np.column_stack([matrix, robust.stage_places()[0] - matrix @ robust.nominal[0]])
    _, component = components(links, good, tiles)
    degree = _degree(links, good, tiles)
    return Placement(
        positions,
        degree > 0,
        _reasons(degree, _degree(links, ~good, tiles), component, doubtful),
        np.hypot(*robust.left(positions).T),
        weights,
        ~good,
        component,
        robust.stage.sigma_px,
        affine,
    )


def _degree(links: Links, used: Flags, tiles: int) -> npt.NDArray[np.intp]:
    return np.bincount(links.first[used], minlength=tiles) + np.bincount(links.second[used], minlength=tiles)


def _reasons(
    kept: Indices, dropped: Indices, component: Indices, doubtful: dict[int, str]
) -> tuple[str, ...]:
    """Say of each tile why it is not matched, or what is doubtful."""
    sizes = np.bincount(component)
    main = int(np.argmax(sizes))
    reasons = [""] * len(kept)
    for i in np.flatnonzero((component != main) | (dropped >= np.maximum(kept, 1)) | (kept == 0)):
        if not kept[i] and dropped[i]:
            reasons[i] = f"prior-only: all {dropped[i]} matches contradict the other tiles or the stage"
        elif not kept[i]:
            reasons[i] = "prior-only: no neighbour matched"
        elif dropped[i] and dropped[i] >= kept[i]:
            reasons[i] = f"doubtful: {dropped[i]} of {dropped[i] + kept[i]} matches contradict the others"
        else:
            reasons[i] = (
                f"island: {sizes[component[i]]} tiles that no match joins to the others; "
                "the stage places them as a whole"
            )
    for tile, text in doubtful.items():
        reasons[tile] = f"{reasons[tile]}; {text}" if reasons[tile] else text
    return tuple(reasons)
