"""The numbers behind `processing.kernels.placement`: stage, normal equations, and which edges contradict.

A measured step between two tiles is a normal variable about the true one, or it is grossly wrong. The step of
the stage between the same tiles, free of an affine part common to all, is another measurement of it, a coarse
one; the place of the stage itself is the coarsest, as errors of stages add up along the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import lapack
from scipy.sparse import linalg as sparse_linalg

from processing.kernels.compiled import compiled

Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

SIGMA_SHARE: Final = 0.03
"""Error of a stage, of the step between tiles, where nothing is known of it: 30 px in 1000."""
NOISE_SHARE: Final = 0.003
"""Largest error of good edges, of the step between tiles: distortion moves edges by no more."""
FAR_FACTOR: Final = 10.0
"""Error of the stage over the whole montage, in that between neighbours."""
_SIMILAR, _SHEARED = 0.03, 0.01
"""Sigma of rotation and scale, and of shear and difference of scales, of a stage matrix; relative."""
FEW_LOOPS: Final = 6
UNKNOWN_SHARE: Final = 0.3
"""Error assumed where loops are few, of the largest that good edges may have."""
_KNEE: Final = 3.0
REJECT: Final = 5.0
_COOLING: Final = 0.4
_STAGE_ROUNDS: Final = 3
_DENSE: Final = 64
"""Tiles up to which a dense factorisation is quicker."""
_LEAST_BELIEF: Final = 1e-3
"""Of a stage that matches refute something is left, so that nothing floats."""
_QUIET: Final = 3.0
"""Excess of the errors over the covariances below which nothing contradicts anything."""
_MAD: Final = 1.4826
_RAYLEIGH: Final = 1.1774
"""Median length of a vector of two normal variables of sigma 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """Edges as arrays: tiles (m,), offset (m, 2) px, variance (m, 2) px^2, trust (m,) 0 to 1."""

    first: Indices
    second: Indices
    offset: Reals
    variance: Reals
    trust: Reals

    def __len__(self) -> int:
        return len(self.first)

    def steps(self, points: Reals) -> Reals:
        """Return the differences of points (n, 2) along the edges."""
        return points[self.second] - points[self.first]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What is known of the stage: matrix (2, 2) of its systematic error, sigma between neighbours, px."""

    matrix: Reals
    sigma_px: float


def fit_stage(nominal: Reals, links: Links, used: Flags, sigma_px: float | None) -> Stage:
    """Return the systematic part of the stage's steps, as far as the edges tell it, and the error left.

    The matrix is the identity but for a rotation and a scale (sigma 3 %), a shear and a difference of scales
    (1 %), by robust least squares with these priors: a few noisy edges do not turn the mosaic.
    """
    steps = links.steps(nominal)
    length = float(np.median(np.hypot(*steps.T))) if len(steps) else 0.0
    unknown = max(SIGMA_SHARE * length, 1.0) if sigma_px is None else sigma_px
    steps, offsets = steps[used], links.offset[used]
    if not len(steps):
        return Stage(np.eye(2), unknown)
    deviation = offsets - steps
    x, y = steps.T
    # rotation and scale, then the two parts of a symmetric matrix without trace
    parts = [np.stack(pair, 1) for pair in ((x, y), (-y, x), (x, -y), (y, x))]
    design = np.stack(parts, 2).reshape(-1, 4)
    values, spread = np.zeros(4), max(unknown, _spread(deviation))
    most = np.array([_SIMILAR, _SIMILAR, _SHEARED, _SHEARED])
    prior = most
    for _ in range(20):
        left = deviation - (design @ values).reshape(-1, 2)
        weights = np.repeat(1 / (1 + (left**2).sum(1) / (2 * _KNEE**2 * spread**2)), 2)
        normal = design.T @ (design * weights[:, None]) + np.diag(2 * spread**2 / prior**2)
        values = np.linalg.solve(normal, design.T @ (weights * deviation.ravel()))
        # what is not twice its error vanishes: it would move far islands for nothing (empirical Bayes)
        prior = np.clip(np.abs(values), 1e-7, most)
        left = deviation - (design @ values).reshape(-1, 2)
        found = _spread(left)
        # two steps' worth of what is assumed, against the few edges of a beginning montage
        blended = np.sqrt((len(left) * found**2 + 2 * unknown**2) / (len(left) + 2))
        settled = abs(blended - spread) < 0.003 * spread
        spread = max(float(blended), 1e-3)
        if settled:
            break
    scale, turn, stretch, shear = values
    matrix = np.array([[1 + scale + stretch, shear - turn], [shear + turn, 1 + scale - stretch]])
    return Stage(matrix, spread if sigma_px is None else sigma_px)


def _spread(deviation: Reals) -> float:
    """Return the robust sigma of one coordinate of one place, from those of steps between two."""
    return float(_MAD * np.median(np.abs(deviation)) / np.sqrt(2))


def solve(
    links: Links,
    precision: Reals,
    stage_steps: Reals,
    stage_places: Reals,
    sigma_px: float,
    belief: tuple[Reals, Reals],
) -> Reals:
    """Return the places (n, 2) of least squares.

    ``precision`` is (m,) or (m, 2), 1 / px^2; ``belief``, 0 to 1, is that in the stage's step along each edge
    (m,) and in its place of each tile (n,).
    """
    step_precision = belief[0] / (2 * sigma_px**2)
    place_precision = belief[1] / (FAR_FACTOR * sigma_px) ** 2
    if precision.ndim == 1:
        right = precision[:, None] * links.offset + step_precision[:, None] * stage_steps
        factor = factorised(links, precision + step_precision, place_precision)
        target = _gather(links, right, len(stage_places)) + place_precision[:, None] * stage_places
        return np.asarray(factor.solve(target))
    found = np.empty_like(stage_places)
    for axis in (0, 1):
        weight = precision[:, axis]
        right = weight * links.offset[:, axis] + step_precision * stage_steps[:, axis]
        factor = factorised(links, weight + step_precision, place_precision)
        target = _gather(links, right[:, None], len(stage_places))[:, 0]
        found[:, axis] = factor.solve(target + place_precision * stage_places[:, axis])
    return found


def _gather(links: Links, values: Reals, tiles: int) -> Reals:
    found = np.empty((tiles, values.shape[1]))
    for k in range(values.shape[1]):
        found[:, k] = np.bincount(links.second, values[:, k], tiles)
        found[:, k] -= np.bincount(links.first, values[:, k], tiles)
    return found


class Factors(Protocol):
    """A matrix of which the factors are known."""

    def solve(self, right: Reals, /) -> Reals:
        """Return the solutions (n, k) for right sides (n, k)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Dense:
    lower: Reals

    def solve(self, right: Reals, /) -> Reals:
        solution, _ = lapack.dpotrs(self.lower, right, lower=1)
        return np.asarray(solution)


