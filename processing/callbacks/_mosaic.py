"""A reduced picture of a montage that grows tile by tile, of bounded size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Place = tuple[int, int, int]
"""Region, row and column of a tile."""


class Candidate(Protocol):
    """An acquisition of a tile; ``state`` is its verdict, None while there is none."""

    @property
    def state(self) -> str | None:
        """The verdict."""
        ...


CandidateT = TypeVar("CandidateT", bound=Candidate)


@dataclass(slots=True)
class _Candidate:
    """One acquisition of a tile: reduced pixels, and the place of its centre in full pixels of the camera."""

    index: int
    pixels: Pixels
    centre_px: tuple[float, float]
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A mosaic put together.

    Attributes
    ----------
    pixels
        (y, x) uint16, counts; 0 where there is no tile.
    covered
        (y, x) bool, true where there is one.
    reduction
        Camera pixels a pixel of the picture.
    origin_px
        Camera coordinates (column, row) of the centre of pixel (0, 0), in camera pixels.
    """

    pixels: npt.NDArray[np.uint16]
    covered: npt.NDArray[np.bool_]
    reduction: int
    origin_px: tuple[float, float]


@dataclass(slots=True)
class Mosaic:
    """Reduced tiles by their place in the grid; the better of several acquisitions is shown.

    ``max_px`` bounds both sides of the picture: when tiles reach further, all are reduced by another factor
    of two. ``reduction`` is the factor to begin with.
    """

    reduction: int
    max_px: int
    _places: dict[Place, list[_Candidate]] = field(default_factory=dict)
    _place_of: dict[int, Place] = field(default_factory=dict)
    _reach: list[float] = field(default_factory=lambda: [math.inf, math.inf, -math.inf, -math.inf])

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: Place, index: int, frame: npt.NDArray[Any], centre_px: tuple[float, float]) -> None:
        """Add an acquisition of a tile, whose centre lies at camera coordinates ``(column, row)``."""
        candidate = _Candidate(index, _reduce(frame, self.reduction), centre_px)
        self._places.setdefault(place, []).append(candidate)
        self._place_of[index] = place
        (rows, columns), (u, v), reach = frame.shape, centre_px, self._reach
        reach[:2] = min(reach[0], u - columns / 2), min(reach[1], v - rows / 2)
        reach[2:] = max(reach[2], u + columns / 2), max(reach[3], v + rows / 2)
        longest = max(reach[2] - reach[0], reach[3] - reach[1])
        while self.reduction < min(frame.shape) and longest / self.reduction > self.max_px - 2:
            self.reduction *= 2
            for candidates in self._places.values():
                for one in candidates:
                    one.pixels = _reduce(one.pixels, 2)

    def judge(self, index: int, state: str) -> None:
        """Note whether an acquisition passed or failed."""
        place = self._place_of.get(index)
        if place is None:
            return
        candidates = self._places[place]
        for candidate in candidates:
            if candidate.index == index:
                candidate.state = state
        shown = best(candidates)
        candidates[:] = [one for one in candidates if one is shown or one.index > shown.index]

    def indices(self) -> list[int]:
        """Return the indices of the acquisitions that are shown, in the order of their acquisition."""
        return sorted(best(candidates).index for candidates in self._places.values())

    def picture(self) -> Picture:
        """Put the tiles together; where they overlap, each weighs less towards its edges."""
        left, top, width, height = self._extent()
        total = np.zeros((height, width), np.float32)
        weights = np.zeros((height, width), np.float32)
        for candidate in sorted(map(best, self._places.values()), key=lambda one: one.index):
            x, y = self._corner(candidate)
            rows, columns = candidate.pixels.shape
            part = slice(y - top, y - top + rows), slice(x - left, x - left + columns)
            weight = _feather(rows, columns)
            total[part] += weight * candidate.pixels
            weights[part] += weight
        covered = weights > 0
        np.divide(total, weights, out=total, where=covered)
        pixels = np.clip(np.rint(total), 0, 65535).astype(np.uint16)
        offset = (self.reduction - 1) / 2
        origin = (left * self.reduction + offset, top * self.reduction + offset)
        return Picture(pixels, covered, self.reduction, origin)

    def _corner(self, candidate: _Candidate) -> tuple[int, int]:
        rows, columns = candidate.pixels.shape
        u, v = candidate.centre_px
        return round(u / self.reduction - columns / 2), round(v / self.reduction - rows / 2)

    def _extent(self) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the picture, in its pixels."""
        tiles = [one for candidates in self._places.values() for one in candidates]
        corners = [self._corner(tile) for tile in tiles]
        left, top = min(x for x, _ in corners), min(y for _, y in corners)
        right = max(x + tile.pixels.shape[1] for (x, _), tile in zip(corners, tiles, strict=True))
        bottom = max(y + tile.pixels.shape[0] for (_, y), tile in zip(corners, tiles, strict=True))
        return left, top, right - left, bottom - top


def best(candidates: Sequence[CandidateT]) -> CandidateT:
    """Return the newest acquisition of a tile, the last, unless it failed and an older one passed."""
    passed = [one for one in candidates if one.state in ("pass", "needs_review")]
    return passed[-1] if candidates[-1].state == "fail" and passed else candidates[-1]


def _reduce(frame: npt.NDArray[Any], factor: int) -> Pixels:
    size = math.ceil(frame.shape[1] / factor), math.ceil(frame.shape[0] / factor)
    small = frame if factor == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _feather(rows: int, columns: int) -> Pixels:
    """Return weights that fall to the edges, but not to 0 there: no gaps."""
    ramps = [np.minimum(np.arange(n) + 1, n - np.arange(n)).astype(np.float32) for n in (rows, columns)]
    return np.asarray(np.minimum.outer(*ramps), np.float32)


def eight_bit(picture: Picture) -> npt.NDArray[np.uint8]:
    """Return a picture to look at: from the darkest to the brightest half percent, black where no tile is."""
    inside = picture.pixels[picture.covered]
    low, high = np.percentile(inside, (0.5, 99.5))
    scaled = (picture.pixels.astype(np.float32) - low) * (255 / max(1.0, float(high - low)))
    return np.where(picture.covered, np.clip(scaled, 0, 255), 0).astype(np.uint8)
