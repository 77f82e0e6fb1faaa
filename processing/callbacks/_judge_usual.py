"""What is usual in a run, and how far a clean tile may lie from it: learned limits with a known rate.

A limit is set by how often a clean tile may exceed it, not by hand. The tiles of the run give the middle of a
number and its spread on the side that counts, the widest of four: that of the median deviation and those of
the quantiles at 84, 90 and 97 %, each as a standard deviation of the normal distribution would be, so that a
long tail widens the limit itself. The largest values are left out, for they may be what is looked for; the
others keep their ranks. A spread that specimens usually have counts like ten tiles. Student's distribution
then says how many such spreads a clean tile exceeds with the probability asked for: with few tiles more, and
never fewer than with 30 degrees of freedom, which a normal distribution would not need.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

Reals = npt.NDArray[np.float64]
_LIKE: Final = 21
"""So many tiles of the most similar contrast say what is usual for a tile."""
_UNLIKE: Final = 1.1
"""Loss that is borne: a quarter of the difference of contrast between a tile and its likes, in dB."""
_PRIOR_TILES: Final = 10
_MOST_FREEDOM: Final = 30
_OUTSIDE: Final = 6.0
"""Of the spread: an outlier."""
_MAD_TO_SIGMA: Final = 1.4826
_ODD_ONES: Final = 33
"""One in so many tiles, and one at least, is left out as what may be a fault."""
_QUANTILES: Final = (0.84, 0.90, 0.97)
_BEYOND: Final = 3
"""Tiles that have to lie beyond a quantile: of fewer, two faults would be what is usual."""
_MAD_EFFICIENCY: Final = 0.37
"""Of the median deviation: so much of a tile counts (DOI 10.1080/01621459.1993.10476408)."""
_BLOM: Final = 0.375
"""Of the ranks of a normal sample (G. Blom, Statistical Estimates and Transformed Beta-Variables, 1958)."""


def learned_limit(values: npt.ArrayLike, share: float, prior: float, gross: float) -> float:
    """Return what a clean tile exceeds with a probability of ``share`` at most.

    Parameters
    ----------
    values
        (tile,): of the run's tiles, one at least; high is bad.
    share
        0 to 1.
    prior
        Spread that ten tiles would have shown before the run began, in the unit of the values: of any
        specimen. It keeps three tiles that are alike by chance from setting a narrow limit, and is soon
        outvoted.
    gross
        So far over the middle, and far outside of the spread, a value is not a wide distribution but a fault.
    """
    ordered = np.sort(np.asarray(values, float))
    middle = float(np.median(ordered))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(ordered - middle)))
    clean = ordered[ordered <= middle + max(gross, _OUTSIDE * spread)]
    middle, count = float(np.median(clean)), len(clean)
    spreads = [_MAD_TO_SIGMA * float(np.median(np.abs(clean - middle)))]
    # what is left out keeps its rank: a clean tile there makes the others no narrower
    kept = clean[: max(1, count - 1 - count // _ODD_ONES)]
    ranks = (np.arange(1, count + 1) - _BLOM) / (count + 1 - 2 * _BLOM)
    spreads += [
        (float(np.interp(at, ranks[: len(kept)], kept)) - middle) / float(ndtri(at))
        for at in _QUANTILES
        if count * (1 - at) >= _BEYOND
    ]
    together = (_PRIOR_TILES * prior**2 + count * max(spreads) ** 2) / (_PRIOR_TILES + count)
    freedom = min(_MAD_EFFICIENCY * (count - 1) + _PRIOR_TILES, _MOST_FREEDOM)
    return middle + float(stdtrit(freedom, 1 - share)) * math.sqrt(together * (1 + 1 / count))


def _middle(column: Reals) -> float:
    known = column[np.isfinite(column)]
    return float(np.median(known)) if known.size else 0.0


class Usual:
    """Numbers of the run's tiles as they depend on contrast: a tile is compared with tiles like it.

    Parameters
    ----------
    contrast
        (tile,): one at least, finite.
    values
        (tile, number), dB: not a number where a tile has none.
    """

    def __init__(self, contrast: Reals, values: Reals) -> None:
        order = np.argsort(contrast, kind="stable")
        self._contrast = contrast[order]
        known = np.isfinite(values)
        middles = np.array([_middle(column) for column in values.T])
        filled = np.where(known, values, middles)[order]
        self._like = min(_LIKE, len(filled))
        windows = np.lib.stride_tricks.sliding_window_view(filled, self._like, axis=0)
        self._medians = np.median(windows, axis=-1)
        self._middles = np.median(
            np.lib.stride_tricks.sliding_window_view(self._contrast, self._like), axis=-1
        )
        rows = np.clip(np.arange(len(filled)) - self._like // 2, 0, len(self._medians) - 1)
        apart = _UNLIKE * np.abs(self._contrast - self._middles[rows])
        self.losses = np.empty_like(filled)
        self.losses[order] = self._medians[rows] - apart[:, None] - filled
        """(tile, number): how far the tiles themselves lie under what is usual for them; 0 where unknown."""
        self.losses[~known] = -np.inf

    def at(self, contrast: float) -> Reals:
        """Return the usual numbers of a tile of some contrast, (number,)."""
        rank = int(np.searchsorted(self._contrast, contrast))
        row = min(max(0, rank - self._like // 2), len(self._medians) - 1)
        return np.asarray(self._medians[row] - _UNLIKE * abs(contrast - float(self._middles[row])))