def factorised(links: Links, weight: Reals, diagonal: Reals) -> Factors:
    """Return the factors of the normal matrix of edges of weights (m,) and a diagonal (n,)."""
    i, j, tiles = links.first, links.second, len(diagonal)
    own = np.bincount(i, weight, tiles) + np.bincount(j, weight, tiles) + diagonal
    everyone = np.arange(tiles)
    entries = np.concatenate([-weight, -weight, own])
    where = np.concatenate([i, j, everyone]), np.concatenate([j, i, everyone])
    if tiles <= _DENSE:
        whole = np.bincount(where[0] * tiles + where[1], entries, tiles * tiles).reshape(tiles, tiles)
        lower, failed = lapack.dpotrf(whole, lower=1)
        if not failed:
            return _Dense(lower)
    matrix = sparse.csc_matrix((entries, where), shape=(tiles, tiles))
    options = {"SymmetricMode": True}
    factors = sparse_linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    return cast("Factors", factors)


def components(links: Links, used: Flags, tiles: int) -> tuple[int, Indices]:
    """Return the number of groups of tiles that hang together, and the group of each by its first tile."""
    group = np.arange(tiles)
    return _join(links.first, links.second, used, group), group


@compiled
def _join(first: Indices, second: Indices, used: Flags, group: Indices) -> int:
    """Fill ``group``, which counts the tiles, with the number of each one's group; return how many there are.

    A forest of which the roots are the first tiles of the groups (union-find with path halving: Tarjan and
    van Leeuwen, J. ACM 31 (1984) 245, doi:10.1145/62.2160).
    """
    for k in range(len(first)):
        if not used[k]:
            continue
        i, j = first[k], second[k]
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        while group[j] != j:
            group[j] = group[group[j]]
            j = group[j]
        if i < j:
            group[j] = i
        else:
            group[i] = j
    count = 0
    for k in range(len(group)):
        # what a tile hangs on comes before it, and has its number already
        if group[k] == k:
            group[k] = count
            count += 1
        else:
            group[k] = group[group[k]]
    return count


