"""Robust fit of a shared field, its error on matches held out, and the choice of how much to fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from processing.kernels._field_system import Matches, State, System, Ties
from processing.kernels._legendre import degrees

Reals = npt.NDArray[np.float64]

FOLDS: Final = 5
_LEAST_FOR_HOLDOUT: Final = 10
_FEW: Final = 6
"""Matches a parameter up to which models are chosen by matches held out; beyond, by Schwarz's criterion."""
_GAIN: Final = 0.03
"""How much smaller, relative, the error of a richer model must be."""
_DEGREES: Final = (1, 2, 3, 5)
_MANY_MATCHES: Final = 5000
_MANY_TILES: Final = 70
"""Tiles from which on only the simplest and the richest models are tried."""
_KNEE: Final = 4.0
_RAYLEIGH: Final = 1.1774
_FLOOR_PX: Final = 0.02
_BEND_SHARE: Final = 0.005
_FIELD_SHARE: Final = 0.02
"""Largest sigma of matrices at the edge of the frame and of the field's terms, of half the frame."""
_BEGIN_SHARE: Final = 0.0003
"""Sigma that both begin with: what the matches tell makes it grow, what they do not stays small."""
_FREE_PX: Final = 1e4
_LEAST_TIE: Final = 1e-9
"""Enough for a factorisation in double precision."""
_ROUNDS: Final = 14
_SETTLED_PX: Final = 2e-3


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Degree, coefficients (2, k), matrices (n, 2, 2), places (n, 2), residuals (m,), also held out, px."""

    degree: int
    coefficients: Reals
    matrices: Reals
    positions_px: Reals
    residuals_px: Reals
    holdout_px: Reals


@dataclass(slots=True, eq=False)
class _Fit:
    """One model with its solution."""

    system: System
    state: State
    lengths: Reals
    sigma: float
    ties: Ties
    degree: int

    @property
    def parameters(self) -> int:
        return 2 * self.system.unknowns

    def schwarz(self) -> float:
        """Return Schwarz's criterion (Ann. Stat. 6 (1978) 461) for a robust scale of the residuals."""
        count = len(self.lengths)
        return 2 * count * math.log(self.sigma) + 0.5 * self.parameters * math.log(max(count, 2))


def choose_and_fit(matches: Matches, nominal: Reals, *, degree: int, affine: bool, holdout: bool) -> Fitted:
    """Return the fit of the model that the matches justify, of this degree at most."""
    if not len(matches):
        identity = np.tile(np.eye(2), (len(nominal), 1, 1))
        return Fitted(1, np.zeros((2, 0)), identity, nominal.copy(), np.zeros(0), np.zeros(0))
    joined = len(np.unique(np.concatenate([matches.first, matches.second])))
    richest = 2 * (joined * (3 if affine else 1) + len(degrees(degree)))
    few = len(matches) >= _LEAST_FOR_HOLDOUT and 2 * len(matches) < _FEW * richest
    models = (
        _models(matches, len(nominal), degree, affine) if len(matches) >= _LEAST_FOR_HOLDOUT else [(1, False)]
    )
    best, held = _chosen(matches, nominal, models, few=few)
    if held is None:
        held = _holdout(best, nominal) if holdout else np.zeros(0)
    state = best.state
    half = matches.half_px
    matrices = np.eye(2) + state.bends / half
    residuals = np.empty(len(matches))
    residuals[best.system.order] = best.lengths
    return Fitted(best.degree, state.coefficients, matrices, state.places, residuals, held)


def _models(matches: Matches, tiles: int, degree: int, affine: bool) -> list[tuple[int, bool]]:
    """Return degrees, and whether tiles have matrices, from the simplest; fewer where fits take long."""
    bends = (False, True) if affine else (False,)
    if tiles > _MANY_TILES:
        return [(1, False)] + [(degree, bent) for bent in bends if degree > 1 or bent]
    steps = [one for one in _DEGREES if one < degree] + [degree]
    told = [one for one in steps if one == 1 or len(matches) >= 2 * len(degrees(one))]
    return [(one, bent) for one in told for bent in bends]


