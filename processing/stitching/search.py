"""Where tiles lie of which nothing is known: all pairs are compared at low resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.kernels.pairs import PairMatch, PairOptions, match_pair
from processing.stitching.frame_files import FrameError, FrameFile

MOST_TILES: Final = 30
_SIDE_PX: Final = 512
_BESIDE: Final = ((0.8, 0.0, 0.18, 0.25), (0.0, 0.8, 0.25, 0.18))
"""Where neighbours may lie: expected place and range along x and y, of a tile's sides; on either side."""
_STRICT: Final = PairOptions(min_ncc=0.25, false_rate=1e-9, candidates=16)
"""Without a stage to contradict a wrong match, only sure ones count."""
_WRONG: Final = 6.0
"""Pixels of the reduced tiles by which a match contradicts others."""


@dataclass(frozen=True, slots=True)
class Found:
    """Places of tiles, px; None and a reason where none was found. ``search_px``: how far they may be off."""

    places: tuple[tuple[float, float] | None, ...]
    reasons: tuple[str, ...]
    search_px: float


def find_places(where: Path, frames: Sequence[FrameFile], size_px: tuple[int, int]) -> Found:
    """Return where tiles lie to each other, from what they show.

    The tiles that hang together in the largest group are placed; the first of them lies at (0, 0).

    Raises
    ------
    ConfigurationError
        There are too many tiles to compare all with all.
    """
    if len(frames) > MOST_TILES:
        raise ConfigurationError(
            f"nothing says where the {len(frames)} tiles in {where} lie, and more than {MOST_TILES} are not "
            "compared all with all: give their positions (--positions FILE), or how their names give row and "
            "column (--pattern 'tile_{row}_{column}')"
        )
    factor = max(1.0, max(size_px) / _SIDE_PX)
    small: list[npt.NDArray[np.float32] | None] = []
    reasons = [""] * len(frames)
    for k, frame in enumerate(frames):
        try:
            small.append(_reduced(frame, size_px, factor))
        except FrameError as error:
            small.append(None)
            reasons[k] = str(error)
    links = _links(small)
    groups = _joined(len(frames), links)
    largest = max(groups, key=len)
    places: list[tuple[float, float] | None] = [None] * len(frames)
    for k, (x, y) in largest.items():
        places[k] = x * factor, y * factor
    for k, place in enumerate(places):
        if place is None and not reasons[k]:
            reasons[k] = "no other tile of the largest group shows a part of it; give its position"
    return Found(tuple(places), tuple(reasons), max(24.0, 4 * factor))


def _reduced(frame: FrameFile, size_px: tuple[int, int], factor: float) -> npt.NDArray[np.float32]:
    image = np.asarray(frame.read(), np.float32)
    if image.shape != size_px[::-1]:
        raise FrameError(f"{frame.path} has another size than most tiles")
    size = round(size_px[0] / factor), round(size_px[1] / factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _links(small: Sequence[npt.NDArray[np.float32] | None]) -> list[tuple[float, int, int, PairMatch]]:
    """Return the pairs that match, the surest first."""
    links = []
    for i, first in enumerate(small):
        for j in range(i + 1, len(small)):
            second = small[j]
            if first is None or second is None:
                continue
            match = _best(first, second)
            if match is not None:
                links.append((match.ncc * float(np.sqrt(np.prod(match.overlap_px))), i, j, match))
    return sorted(links, key=lambda one: -one[0])


def _best(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> PairMatch | None:
    """Return the surest match of two tiles, wherever they lie beside each other."""
    rows, columns = first.shape
    found = []
    for x, y, wide, high in _BESIDE:
        for side in (-1, 1):
            expected, search = (side * x * columns, side * y * rows), (wide * columns, high * rows)
            match = match_pair(first, second, expected, search, _STRICT)
            if match.accepted:
                found.append(match)
    return max(found, key=lambda one: one.ncc * one.z, default=None)


def _joined(
    count: int, links: Sequence[tuple[float, int, int, PairMatch]]
) -> list[dict[int, tuple[float, float]]]:
    """Return groups of tiles with their places: joined by the surest links that contradict none before."""
    groups = [{k: (0.0, 0.0)} for k in range(count)]
    for _, i, j, match in links:
        one = next(group for group in groups if i in group)
        other = next(group for group in groups if j in group)
        if one is other:
            continue
        shift = one[i][0] + match.dx_px - other[j][0], one[i][1] + match.dy_px - other[j][1]
        moved = {k: (x + shift[0], y + shift[1]) for k, (x, y) in other.items()}
        if _contradicted({**one, **moved}, set(one), links):
            continue
        one.update(moved)
        groups.remove(other)
    return groups


def _contradicted(
    places: dict[int, tuple[float, float]], old: set[int], links: Sequence[tuple[float, int, int, PairMatch]]
) -> bool:
    """Return whether more links between the old and the new part deny these places than agree."""
    votes = 0
    for _, i, j, match in links:
        if i in places and j in places and (i in old) != (j in old):
            error = (
                places[j][0] - places[i][0] - match.dx_px,
                places[j][1] - places[i][1] - match.dy_px,
            )
            votes += 1 if max(map(abs, error)) < _WRONG else -1
    return votes < 0