@dataclass(slots=True, eq=False)
class Robust:
    """Finds the places and the edges that contradict, from coarse to fine.

    The error granted to all edges begins at that of the stage and shrinks (graduated non-convexity: Yang et
    al., IEEE Robot. Autom. Lett. 5 (2020) 1127, doi:10.1109/LRA.2020.2965893), each time with the weights of
    Geman and McClure; so a wrong edge loses against the stage before it can pull. The stage has outliers too:
    what the edges refute of it weighs as little at the end.

    ``belief``: 0 to 1, in the step of the stage along each edge and in the place of each tile. ``barred``:
    edges that never count. ``step_px``: length of the steps along the edges.
    """

    links: Links
    nominal: Reals
    stage: Stage
    belief: tuple[Reals, Reals] = field(init=False)
    barred: Flags = field(init=False)
    step_px: float = field(init=False)

    def __post_init__(self) -> None:
        steps = self.links.steps(self.nominal)
        self.step_px = float(np.median(np.hypot(*steps.T))) if len(steps) else 0.0
        self.trust_stage()
        self.barred = np.zeros(len(self.links), np.bool_)

    @property
    def most_noise_px(self) -> float:
        """The largest error that good edges may have, px."""
        return NOISE_SHARE * self.step_px

    def stage_places(self) -> Reals:
        """Return where the stage, its systematic error taken out, says the tiles are."""
        centre = self.nominal.mean(0)
        return np.asarray((self.nominal - centre) @ self.stage.matrix.T + centre)

    def trust_stage(self) -> None:
        """Believe the stage everywhere."""
        self.belief = np.ones(len(self.links)), np.ones(len(self.nominal))

    def doubt_stage(self, positions: Reals) -> None:
        """Believe the stage the less, the more these places refute it."""
        away = positions - self.stage_places()
        away -= np.median(away, 0)
        variance = self.stage.sigma_px**2
        self.belief = (
            _belief((self.links.steps(away) ** 2).sum(1) / (2 * variance)),
            _belief((away**2).sum(1) / (FAR_FACTOR**2 * variance)),
        )

    def at(self, weights: Reals, variance: Reals, *, exact: bool) -> Reals:
        """Return the places for weights (m,) of the edges and variances (m, 2), px^2."""
        precision = weights[:, None] / variance
        if not exact or np.allclose(precision[:, 0], precision[:, 1], rtol=0.05):
            precision = 2 / (1 / np.maximum(precision, 1e-12)).sum(1)
        places = self.stage_places()
        return solve(
            self.links, precision, self.links.steps(places), places, self.stage.sigma_px, self.belief
        )

    def left(self, positions: Reals) -> Reals:
        """Return the differences (m, 2) between edges and places, px."""
        return self.links.offset - self.links.steps(positions)

    def loops(self, good: Flags) -> int:
        """Return how many loops edges make."""
        groups, _ = components(self.links, good, len(self.nominal))
        return int(good.sum()) - (len(self.nominal) - groups)

    @property
    def least_unknown_px(self) -> float:
        """Error beyond their covariances assumed of edges where loops are few, px."""
        return UNKNOWN_SHARE * self.most_noise_px

    def noise(self, positions: Reals, good: Flags) -> float:
        """Return by how much the edges' errors exceed their covariances; 1 where no loops of them tell."""
        edges, loops = int(good.sum()), self.loops(good)
        usual = float(np.sqrt(np.median(self.links.variance)))
        most = self.most_noise_px / usual
        # a few loops cannot tell distortion from contradiction
        few = loops < max(FEW_LOOPS, 0.05 * edges)
        least = max(1.0, self.least_unknown_px / usual) if few else 1.0
        if loops < 1:
            return least
        chi = np.sqrt((self.left(positions)[good] ** 2 / self.links.variance[good]).sum(1))
        found = float(np.median(chi) / _RAYLEIGH * np.sqrt(edges / loops))
        return max(least, min(found, most))

    def search(self) -> tuple[Reals, Flags]:
        """Return places and which edges are kept, from nothing."""
        everything = ~self.barred
        weights = everything.astype(np.float64)
        for _ in range(_STAGE_ROUNDS):
            positions = self.at(weights, self.links.variance, exact=False)
            self.doubt_stage(positions)
        noise = self.noise(positions, everything)
        if noise < _QUIET and (self.chi2(positions, noise**2 * self.links.variance) < _KNEE**2).all():
            return positions, everything
        self.trust_stage()
        noise = 1.0
        granted = np.sqrt(2) * self.stage.sigma_px
        finest = float(np.sqrt(self.links.variance.min()))
        # at the widest the edges weigh no more than the stage does, so it has a say
        while granted > noise * finest:
            variance = noise**2 * self.links.variance + granted**2
            positions = self.at(weights, variance, exact=False)
            # of two that contradict, the one that correlates less gives way
            knee = _KNEE**2 * self.links.trust
            weights = np.where(self.barred, 0.0, (knee / (knee + self.chi2(positions, variance))) ** 2)
            if granted < self.most_noise_px:
                noise = self.noise(positions, weights > 0.25)
            granted *= _COOLING
        good = self.chi2(positions, noise**2 * self.links.variance) < REJECT**2
        return positions, good & ~self.barred

    def finish(self, positions: Reals, good: Flags, rounds: int = 4) -> tuple[Reals, Reals, Flags]:
        """Return places, weights and kept edges, from places that are nearly right."""
        noise = self.noise(positions, good)
        weights = np.ones(len(self.links))
        for _ in range(rounds):
            variance = noise**2 * self.links.variance
            chi2 = self.chi2(positions, variance)
            weights = np.where(good, (_KNEE**2 / (_KNEE**2 + chi2)) ** 2, 0.0)
            self.doubt_stage(positions)
            before, positions = positions, self.at(weights, variance, exact=True)
            kept = (self.chi2(positions, variance) < REJECT**2) & ~self.barred
            moved = float(np.abs(positions - before).max(initial=0.0))
            if (kept == good).all() and moved < 0.01:
                break
            good = kept
        return positions, np.where(good, weights, 0.0), good

    def chi2(self, positions: Reals, variance: Reals) -> Reals:
        """Return the squared differences of edges and places over variances (m, 2), summed over both axes."""
        return np.asarray((self.left(positions) ** 2 / variance).sum(1))


def _belief(chi2: Reals) -> Reals:
    return np.maximum((_KNEE**2 / (_KNEE**2 + chi2)) ** 2, _LEAST_BELIEF)
