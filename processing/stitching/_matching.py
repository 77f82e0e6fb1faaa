"""Which tiles a new one is matched with, and where it is looked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.blocks import match_blocks
from processing.kernels.pairs import PairMatch, PairOptions, match_pair
from processing.kernels.placement import Predictor
from processing.stitching._edges import Distorted, TriedPair, edge_of

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
_SHARED: Final = 0.3
"""Part of a side that neighbours share; corners that touch tell little."""


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What a new tile may overlap: indices; places (n, 2) and groups (n,) of all tiles; their frames."""

    indices: Sequence[int]
    positions: Reals
    groups: npt.NDArray[np.intp]
    frame: Callable[[int], Image | None]


def overlapping(
    place: Reals, positions: Reals, size_px: tuple[int, int], min_overlap: float, slack_px: float
) -> Reals:
    """Return the area that a tile shares with tiles at positions (n, 2), px^2; 0 where it is too little."""
    size = np.array(size_px, np.float64)
    shared = size - np.abs(positions - place)
    possible = ((shared + slack_px) >= min_overlap * size).all(1) & ((shared / size).max(1) >= _SHARED)
    return np.where(possible, np.maximum(shared, 1.0).prod(1), 0.0)


def match_neighbours(
    index: int,
    image: Image,
    place: Reals,
    around: Surroundings,
    predictor: Predictor,
    distorted: Distorted,
    options: PairOptions,
    *,
    near_px: float,
    widest_px: float,
) -> list[TriedPair]:
    """Match a tile with its neighbours, the first that tells narrowing the search of the others.

    Parameters
    ----------
    index, image
        The tile.
    place
        Where it is expected, px.
    around
        Its neighbours, that of the largest overlap first.
    predictor
        Knows how far the place may be wrong.
    distorted
        What is known of the distortion.
    options
        How pairs are judged.
    near_px
        Range once a neighbour has told the place, px.
    widest_px
        Range of a second look where no neighbour tells the place, px.
    """
    frames = {j: around.frame(j) for j in around.indices}
    tried: dict[int, TriedPair] = {}
    told: dict[int, list[Reals]] = {}

    def look(j: int, expected: Reals, search: tuple[float, float]) -> bool:
        offset = distorted.seen(j, index, expected - around.positions[j])
        frame = frames[j]
        match = _gone(offset) if frame is None else match_pair(frame, image, offset, search, options)
        tried[j] = pair = TriedPair(j, index, match, None, None)
        edge = edge_of(pair, distorted)
        if edge is not None:
            place = around.positions[j] + np.array([edge.dx_px, edge.dy_px])
            told.setdefault(int(around.groups[j]), []).append(place)
        return match.accepted

    for j in around.indices:
        places = told.get(int(around.groups[j]))
        search = predictor.search(place - around.positions[j])
        narrow = min(near_px, search[0]), min(near_px, search[1])
        if places is None or not (look(j, np.mean(places, 0), narrow) or narrow == search):
            look(j, place, search)
    if tried and not told and max(search) < widest_px:
        look(around.indices[0], place, (widest_px, widest_px))
    for j, pair in tried.items():
        frame = frames[j]
        if pair.match.accepted and frame is not None:
            offset = pair.match.dx_px, pair.match.dy_px
            pair.blocks = match_blocks(frame, image, offset, most=options.most_blocks)
            pair.edge = edge_of(pair, distorted)
    return list(tried.values())


def _gone(offset: tuple[float, float]) -> PairMatch:
    reason = (
        "the neighbour's frame is no longer kept; raise keep_mb, name the expected tiles or give a loader"
    )
    return PairMatch(*offset, (math.inf, 0.0, math.inf), 0.0, 0.0, (0, 0), False, reason)
