"""Montages of few loops: which edge of a loop that does not close is wrong, if anything tells.

A loop shows that one of its edges is wrong, not which. What else is known decides: the other loops, the
stage, and how well each edge correlates. Where that is not enough, the tiles of the loop are called doubtful.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from processing.kernels._placement_solve import (
    FAR_FACTOR,
    FEW_LOOPS,
    REJECT,
    Flags,
    Indices,
    Reals,
    Robust,
    factorised,
)

_OPEN: Final = 6.0
"""Error of a loop, in its standard deviations, from where on it does not close. A distortion not known yet
opens loops of micrographs by up to 5: it scatters within each overlap, too, which swells covariances."""
_ODDS: Final = 4.6
"""Difference of log-likelihoods from where on the likelier is taken for true: 100 to 1."""
_MOST_TRIED: Final = 24
_TIGHT: Final = 1e-6
"""Belief in the stage while loops are looked at: it only keeps the equations regular."""
_OUTLIER: Final = 9.0


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """Places, kept edges and what is doubtful of tiles whose loops do not close."""

    positions: Reals
    good: Flags
    doubts: dict[int, str]


def few_loops(robust: Robust) -> bool:
    """Return whether there are too few loops to tell errors of edges from contradictions."""
    return robust.loops(~robust.barred) < FEW_LOOPS


def close(robust: Robust) -> Closed:
    """Return places by edges whose loops close, dropping one edge after the other while they do not."""
    good, doubts = ~robust.barred, dict[int, str]()
    granted = robust.links.variance + robust.least_unknown_px**2
    while True:
        positions = _places(robust, good, robust.links.variance)
        wrong_px, chi = _discrepancies(robust, positions, good, robust.links.variance)
        if chi.max(initial=0.0) < _OPEN:
            break
        suspect = np.flatnonzero(chi >= _OPEN)
        suspect = suspect[np.argsort(-chi[suspect] * (1.5 - robust.links.trust[suspect]))[:_MOST_TRIED]]
        costs = np.array([_cost(robust, good, int(k), granted) for k in suspect])
        best = int(np.argmin(costs))
        clear = len(costs) > 1 and float(np.partition(costs, 1)[1] - costs[best]) >= _ODDS
        _, coarse = _discrepancies(robust, _places(robust, good, granted), good, granted)
        gross = float(coarse[suspect].max()) >= REJECT
        if not clear:
            _doubt(robust, suspect, float(wrong_px[suspect].max()), doubts)
        if not (clear or gross):
            break
        good = good.copy()
        good[suspect[best]] = False
    return Closed(positions, good, doubts)


def _places(robust: Robust, good: Flags, variance: Reals) -> Reals:
    """Return the places by the kept edges, the stage telling only what they do not."""
    tight = np.full(len(good), _TIGHT), np.full(len(robust.nominal), _TIGHT)
    before, robust.belief = robust.belief, tight
    positions = robust.at(good.astype(np.float64), variance, exact=False)
    robust.belief = before
    return positions


def _discrepancies(robust: Robust, positions: Reals, good: Flags, variance: Reals) -> tuple[Reals, Reals]:
    """Return by how much each kept edge differs from what the other edges say, px and standard deviations.

    0 where they say nothing. (Deleted residuals: Cook and Weisberg, Residuals and Influence in Regression,
    1982, section 2.2.)
    """
    links, tiles = robust.links, len(positions)
    weight = np.where(good, 2 / variance.sum(1), 0.0)
    weak = _TIGHT / (FAR_FACTOR * robust.stage.sigma_px) ** 2
    factor = factorised(links, weight, np.full(tiles, weak))
    left = np.hypot(*robust.left(positions).T)
    wrong, chi = np.zeros(len(links)), np.zeros(len(links))
    asked = np.flatnonzero(good & (left**2 * weight > 1e-6))
    asked = asked[np.argsort(-(left**2 * weight)[asked])[: 8 * _MOST_TRIED]]
    ends = np.zeros((tiles, len(asked)))
    ends[links.second[asked], np.arange(len(asked))] = 1.0
    ends[links.first[asked], np.arange(len(asked))] -= 1.0
    spread2 = (ends * factor.solve(ends)).sum(0) if len(asked) else np.zeros(0)
    # what is left to the others of each edge's own weight; a bridge has nothing
    share = 1 - weight[asked] * spread2
    looped = share > 1e-4
    asked, share = asked[looped], share[looped]
    wrong[asked] = left[asked] / share
    chi[asked] = left[asked] * np.sqrt(weight[asked] / share)
    return wrong, chi


def _cost(robust: Robust, good: Flags, dropped: int, variance: Reals) -> float:
    """Return minus the logarithm of the likelihood that one edge is wrong and the others are right."""
    kept = good.copy()
    kept[dropped] = False
    positions = _places(robust, kept, variance)
    edges = robust.chi2(positions, variance)[kept]
    away = positions - robust.stage_places()
    stage = (robust.links.steps(away) ** 2).sum(1) / (2 * robust.stage.sigma_px**2)
    # an edge that correlates little is the likelier to be wrong
    evidence = 4 * float(np.log(robust.links.trust[dropped]))
    return (_capped(edges) + _capped(stage)) / 2 + evidence


def _capped(chi2: Reals) -> float:
    return float((_OUTLIER * chi2 / (_OUTLIER + chi2)).sum())


def _doubt(robust: Robust, edges: Indices, open_px: float, doubts: dict[int, str]) -> None:
    text = (
        f"doubtful: its loop of matches does not close by {open_px:.1f} px, and nothing tells which is wrong"
    )
    tiles = np.unique(np.concatenate([robust.links.first[edges], robust.links.second[edges]]))
    for tile in tiles.tolist():
        doubts.setdefault(tile, text)
