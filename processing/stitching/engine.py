"""Stitches a montage tile by tile: the one engine of live and offline use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.field import FieldModel
from processing.kernels.placement import Placement, Predictor, place
from processing.stitching._calibrate import Calibration, begin, calibrate
from processing.stitching._edges import TriedPair, edge_of
from processing.stitching._frames import Frames, Loader, fault
from processing.stitching._matching import Surroundings, match_neighbours, overlapping
from processing.stitching._records import solution_of, why_unmatched
from processing.stitching.options import StitchOptions
from processing.stitching.solution import Added, EdgeRecord, Key, StitchSolution, TileInput, TileRecord

__all__ = [
    "Added",
    "EdgeRecord",
    "Key",
    "StitchOptions",
    "StitchSolution",
    "Stitcher",
    "TileInput",
    "TileRecord",
]

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
_LEAST_PAIRS: Final = 4
"""Pairs with blocks before the distortion is fitted for the first time."""
_CLOSEST: Final = 6
"""Solved tiles from which the place of the next is predicted."""


class Stitcher:
    """Takes tiles in any order, matches each with the neighbours that are there, and keeps the solution.

    The mosaic's frame is that of the nominal places, shifted so that the first tile of the largest group of
    matched tiles lies at its nominal place: it does not move while tiles arrive.

    Parameters
    ----------
    options
        How to stitch.
    size_px
        Width and height of the tiles, px.
    expected
        All tiles that will come, where they are known: frames are let go sooner, and only then.
    load
        Gives the frame of a tile that is no longer kept, or None; needed for later attempts of tiles.

    Raises
    ------
    ValueError
        The size is not positive, or the known field is for another.
    """

    def __init__(
        self,
        options: StitchOptions,
        size_px: tuple[int, int],
        expected: Sequence[TileInput] | None = None,
        load: Loader | None = None,
    ) -> None:
        if min(size_px) < 1:
            raise ValueError(f"size_px = {size_px}: width and height of the tiles must be 1 px or more")
        self.options, self.size_px = options, (int(size_px[0]), int(size_px[1]))
        self._first_px, self._near_px, most = options.search_px(self.size_px)
        self._predictor = Predictor(self._first_px, self._near_px, most)
        self._frames = Frames(self.size_px, options.keep_mb, self._first_px, expected, load)
        self._tiles: list[TileInput] = []
        self._index: dict[Key, int] = {}
        self._refused: dict[int, str] = {}
        self._pairs: dict[tuple[int, int], TriedPair] = {}
        self._calibration: Calibration = begin(options, self.size_px)
        self._placement: Placement | None = None
        self._positions = np.zeros((0, 2))
        self._shown = np.zeros((0, 9, 2))
        self._fitted_at = 0

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def field(self) -> FieldModel:
        """The distortion as it is known now."""
        return self._calibration.distorted.field

    @property
    def predictor(self) -> Predictor:
        """What the places of the tiles so far tell of the next."""
        return self._predictor

    @property
    def placement(self) -> Placement | None:
        """Where edges and stage put the tiles, and how the stage errs; None before the first tile."""
        return self._placed() if self._tiles else None

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """Whether a neighbour tells a tile's place, (n,)."""
        return self._placed().matched.copy()

    @property
    def frames_kept(self) -> int:
        """Number of frames that are kept for neighbours still to come."""
        return len(self._frames)

    def positions(self) -> tuple[Reals, Reals]:
        """Return places (n, 2) px and matrices (n, 2, 2) of all tiles, as they are known now."""
        return self._positions.copy(), self._matrices()

    def add(self, tile: TileInput, image: Image) -> Added:
        """Add a tile.

        A frame of another size or type than the others is not used: the stage places the tile, and the reason
        says so.

        Parameters
        ----------
        tile
            Which tile it is; its key is new.
        image
            (y, x) uint8, uint16 or float32, counts; kept by reference while neighbours may come.

        Raises
        ------
        ValueError
            The tile was added before, or its nominal place is not finite; nothing has changed.
        """
        if tile.key in self._index:
            raise ValueError(f"tile {tile.key} was added before; give a later attempt of it to replace()")
        self._check(tile)
        self._index[tile.key] = index = len(self._tiles)
        self._tiles.append(tile)
        return self._take(index, image)

    def replace(self, tile: TileInput, image: Image) -> Added:
        """Put a later attempt of a tile in the place of the one that is there.

        Raises
        ------
        ValueError
            The tile is not there, or the attempt is not a later one; nothing has changed.
        """
        index = self._index.get(tile.key)
        if index is None:
            raise ValueError(f"tile {tile.key} is not there to be replaced; add() it")
        if tile.attempt <= self._tiles[index].attempt:
            raise ValueError(
                f"attempt {tile.attempt} of tile {tile.key} is not later than {self._tiles[index].attempt}, "
                "which is there"
            )
        self._check(tile)
        self._tiles[index] = tile
        self._refused.pop(index, None)
        self._frames.drop(index)
        self._pairs = {ends: pair for ends, pair in self._pairs.items() if index not in ends}
        self._placement = None
        return self._take(index, image)

    def adopt(
        self,
        tiles: Sequence[TileInput] = (),
        pairs: Sequence[TriedPair] = (),
        refused: Mapping[int, str] | None = None,
    ) -> None:
        """Take tiles that were matched elsewhere, and solve all.

        Parameters
        ----------
        tiles
            New tiles; their indices follow those that are there.
        pairs
            Pairs that were tried, by index; one that was tried before is replaced.
        refused
            Why frames are not used, by index.

        Raises
        ------
        ValueError
            As for `add`; nothing has changed.
        """
        for tile in tiles:
            if tile.key in self._index:
                raise ValueError(f"tile {tile.key} was added before")
            self._check(tile)
        for tile in tiles:
            self._index[tile.key] = len(self._tiles)
            self._tiles.append(tile)
        self._refused.update(refused or {})
        for pair in pairs:
            pair.edge = edge_of(pair, self._calibration.distorted)
            self._pairs[pair.first, pair.second] = pair
        self._solve(start=False)

    def solution(self, *, final: bool = True) -> StitchSolution:
        """Return where all tiles lie.

        Parameters
        ----------
        final
            True: solve all anew, which does not depend on the order in which tiles came, with the error on
            matches held out. False: as it is now, at once.
        """
        if final and self._tiles:
            self._finish()
        return solution_of(
            self.size_px,
            self._tiles,
            self._pairs.values(),
            self._positions,
            self._matrices(),
            self._calibration,
            self._placement,
            self._refused,
        )

    def _check(self, tile: TileInput) -> None:
        if len(tile.nominal_px) != 2 or not all(map(math.isfinite, tile.nominal_px)):
            raise ValueError(
                f"nominal_px = {tile.nominal_px} of tile {tile.key} must be two finite numbers, px"
            )

    def _take(self, index: int, image: Image) -> Added:
        tile = self._tiles[index]
        wrong = fault(image, self.size_px)
        tried: list[TriedPair] = []
        if wrong:
            self._refused[index] = wrong
            self._frames.arrived(tile)
        else:
            tried = self._match(index, image)
            self._frames.put(index, tile, image)
        for pair in tried:
            self._pairs[pair.first, pair.second] = pair
        self._solve()
        refitted = self._refit()
        self._frames.release(self._positions)
        placement = self._placed()
        matched = bool(placement.matched[index])
        own = [pair for pair in self._pairs.values() if index in (pair.first, pair.second)]
        reason = why_unmatched(matched, placement.reasons[index], self._refused.get(index), own)
        matches = tuple((self._tiles[pair.first].key, pair.match) for pair in tried)
        return Added(index, matches, matched, reason, self._moved(index), refitted)

    def _match(self, index: int, image: Image) -> list[TriedPair]:
        """Match a tile with the neighbours that are there."""
        usable = [k for k in range(len(self._positions)) if k != index and k not in self._refused]
        if not usable:
            return []
        indices = np.array(usable)
        placement = self._placed()
        nominal = np.asarray(self._tiles[index].nominal_px, np.float64)
        away = np.hypot(*(np.array([self._tiles[k].nominal_px for k in usable]) - nominal).T)
        # those that only the stage places tell no drift, if there are others
        told = placement.matched[indices]
        known = indices[told] if told.any() else indices
        distance = away[told] if told.any() else away
        closest = known[np.argsort(distance, kind="stable")[:_CLOSEST]]
        near = [int(k) for k in closest if np.hypot(*(self._nominal(k) - nominal)) < 2 * max(self.size_px)]
        expected = self._predictor.place((nominal[0], nominal[1]), near or [int(k) for k in closest[:1]])
        area = overlapping(
            expected, self._positions[indices], self.size_px, self.options.min_overlap, self._near_px
        )
        order = [k for k in np.argsort(-area, kind="stable") if area[k] > 0]
        around = Surroundings(
            [int(indices[k]) for k in order],
            self._positions,
            placement.component,
            lambda k: self._frames.get(k, self._tiles[k]),
        )
        return match_neighbours(
            index,
            image,
            expected,
            around,
            self._predictor,
            self._calibration.distorted,
            self.options.pairs,
            near_px=self._near_px,
            widest_px=self._first_px,
        )

    def _nominal(self, index: int) -> Reals:
        return np.asarray(self._tiles[index].nominal_px, np.float64)

    def _placed(self) -> Placement:
        if self._placement is None:
            self._solve()
        assert self._placement is not None
        return self._placement

    def _matrices(self) -> Reals:
        found = np.tile(np.eye(2), (len(self._tiles), 1, 1))
        known = self._calibration.distorted.matrices
        found[: len(known)] = known
        return found

    def _solve(self, start: bool = True) -> None:
        """Place all tiles by the edges as they are."""
        nominal = np.array([tile.nominal_px for tile in self._tiles], np.float64)
        edges = [pair.edge for pair in self._pairs.values() if pair.edge is not None]
        placement = place(nominal, edges, start=self._placement if start else None)
        self._placement = placement
        self._positions = placement.positions_px + self._shift(placement, placement.positions_px)
        joined = [
            (edge.first, edge.second) for edge, no in zip(edges, placement.rejected, strict=True) if not no
        ]
        self._predictor.learn(
            nominal, self._positions, placement.stage_affine, np.array(joined).reshape(-1, 2)
        )

    def _shift(self, placement: Placement, positions: Reals) -> Reals:
        """Return what takes the first tile of the largest group to its nominal place."""
        largest = int(np.argmax(np.bincount(placement.component)))
        first = int(np.argmax(placement.component == largest))
        return np.asarray(self._nominal(first) - positions[first])

    def _blocks(self) -> list[TriedPair]:
        """Return the pairs that have blocks and contradict nothing."""
        accepted = [pair for pair in self._pairs.values() if pair.edge is not None]
        return [
            pair
            for pair, no in zip(accepted, self._placed().rejected, strict=True)
            if not no and pair.blocks is not None
        ]

    def _refit(self) -> bool:
        """Fit the distortion anew where enough tiles have come since the last time."""
        if len(self._tiles) < self.options.refit_growth * max(self._fitted_at, 1):
            return False
        pairs = self._blocks()
        if len(pairs) < _LEAST_PAIRS:
            return False
        self._fitted_at = len(self._tiles)
        self._calibration = calibrate(pairs, self._positions, self.size_px, self.options, holdout=False)
        self._correct()
        self._solve(start=False)
        return True

    def _correct(self) -> None:
        for pair in self._pairs.values():
            pair.edge = edge_of(pair, self._calibration.distorted)

    def _finish(self) -> None:
        """Solve everything from the matches alone."""
        self._calibration = begin(self.options, self.size_px)
        self._correct()
        self._solve(start=False)
        pairs = self._blocks()
        self._calibration = calibrate(pairs, self._positions, self.size_px, self.options, holdout=True)
        self._fitted_at = len(self._tiles)
        fit = self._calibration.fit
        if fit is None or (
            self._calibration.origin == "none" and not len(self._calibration.distorted.matrices)
        ):
            return
        self._correct()
        self._solve(start=False)
        placement = self._placed()
        fitted = np.zeros(len(self._tiles), np.bool_)
        for pair in pairs:
            fitted[[pair.first, pair.second]] = True
        positions = self._positions.copy()
        for group in np.unique(placement.component):
            own = (placement.component == group) & fitted
            if own.any():
                # the blocks tell how tiles lie to each other, edges and stage where their group lies
                shift = (positions[own] - fit.positions_px[own]).mean(0)
                positions[own] = fit.positions_px[own] + shift
        self._positions = positions + self._shift(placement, positions)

    def _moved(self, index: int) -> tuple[int, ...]:
        """Return which tiles lie elsewhere than when this was last asked."""
        width, height = self.size_px
        x, y = (width - 1) / 2 * np.array([-1, 0, 1]), (height - 1) / 2 * np.array([-1, 0, 1])
        points = self.field.undistort(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
        now = self._positions[:, None] + np.einsum("nij,pj->npi", self._matrices(), points)
        moved = np.ones(len(now), np.bool_)
        before = len(self._shown)
        moved[:before] = (np.hypot(*(now[:before] - self._shown).T) > self.options.moved_px).any(0)
        moved[index] = True
        shown = now.copy()
        shown[:before][~moved[:before]] = self._shown[~moved[:before]]
        self._shown = shown
        return tuple(int(k) for k in np.flatnonzero(moved))
