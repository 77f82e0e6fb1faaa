"""All tiles of a montage matched and placed, in rounds of jobs that know nothing of each other.

First a few parts of the montage are matched, searching as far as the stage may be wrong at worst. They tell
how wrong it is, and the rest is matched by that. Tiles that nothing matched are then looked for once more in
the widest range, and so are pairs that only the places found show to overlap. Which jobs there are follows
from the tiles and the results so far, so the solution is the same whoever does them, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from processing.stitching._edges import TriedPair
from processing.stitching._jobs import Look, Matched, MatchJob, match_job, needed
from processing.stitching._matching import overlapping
from processing.stitching.engine import Stitcher
from processing.stitching.options import StitchOptions
from processing.stitching.sources import SourceTile
from processing.stitching.workers import Record, Workers, run_recorded

Reals = npt.NDArray[np.float64]
Cell = tuple[int, int]
_TILES: Final = 16
"""Tiles a job, about: it reads about ten more around them."""
_WIDEST_SIDES: Final = 4.0
_FIRST_CELLS: Final = 4
_MOST_ROUNDS: Final = 5
_NARROWER: Final = 0.7
"""A pair is looked at again in a range that is smaller by this factor, or more."""


class Rounds:
    """Matches tiles in rounds.

    Parameters
    ----------
    tiles
        The tiles, in the order of the solution.
    options
        How to stitch.
    size_px
        Width and height of the tiles.
    workers, record
        Who matches, and what was matched before.
    judged
        Called with what each job found, as it comes, and for how many tiles it was the first to read.

    Raises
    ------
    ValueError
        As for `Stitcher`.
    """

    def __init__(
        self,
        tiles: Sequence[SourceTile],
        options: StitchOptions,
        size_px: tuple[int, int],
        workers: Workers,
        record: Record | None,
        judged: Callable[[Matched, int], None],
    ) -> None:
        self._tiles, self._options, self._size = tiles, options, size_px
        self._workers, self._record, self._judged = workers, record, judged
        self._first_px, self._near_px, _ = options.search_px(size_px)
        self.stitcher = Stitcher(options, size_px)
        self.stitcher.adopt([one.tile for one in tiles])
        self._cells = _cells(np.array([one.tile.nominal_px for one in tiles], np.float64), size_px)
        self._members: dict[Cell, list[int]] = {}
        for index, cell in enumerate(self._cells):
            self._members.setdefault(cell, []).append(index)
        self._seen: set[Cell] = set()
        self._tried: set[tuple[int, int]] = set()
        self._failed: dict[tuple[int, int], float] = {}
        self.levels: dict[tuple[int, int], tuple[float, float]] = {}
        self.faults: dict[int, str] = {}

    def run(self) -> None:
        """Match all that overlaps."""
        looks = self._looks()
        cells = sorted(self._by_cell(looks))
        steps = min(len(cells), _FIRST_CELLS)
        first = {cells[(2 * k + 1) * len(cells) // (2 * steps)] for k in range(steps)}
        self._match([look for look in looks if self._cells[look.second] in first], first)
        everywhere = self._members.keys()
        for number in range(_MOST_ROUNDS):
            looks = self._looks()
            if number == 1:
                looks += self._second_looks()
            unseen = everywhere - self._seen
            if looks or unseen:
                self._match(looks, unseen)
            elif number:
                return

    def _looks(self) -> list[Look]:
        """Return the pairs that overlap as the places are now, and were not tried."""
        found = []
        positions, _ = self.stitcher.positions()
        for i, j in _near(positions, self._size, self._near_px):
            if (i, j) not in self._tried and i not in self.faults and j not in self.faults:
                step = positions[j] - positions[i]
                if self._area(step) > 0:
                    found.append(Look(i, j, (float(step[0]), float(step[1])), self._range(step)))
        return found

    def _second_looks(self) -> list[Look]:
        """Return pairs that did not match and are worth another look.

        Those that were searched far more widely than the places now ask for, as chance reaches less in a
        smaller range; and of each tile that nothing matched the pair that should share most, searched widely.
        """
        positions, _ = self.stitcher.positions()
        matched = self.stitcher.matched
        found: dict[tuple[int, int], Look] = {}
        best: dict[int, tuple[float, Look]] = {}
        for (i, j), range_px in self._failed.items():
            step = positions[j] - positions[i]
            area, now = self._area(step), self._range(step)
            at = float(step[0]), float(step[1])
            if area <= 0:
                continue
            if max(now) < _NARROWER * range_px:
                found[i, j] = Look(i, j, at, now)
            elif max(now) < self._first_px:
                look = Look(i, j, at, (self._first_px, self._first_px))
                for tile in (k for k in (i, j) if not matched[k]):
                    if area > best.get(tile, (0.0, look))[0]:
                        best[tile] = area, look
        found.update({(look.first, look.second): look for _, look in best.values()})
        return [found[pair] for pair in sorted(found)]

    def _area(self, step: Reals) -> float:
        return float(
            overlapping(np.zeros(2), step[None], self._size, self._options.min_overlap, self._near_px)[0]
        )

    def _range(self, step: Reals) -> tuple[float, float]:
        return self.stitcher.predictor.search(step)

    def _by_cell(self, looks: Iterable[Look]) -> dict[Cell, list[Look]]:
        found: dict[Cell, list[Look]] = {}
        for look in looks:
            found.setdefault(self._cells[look.second], []).append(look)
        return found

    def _match(self, looks: Sequence[Look], unseen: set[Cell]) -> None:
        """Match pairs, and judge the frames of cells that were not judged yet."""
        groups = self._by_cell(looks)
        jobs = []
        for cell in sorted(groups.keys() | unseen):
            # tile by tile, the largest overlap of each first
            order = sorted(
                groups.get(cell, []),
                key=lambda look: (look.second, -round(self._area(np.array(look.step_px))), look.first),
            )
            own = [] if cell in self._seen else self._members[cell]
            self._seen.add(cell)
            jobs.append(self._job(order, own))
        results = run_recorded(
            self._workers,
            self._record,
            match_job,
            jobs,
            encode=Matched.to_json,
            decode=Matched.from_json,
            keep=lambda result: not any(one.absent for one in result.unread.values()),
            done=lambda index, result: self._judged(result, len(jobs[index].own)),
        )
        pairs: list[TriedPair] = []
        for result in results:
            pairs += result.pairs
            self.levels.update(result.levels)
            self.faults.update(result.faults)
            self.faults.update({index: one.reason for index, one in result.unread.items()})
        ranges = {(look.first, look.second): max(look.search_px) for look in looks}
        for pair in pairs:
            ends = pair.first, pair.second
            self._tried.add(ends)
            self._failed.pop(ends, None)
            if not pair.match.accepted:
                self._failed[ends] = ranges[ends]
        self.stitcher.adopt(pairs=pairs, refused=self.faults)

    def _job(self, looks: Sequence[Look], own: Sequence[int]) -> MatchJob:
        options = self._options
        return MatchJob(
            tuple((k, self._tiles[k].frame) for k in needed(looks, own)),
            tuple(own),
            tuple(looks),
            self._size,
            self._near_px,
            options.field,
            options.pairs,
            options.keep_mb,
        )


def _cells(places: Reals, size_px: tuple[int, int]) -> list[Cell]:
    """Return the part of the montage that each tile belongs to: squares of about `_TILES` tiles."""
    size = np.array(size_px, np.float64)
    low = places.min(0)
    extent = np.ptp(places, axis=0) + size
    side = np.sqrt(_TILES * extent.prod() / len(places) / size.prod()) * size
    side = np.clip(side, size, _WIDEST_SIDES * size)
    return [(int(y), int(x)) for x, y in (places - low) // side]


def _near(positions: Reals, size_px: tuple[int, int], slack_px: float) -> list[tuple[int, int]]:
    """Return the pairs of tiles, in order, that may overlap."""
    tree = cKDTree(positions / np.array(size_px, np.float64))
    pairs = tree.query_pairs(1 + slack_px / min(size_px), p=np.inf, output_type="ndarray")
    pairs = np.sort(pairs, axis=1)
    return [(int(i), int(j)) for i, j in pairs[np.lexsort(pairs.T[::-1])]]
