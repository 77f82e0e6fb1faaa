"""Least squares of a shared field with a place and a matrix for each tile: the linear part.

Both coordinates have the same normal matrix: a difference of two tiles' places, of their matrices times the
normalised points, and of the field's terms at both points. The product of matrix and displacement, of second
order, is in the residuals but not in the derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import lapack
from scipy.linalg import solve as solve_dense
from scipy.sparse import linalg as sparse_linalg

from processing.kernels._legendre import degrees, values
from processing.kernels.compiled import compiled

Reals = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
_DENSE: Final = 240
"""Unknowns up to which a dense factorisation is quicker."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Matches of points: tiles (m,), points (m, 2) px from their centres; ``half_px`` (2,) of a tile."""

    first: Indices
    second: Indices
    first_px: Reals
    second_px: Reals
    half_px: Reals

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is fitted: places (n, 2), bends (n, 2, 2) in px at half the frame, coefficients (2, k) px."""

    places: Reals
    bends: Reals
    coefficients: Reals


@dataclass(frozen=True, slots=True, eq=False)
class Ties:
    """Weight of the ties of places to the nominal ones, of bends and of coefficients (k,) to 0."""

    places: float
    bends: float
    coefficients: Reals


class System:
    """The matches with the derivatives of their residuals; rows in the order of pairs."""

    def __init__(self, matches: Matches, tiles: int, degree: int, *, affine: bool) -> None:
        self.order = np.lexsort((matches.second, matches.first))
        first, second = matches.first[self.order], matches.second[self.order]
        self._half = matches.half_px
        self._u = matches.first_px[self.order] / self._half
        self._v = matches.second_px[self.order] / self._half
        self._first, self._second = first, second
        self._phi_first, self._phi_second = values(self._u, degree), values(self._v, degree)
        self.terms, self.tiles, self.affine = len(degrees(degree)), tiles, affine
        one = np.ones(len(first))
        ends = [one, *self._u.T] if affine else [one]
        others = [one, *self._v.T] if affine else [one]
        self._local = np.ascontiguousarray(np.column_stack([*(-column for column in ends), *others]))
        self._shared = self._phi_second - self._phi_first
        changes = np.flatnonzero((np.diff(first) != 0) | (np.diff(second) != 0)) + 1
        self._starts = np.concatenate([[0], changes]).astype(np.intp)
        self._ends = np.append(self._starts[1:], len(first))
        per_tile = 3 if affine else 1
        offsets = np.arange(per_tile)
        self._columns = np.concatenate(
            [first[self._starts, None] * per_tile + offsets, second[self._starts, None] * per_tile + offsets],
            1,
        )
        self.unknowns = per_tile * tiles + self.terms
        self._inner = per_tile * tiles
        grid = np.broadcast_to(self._columns[:, :, None], (*self._columns.shape, self._columns.shape[1]))
        self._rows, self._across = grid.ravel(), grid.transpose(0, 2, 1).ravel()

    def __len__(self) -> int:
        return len(self._first)

    def start(self, nominal: Reals) -> State:
        """Return the state without any distortion."""
        return State(nominal.copy(), np.zeros((self.tiles, 2, 2)), np.zeros((2, self.terms)))

    def residuals(self, state: State) -> Reals:
        """Return the differences (m, 2) of both ends of the matches in the mosaic, px."""
        ends = []
        for tile, points, phi in (
            (self._second, self._v, self._phi_second),
            (self._first, self._u, self._phi_first),
        ):
            ideal = points * self._half + phi @ state.coefficients.T
            if self.affine:
                bends, at = state.bends[tile], ideal / self._half
                ideal = ideal + bends[:, :, 0] * at[:, :1] + bends[:, :, 1] * at[:, 1:]
            ends.append(state.places[tile] + ideal)
        return np.asarray(ends[0] - ends[1])

    def step(self, state: State, residuals: Reals, weights: Reals, ties: Ties, nominal: Reals) -> State:
        """Return the state of least squares with the weights (m,) of the matches."""
        per_tile = 3 if self.affine else 1
        inner = self.unknowns - self.terms
        blocks, cross, shared, right = self._sums(residuals, weights)
        target = np.zeros((self.unknowns, 2))
        for k in range(2):
            target[:inner, k] = -np.bincount(self._columns.ravel(), right[0][:, :, k].ravel(), inner)
        target[inner:] = -right[1]
        diagonal = np.full((self.tiles, per_tile), ties.bends)
        diagonal[:, 0] = ties.places
        now = np.zeros((self.tiles, per_tile, 2))
        now[:, 0] = state.places - nominal
        if self.affine:
            now[:, 1:] = state.bends.transpose(0, 2, 1)
        target[:inner] -= (diagonal[:, :, None] * now).reshape(inner, 2)
        target[inner:] -= ties.coefficients[:, None] * state.coefficients.T
        shared = shared + np.diag(ties.coefficients)
        change = self._solve(blocks, cross, shared, diagonal.ravel(), target)
        local = change[:inner].reshape(self.tiles, per_tile, 2)
        return replace(
            state,
            places=state.places + local[:, 0],
            bends=state.bends + local[:, 1:].transpose(0, 2, 1) if self.affine else state.bends,
            coefficients=state.coefficients + change[inner:].T,
        )

    def _sums(self, residuals: Reals, weights: Reals) -> tuple[Reals, Reals, Reals, tuple[Reals, Reals]]:
        """Return the parts of the normal equations, those of tiles summed by pairs."""
        columns, width = np.concatenate([self._shared, residuals], 1), self._local.shape[1]
        sums, shared = _products(self._local, columns, weights, self._starts, self._ends)
        blocks, cross, right = np.split(sums, [width, width + self.terms], axis=2)
        return blocks, cross, shared[: self.terms, : self.terms], (right, shared[: self.terms, self.terms :])

    def _solve(self, blocks: Reals, cross: Reals, shared: Reals, diagonal: Reals, target: Reals) -> Reals:
        inner = self._inner
        border = np.zeros((inner, self.terms))
        for k in range(self.terms):
            border[:, k] = np.bincount(self._columns.ravel(), cross[:, :, k].ravel(), inner)
        if self.unknowns <= _DENSE:
            whole = np.empty((self.unknowns, self.unknowns))
            whole[:inner, :inner] = np.bincount(
                self._rows * inner + self._across, blocks.ravel(), inner * inner
            ).reshape(inner, inner)
            whole[np.arange(inner), np.arange(inner)] += diagonal
            whole[:inner, inner:], whole[inner:, :inner] = border, border.T
            whole[inner:, inner:] = shared
            _, solution, failed = lapack.dposv(whole, target)
            return np.asarray(solution if not failed else np.linalg.solve(whole, target), np.float64)
        everyone = np.arange(inner)
        entries = np.concatenate([blocks.ravel(), diagonal])
        where = np.concatenate([self._rows, everyone]), np.concatenate([self._across, everyone])
        factor = sparse_linalg.splu(
            sparse.csc_matrix((entries, where), shape=(inner, inner)),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        done = factor.solve(np.concatenate([border, target[:inner]], 1))
        if not self.terms:
            return np.asarray(done)
        through, alone = done[:, : self.terms], done[:, self.terms :]
        outer = solve_dense(shared - border.T @ through, target[inner:] - border.T @ alone, assume_a="pos")
        return np.concatenate([alone - through @ outer, outer])


@compiled
def _products(
    local: Reals, shared: Reals, weights: Reals, starts: Indices, ends: Indices
) -> tuple[Reals, Reals]:
    """Return the weighted products of the local columns with all for each pair, and of the shared ones."""
    width, terms = local.shape[1], shared.shape[1]
    found = np.zeros((len(starts), width, width + terms))
    whole = np.zeros((terms, terms))
    for pair in range(len(starts)):
        for row in range(starts[pair], ends[pair]):
            for i in range(width):
                weighted = weights[row] * local[row, i]
                for j in range(width):
                    found[pair, i, j] += weighted * local[row, j]
                for j in range(terms):
                    found[pair, i, width + j] += weighted * shared[row, j]
            for i in range(terms):
                weighted = weights[row] * shared[row, i]
                for j in range(terms):
                    whole[i, j] += weighted * shared[row, j]
    return found, whole
