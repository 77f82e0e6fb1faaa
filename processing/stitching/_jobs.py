"""Pairs of tiles that are matched together: a job reads the frames of a few tiles where it runs, once each.

Jobs know nothing of each other. What they need is numbers and the places of files, what they return is
numbers: they run in this process or anywhere (`processing.stitching.cluster`), with the same result.
"""

from __future__ import annotations

import functools
import math
import socket
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from processing.kernels.blocks import BlockMatches, match_blocks
from processing.kernels.field import FieldModel
from processing.kernels.pairs import PairMatch, PairOptions, match_pair
from processing.stitching._edges import Distorted, TriedPair, edge_of
from processing.stitching._frames import fault
from processing.stitching.frame_files import Frame, FrameCache, FrameError, Image

Reals = npt.NDArray[np.float64]
Step = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Look:
    """A pair to be matched: indices, expected step between the centres, and how far it may be wrong, px."""

    first: int
    second: int
    step_px: Step
    search_px: Step


@dataclass(frozen=True, slots=True)
class MatchJob:
    """Pairs that are matched together.

    Attributes
    ----------
    frames
        (index, frame) of all tiles that the pairs have.
    own
        Tiles whose frames are judged by this job.
    looks
        The pairs, in this order: the step of one whose tiles those before join already is known from them.
    size_px
        Width and height of the tiles.
    near_px
        Range where the step is known, px.
    field
        The known distortion.
    options
        How pairs are judged.
    keep_mb
        Frames that the process keeps for its next job, 10^6 bytes.
    """

    frames: tuple[tuple[int, Frame], ...]
    own: tuple[int, ...]
    looks: tuple[Look, ...]
    size_px: tuple[int, int]
    near_px: float
    field: FieldModel | None
    options: PairOptions
    keep_mb: float


@dataclass(frozen=True, slots=True)
class Unread:
    """A frame that could not be read: why, on which host, and whether the file was not there at all."""

    reason: str
    host: str
    absent: bool


@dataclass(frozen=True, slots=True)
class Matched:
    """What a job found.

    Attributes
    ----------
    pairs
        The pairs that were tried.
    levels
        For each pair that matched, by its tiles, the mean of both over what both show, counts.
    faults, unread
        Why frames of the job's own tiles are not used, and which of all its frames could not be read.
    """

    pairs: tuple[TriedPair, ...]
    levels: dict[tuple[int, int], Step]
    faults: dict[int, str]
    unread: dict[int, Unread]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON; the steps of pairs, which follow from the rest, are left out."""
        pairs = [
            (
                pair.first,
                pair.second,
                astuple(pair.match),
                None if pair.blocks is None else _table(pair.blocks),
            )
            for pair in self.pairs
        ]
        return {
            "pairs": pairs,
            "levels": [(*ends, *means) for ends, means in self.levels.items()],
            "faults": [*self.faults.items()],
            "unread": [(index, *astuple(one)) for index, one in self.unread.items()],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return what `to_json` described."""
        pairs = []
        for first, second, (x, y, covariance, ncc, z, overlap, accepted, reason), table in content["pairs"]:
            match = PairMatch(x, y, tuple(covariance), ncc, z, tuple(overlap), accepted, reason)
            pairs.append(TriedPair(first, second, match, None if table is None else _blocks(table), None))
        return cls(
            tuple(pairs),
            {(i, j): (a, b) for i, j, a, b in content["levels"]},
            dict(content["faults"]),
            {index: Unread(*one) for index, *one in content["unread"]},
        )


def _table(blocks: BlockMatches) -> list[list[float]]:
    table: list[list[float]] = np.column_stack([blocks.first_px, blocks.second_px, blocks.ncc]).tolist()
    return table


def _blocks(table: list[list[float]]) -> BlockMatches:
    values = np.array(table, np.float64).reshape(-1, 5)
    return BlockMatches(values[:, 0:2].copy(), values[:, 2:4].copy(), values[:, 4].copy())