def _chosen(
    matches: Matches, nominal: Reals, models: list[tuple[int, bool]], *, few: bool
) -> tuple[_Fit, Reals | None]:
    """Return the fit of the model that the matches justify, and its residuals held out where they are known.

    Of few matches: the simplest model whose error on matches held out is nearly the least.
    """
    best: _Fit | None = None
    tried: list[tuple[float, _Fit, Reals]] = []
    places = nominal
    for degree, bent in models:
        fit = _fit(matches, places, degree, bent, nominal)
        places = fit.state.places
        if few:
            held = _holdout(fit, nominal)
            tried.append((float(np.mean(np.minimum(held, 10.0))), fit, held))
        elif best is None or fit.schwarz() < best.schwarz():
            best = fit
    if best is not None:
        return best, None
    limit = min(error for error, _, _ in tried) * (1 + _GAIN)
    _, fit, held = min((one for one in tried if one[0] <= limit), key=lambda one: one[1].parameters)
    return fit, held


def _fit(matches: Matches, places: Reals, degree: int, affine: bool, nominal: Reals | None = None) -> _Fit:
    """Fit one model, from these places; the nominal places are those that it is tied to."""
    nominal = places if nominal is None else nominal
    system = System(matches, len(nominal), degree, affine=affine)
    state = system.start(places)
    half = float(matches.half_px.mean())
    spread = _Spread(half, degree, math.sqrt(max(len(system) / len(nominal) / 2, 1.0)))
    left = system.residuals(state)
    weights = np.ones(len(system))
    sigma = _sigma(left)
    for k in range(_ROUNDS):
        ties = spread.ties(sigma)
        state = system.step(state, left, weights, ties, nominal)
        before, left = left, system.residuals(state)
        sigma = _sigma(left)
        weights = _weights(left, sigma)
        spread.learn(state, sigma)
        if k > 1 and float(np.abs(left - before).mean()) < max(_SETTLED_PX, 0.01 * sigma):
            break
    return _Fit(system, state, np.hypot(*left.T), sigma, ties, degree)


class _Spread:
    """By how much matrices, and the field's terms of each degree, vary: learnt while they are fitted.

    It begins small, and grows with what the matches demand (empirical Bayes). So terms and matrices that they
    hardly tell do not run away to follow noise.
    """

    def __init__(self, half_px: float, degree: int, matches: float) -> None:
        self._half = half_px
        self._matches = matches
        total = np.array([p + q for p, q in degrees(degree)], np.intp)
        # the terms of one degree follow each other
        self._starts = np.flatnonzero(np.diff(total, prepend=-1))
        self._counts = np.diff(self._starts, append=len(total))
        self._bend = _BEGIN_SHARE * half_px
        self._terms = np.full(len(total), _BEGIN_SHARE * half_px)

    def ties(self, sigma: float) -> Ties:
        """Return the ties for matches of an error, px."""
        places = max((sigma / _FREE_PX) ** 2, _LEAST_TIE)
        return Ties(places, (sigma / self._bend) ** 2, (sigma / self._terms) ** 2)

    def learn(self, state: State, sigma: float) -> None:
        """Take the spread from a state."""
        noise = sigma / self._matches
        seen = float(np.sqrt(np.mean(state.bends**2)))
        self._bend = min(max(math.hypot(seen, noise), 1e-3), _BEND_SHARE * self._half)
        if len(self._starts):
            squares = np.add.reduceat((state.coefficients**2).mean(0), self._starts) / self._counts
            spread = np.clip(np.sqrt(squares + noise**2), 1e-3, _FIELD_SHARE * self._half)
            self._terms = np.repeat(spread, self._counts)


def _holdout(fit: _Fit, nominal: Reals) -> Reals:
    """Return the residuals of matches, each of a fit to four fifths of them without it; none below 10."""
    system = fit.system
    if len(system) < _LEAST_FOR_HOLDOUT:
        return np.zeros(0)
    fold = np.random.default_rng(0).integers(0, FOLDS, len(system))
    held = np.empty(len(system))
    # of so many matches a fifth tells as much
    folds = 1 if len(system) > _MANY_MATCHES else FOLDS
    for k in range(folds):
        used = fold != k
        state = fit.state
        for _ in range(2):
            left = system.residuals(state)
            weights = np.where(used, _weights(left, fit.sigma), 0.0)
            state = system.step(state, left, weights, fit.ties, nominal)
        held[~used] = np.hypot(*system.residuals(state)[~used].T)
    return held[fold < folds]


def _sigma(left: Reals) -> float:
    return max(float(np.median(np.hypot(*left.T))) / _RAYLEIGH, _FLOOR_PX)


def _weights(left: Reals, sigma: float) -> Reals:
    return np.asarray(1 / (1 + (left**2).sum(1) / (_KNEE * sigma) ** 2))
