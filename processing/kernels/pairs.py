"""How two overlapping tiles lie to each other: measured, with its error, or refused with a reason.

A search on binned strips finds the place to about a pixel (`processing.kernels.correlation`), Gauss-Newton at
full resolution the fraction (`processing.kernels.subpixel`). Offsets are from the centre of the first tile to
that of the second, ((width - 1) / 2, (height - 1) / 2) each, x right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.correlation import Peak, Search
from processing.kernels.strips import (
    MIN_OVERLAP_PX,
    band,
    binned,
    check_tiles,
    clipped,
    coarse_step,
    fault,
    filled,
    possible_overlap,
    shared,
)
from processing.kernels.subpixel import UNSETTLED, Refined, refine

Image = npt.NDArray[np.number[Any]]
Floats = npt.NDArray[np.float32]
Pair = tuple[float, float]
_SIGMAS_PX: Final = (1.0, 1.2, 1.45, 1.75, 2.1, 2.5, 3.0, 3.6, 4.3, 5.2, 6.2, 7.4)
"""Gaussians that noise may ask for, full resolution."""
_WIDER: Final = (1.0, 2.0, 4.0)
"""How much blurrier to look where the fraction does not settle: a field may bend by more than a structure."""
_MOST_FINE_PX: Final = 1 << 20
"""Overlap from where on pixels are binned by 2: the fraction is known far better than it matters."""
_NEAR_PX: Final = 2.0
"""Shift up to which the overlap was cut well enough."""
_FLOOR_PX2: Final = 0.002**2
"""Variance of what the interpolation itself gets wrong."""


@dataclass(frozen=True, slots=True)
class PairOptions:
    """How pairs are searched and judged.

    Attributes
    ----------
    search_px
        How far from the prediction to look on each axis, where the call does not say.
    min_ncc
        Least normalised correlation of the overlap, 0 to 1.
    min_z
        Least height of the peak, in standard deviations of the correlation in the window; None: what chance
        reaches at ``false_rate`` in a window of this size (extreme value of Gaussian noise).
    false_rate
        Wrong peaks a search that would be taken for right by height alone.
    candidates
        How many of the highest peaks are compared on the overlap itself.
    most_blocks
        Blocks of an accepted pair that are looked for, about (`processing.kernels.blocks`); None: all that
        there is room for.
    """

    search_px: float = 64.0
    min_ncc: float = 0.13
    min_z: float | None = None
    false_rate: float = 1e-6
    candidates: int = 4
    most_blocks: int | None = None


@dataclass(frozen=True, slots=True)
class PairMatch:
    """How the second tile of a pair lies to the first.

    Attributes
    ----------
    dx_px, dy_px
        Centre of the second less centre of the first; where not accepted, the prediction.
    covariance_px2
        Of the two: xx, xy, yy; infinite where not accepted.
    ncc
        Normalised correlation of the overlap, -1 to 1.
    z
        Height of the peak over the correlation in the search window, in its standard deviations.
    overlap_px
        Width and height of what both show.
    accepted
        Whether the offset is measured.
    reason
        Why not, in words; empty where accepted.
    """

    dx_px: float
    dy_px: float
    covariance_px2: tuple[float, float, float]
    ncc: float
    z: float
    overlap_px: tuple[int, int]
    accepted: bool
    reason: str


def match_pair(
    first: Image,
    second: Image,
    predicted_px: Pair,
    search_px: Pair | None = None,
    options: PairOptions = PairOptions(),
) -> PairMatch:
    """Return how the second tile lies to the first.

    Parameters
    ----------
    first, second
        (y, x) uint8, uint16 or float32 (not-a-number: no data there), of any two sizes.
    predicted_px
        Expected offset (x, y).
    search_px
        How far from it to look, (x, y); None: ``options.search_px`` on both axes.
    options
        How to search and to judge.

    Raises
    ------
    TypeError
        A tile is not an array of two dimensions of these types. Whatever else is wrong is a reason.
    """
    check_tiles(first, second)
    search_px = search_px or (options.search_px, options.search_px)
    nowhere = PairMatch(
        float(predicted_px[0]), float(predicted_px[1]), (math.inf, 0.0, math.inf), 0.0, 0.0, (0, 0), False, ""
    )
    if not all(map(math.isfinite, (*predicted_px, *search_px))) or min(search_px) < 0:
        return _refused(nowhere, f"the prediction {predicted_px} +- {search_px} px is no place")
    return _Pair(first, second, nowhere, search_px, options).matched()


def _refused(match: PairMatch, reason: str) -> PairMatch:
    return replace(match, reason=reason)


class _Pair:
    """One pair while it is matched."""

    def __init__(
        self, first: Image, second: Image, nowhere: PairMatch, search_px: Pair, options: PairOptions
    ) -> None:
        self._images = first, second
        self._nowhere = nowhere
        self._options = options
        self._centring = (
            (first.shape[1] - second.shape[1]) / 2,
            (first.shape[0] - second.shape[0]) / 2,
        )
        self._x = possible_overlap(
            first.shape[1], second.shape[1], nowhere.dx_px + self._centring[0], search_px[0]
        )
        self._y = possible_overlap(
            first.shape[0], second.shape[0], nowhere.dy_px + self._centring[1], search_px[1]
        )

    def matched(self) -> PairMatch:
        """Return the result."""
        widest = self._x.longest_overlap_px, self._y.longest_overlap_px
        if min(widest) < MIN_OVERLAP_PX:
            return _refused(
                self._nowhere,
                f"the tiles overlap by {widest[0]} x {widest[1]} px at most; "
                f"{MIN_OVERLAP_PX} px on both sides are the least",
            )
        first = self._images[0][self._y.first, self._x.first]
        second = self._images[1][self._y.second, self._x.second]
        for strip, name in ((first, "first"), (second, "second")):
            wrong = fault(strip)
            if wrong:
                return _refused(self._nowhere, f"the overlap of the {name} tile is {wrong}")
        strips = filled(first), filled(second)
        step = min(coarse_step(strips[0].shape), coarse_step(strips[1].shape))
        search = Search(
            binned(strips[0], step),
            binned(strips[1], step),
            (self._x.low // step, self._y.low // step),
            (-(-self._x.high // step), -(-self._y.high // step)),
            MIN_OVERLAP_PX / step,
        )
        peaks = search.peaks(self._options.candidates)
        if not peaks:
            return _refused(self._nowhere, "blank: nothing in the overlap rises over the noise")
        return self._judged(strips, search, peaks, step)

    def _judged(self, strips: tuple[Image, Image], search: Search, peaks: list[Peak], step: int) -> PairMatch:
        peak = peaks[0]
        needed = self._options.min_z or search.chance_z(self._options.false_rate)
        poor = replace(self._nowhere, z=peak.z, ncc=0.0 if math.isnan(peak.ncc) else peak.ncc)
        if not peak.z >= needed:
            what = next((f" ({word})" for word in map(clipped, strips) if word), "")
            return _refused(
                poor,
                f"no match: the highest peak stands {peak.z:.1f} standard deviations over the rest, which "
                f"chance does too ({needed:.1f} are needed){what}",
            )
        if peak.at_edge:
            return _refused(poor, "the best place lies at the edge of the search: search further")
        best = step * search.smoothing_px(peak, [sigma / step for sigma in _SIGMAS_PX])
        refined, lag, widen = _settled(strips, (step * peak.x_px, step * peak.y_px), best, 2.0 * step)
        poor = replace(poor, ncc=refined.ncc)
        if not refined.settled:
            return _refused(poor, "the fraction of a pixel does not settle: the overlap agrees too little")
        # a blurrier image has fewer independent pixels: chance correlates it as much more
        agreement = min(widen * self._options.min_ncc, max(0.9, self._options.min_ncc))
        if refined.ncc < agreement:
            return _refused(
                poor, f"the overlap agrees too little: correlation {refined.ncc:.2f}, {agreement:.2f} needed"
            )
        return self._accepted(strips, refined, lag, peak.z)

    def _accepted(self, strips: tuple[Image, Image], refined: Refined, lag: Pair, z: float) -> PairMatch:
        xx, xy, yy = refined.covariance_px2
        return PairMatch(
            dx_px=lag[0] + self._x.first.start - self._x.second.start - self._centring[0],
            dy_px=lag[1] + self._y.first.start - self._y.second.start - self._centring[1],
            covariance_px2=(xx + _FLOOR_PX2, xy, yy + _FLOOR_PX2),
            ncc=refined.ncc,
            z=z,
            overlap_px=(
                shared(strips[0].shape[1], strips[1].shape[1], round(lag[0])),
                shared(strips[0].shape[0], strips[1].shape[0], round(lag[1])),
            ),
            accepted=True,
            reason="",
        )


def _settled(
    strips: tuple[Image, Image], start: Pair, sigma_px: float, reach_px: float
) -> tuple[Refined, Pair, float]:
    """Return the last step, the lag of the strips it leads to, and how much blurrier it had to be."""
    for widen in _WIDER:
        refined, lag = _refined(strips, start, widen * sigma_px, widen * reach_px)
        if refined.settled:
            break
    return refined, lag, widen


def _refined(
    strips: tuple[Image, Image], start: Pair, sigma_px: float, reach_px: float
) -> tuple[Refined, Pair]:
    """Return the last step and the lag of the strips it leads to."""
    whole = round(start[0]), round(start[1])
    if _overlap(strips, whole)[0].size > _MOST_FINE_PX:
        smaller = binned(strips[0], 2), binned(strips[1], 2)
        found, half = _refined(smaller, (start[0] / 2, start[1] / 2), max(sigma_px / 2, 1.0), reach_px / 2)
        xx, xy, yy = (4 * value for value in found.covariance_px2)
        return found._replace(covariance_px2=(xx, xy, yy)), (2 * half[0], 2 * half[1])
    refined, lag = UNSETTLED, start
    for _ in range(2):
        parts = _overlap(strips, whole)
        side = min(parts[0].shape)
        if side < MIN_OVERLAP_PX:
            return UNSETTLED, start
        reach = max(1.0, min(reach_px, (side - 14) / 4))
        refined = refine(band(parts[0], sigma_px), band(parts[1], sigma_px), reach)
        lag = whole[0] + refined.dx_px, whole[1] + refined.dy_px
        if not refined.settled or max(abs(refined.dx_px), abs(refined.dy_px)) <= _NEAR_PX:
            break
        whole = round(lag[0]), round(lag[1])
    return refined, lag


def _overlap(strips: tuple[Image, Image], lag: tuple[int, int]) -> tuple[Image, Image]:
    """Return what two strips share when the second begins at ``lag`` (x, y) of the first."""
    (h1, w1), (h2, w2) = strips[0].shape, strips[1].shape
    x, y = lag
    first = strips[0][max(0, y) : min(h1, y + h2), max(0, x) : min(w1, x + w2)]
    second = strips[1][max(0, -y) : min(h2, h1 - y), max(0, -x) : min(w2, w1 - x)]
    return first, second