@functools.lru_cache(maxsize=1)
def process_cache(keep_mb: float) -> FrameCache:
    """Return the cache of frames that all jobs of this process share."""
    return FrameCache(keep_mb)


class _Joined:
    """Places of tiles to each other, as far as matched pairs join them."""

    def __init__(self) -> None:
        self._at: dict[int, tuple[int, Reals]] = {}

    def step(self, first: int, second: int) -> Reals | None:
        """Return the step between two tiles, or None where nothing joins them."""
        one, other = self._at.get(first), self._at.get(second)
        return None if one is None or other is None or one[0] != other[0] else other[1] - one[1]

    def join(self, first: int, second: int, step_px: Reals) -> None:
        """Note a step; of tiles that are joined already the first one counts."""
        group, at = self._at.setdefault(first, (first, np.zeros(2)))
        other, there = self._at.setdefault(second, (second, np.zeros(2)))
        if group != other:
            shift = at + step_px - there
            for tile, (own, place) in self._at.items():
                if own == other:
                    self._at[tile] = group, place + shift


def match_job(job: MatchJob) -> Matched:
    """Match the pairs of a job.

    A pair is looked for where the stage expects it; once its tiles are joined by others, narrowly where those
    say, and where that fails in the full range again.
    """
    frames, faults, unread = _read(job)
    distorted = Distorted(job.field or FieldModel.identity(*job.size_px), np.zeros((0, 2, 2)))
    joined, tried = _Joined(), []
    levels: dict[tuple[int, int], Step] = {}
    for look in job.looks:
        first, second = frames.get(look.first), frames.get(look.second)
        if first is None or second is None:
            continue
        known = joined.step(look.first, look.second)
        narrow = min(job.near_px, look.search_px[0]), min(job.near_px, look.search_px[1])
        match = None
        if known is not None:
            match = match_pair(
                first, second, distorted.seen(look.first, look.second, known), narrow, job.options
            )
        if match is None or not (match.accepted or narrow == look.search_px):
            offset = distorted.seen(look.first, look.second, np.array(look.step_px))
            match = match_pair(first, second, offset, look.search_px, job.options)
        pair = TriedPair(look.first, look.second, match, None, None)
        if match.accepted:
            pair.blocks = match_blocks(first, second, (match.dx_px, match.dy_px))
            pair.edge = edge = edge_of(pair, distorted)
            assert edge is not None
            joined.join(look.first, look.second, np.array([edge.dx_px, edge.dy_px]))
            levels[look.first, look.second] = shared_means(first, second, (match.dx_px, match.dy_px))
        tried.append(pair)
    return Matched(tuple(tried), levels, faults, unread)


def _read(job: MatchJob) -> tuple[dict[int, Image], dict[int, str], dict[int, Unread]]:
    """Return the frames that can be used, and what is wrong with those that are the job's own."""
    cache = process_cache(job.keep_mb)
    frames, faults, unread = {}, {}, {}
    for index, frame in job.frames:
        try:
            image = cache.read(frame)
        except FrameError as error:
            unread[index] = Unread(str(error), socket.gethostname(), frame.absent())
            continue
        wrong = fault(image, job.size_px)
        if not wrong:
            frames[index] = image
        elif index in job.own:
            faults[index] = wrong
    return frames, faults, unread


def shared_means(first: Image, second: Image, offset_px: Step) -> Step:
    """Return the mean of two tiles over what both show, counts; NaN where that is nothing."""
    means = []
    for image, sign in ((first, 1), (second, -1)):
        height, width = image.shape
        dx, dy = (round(sign * offset) for offset in offset_px)
        part = image[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        finite = part if part.dtype.kind != "f" else part[np.isfinite(part)]
        means.append(float(finite.mean()) if finite.size else math.nan)
    return means[0], means[1]


def needed(looks: Iterable[Look], own: Iterable[int]) -> list[int]:
    """Return the tiles whose frames a job reads."""
    return sorted({end for look in looks for end in (look.first, look.second)} | set(own))
