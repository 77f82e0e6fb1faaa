"""Where small blocks of one tile are found in another: what a distortion of the field is measured with.

Blocks cover what two tiles share; each is looked for in the tile that reaches farther around it, on pixels
binned by 2, and then placed below a pixel (`processing.kernels.subpixel`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.correlation import vertex
from processing.kernels.strips import binned, check_tiles, fault, filled, levelled, shared, smoothed
from processing.kernels.subpixel import refine

Image = npt.NDArray[np.number[Any]]
Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
_SIGMAS_PX: Final = (1.2, 2.4, 4.8)
"""Gaussians tried in turn, until half the blocks are found: noise asks for more."""
_TEXTURED: Final = 0.3
"""Least contrast of a block, of that which a tenth of the blocks exceed."""
_LEAST_BLOCK_PX: Final = 24
_REACH_PX: Final = 2.0
_PLENTY: Final = 2.0
"""So many times the blocks asked for that an overlap has room for, and it is halved first."""
_SPACING: Final = 1.1
"""From block to block, in blocks; across a narrow overlap they lie closer."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockMatches:
    """Places that two tiles show both.

    Attributes
    ----------
    first_px, second_px
        (m, 2) as (x, y), px from each tile's centre.
    ncc
        (m,) normalised correlation of each block.
    """

    first_px: Points
    second_px: Points
    ncc: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ncc)


def match_blocks(
    first: Image,
    second: Image,
    offset_px: tuple[float, float],
    *,
    block_px: int = 64,
    search_px: int = 24,
    min_ncc: float = 0.5,
    most: int | None = None,
) -> BlockMatches:
    """Return where blocks of the overlap of two tiles are found in the other tile.

    Parameters
    ----------
    first, second
        (y, x) uint8, uint16 or float32, of any two sizes.
    offset_px
        Centre of the second less centre of the first, (x, y): to a few pixels.
    block_px
        Side of a block; smaller where the overlap is narrower.
    search_px
        How far a block may lie from where the offset puts it, on each axis.
    min_ncc
        Least correlation of a block.
    most
        Blocks that are looked for, about, spread evenly; None: all that there is room for. Where that is
        twice as many, pixels are binned by 2 before, and a block is twice as wide.

    Returns
    -------
    BlockMatches
        Empty where the overlap is narrower than 24 px or shows nothing.

    Raises
    ------
    TypeError
        A tile is not an array of two dimensions of these types.
    """
    check_tiles(first, second)
    if all(map(math.isfinite, offset_px)):
        if most is not None:
            halved = _halved(first, second, offset_px, block_px, search_px, most)
            if halved is not None:
                small, step, middles = halved
                half = -(-search_px // 2)
                coarse = match_blocks(
                    *small, step, block_px=block_px, search_px=half, min_ncc=min_ncc, most=most
                )
                places = 2 * coarse.first_px + middles[0], 2 * coarse.second_px + middles[1]
                return BlockMatches(*places, coarse.ncc)
        overlap = _Overlap.of(first, second, offset_px, block_px, search_px, most)
        if overlap is not None:
            best = np.empty((0, 5))
            for sigma_px in _SIGMAS_PX:
                found, textured = overlap.found(sigma_px, min_ncc)
                best = found if len(found) > len(best) else best
                if 2 * len(found) >= textured:
                    break
            return BlockMatches(best[:, :2], best[:, 2:4], best[:, 4])
    return BlockMatches(np.empty((0, 2)), np.empty((0, 2)), np.empty(0))


def _halved(
    first: Image,
    second: Image,
    offset_px: tuple[float, float],
    block_px: int,
    search_px: int,
    most: int,
) -> tuple[tuple[Floats, Floats], tuple[float, float], Points] | None:
    """Return the overlap of both tiles in pixels binned by 2, where it has room for more blocks than asked.

    Returns
    -------
    tuple or None
        The two parts, the offset between their centres in binned px, and where these lie in the tiles (2, 2),
        px from their centres. A block is then four times as large: it tells its place as well.
    """
    sides = []
    room = 1.0
    for axis in (0, 1):
        lengths = first.shape[1 - axis], second.shape[1 - axis]
        corner = offset_px[axis] + (lengths[0] - lengths[1]) / 2
        both = shared(*lengths, round(corner))
        if both < 2 * block_px:
            return None
        room *= max(1.0, both / (_SPACING * block_px))
        sides.append(_side(*lengths, corner, 2 * block_px, 2 * search_px))
    if room < _PLENTY * most:
        return None
    x, y = sides
    parts, middles = [], []
    for image, across, down in ((first, x.first, y.first), (second, x.second, y.second)):
        part = image[down, across]
        part = part[: len(part) - len(part) % 2, : part.shape[1] - part.shape[1] % 2]
        parts.append(part)
        middles.append(
            (
                across.start + (part.shape[1] - image.shape[1]) / 2,
                down.start + (part.shape[0] - image.shape[0]) / 2,
            )
        )
    if any(map(fault, parts)):
        return None
    found = np.array(middles)
    step = (np.asarray(offset_px) + found[1] - found[0]) / 2
    small = binned(filled(parts[0]), 2), binned(filled(parts[1]), 2)
    return small, (float(step[0]), float(step[1])), found


@dataclass(frozen=True, slots=True)
class _Side:
    """One axis of an overlap: first pixels of the two cuts, their ends, the shift, where blocks begin."""

    first: slice
    second: slice
    shift: int
    starts: tuple[int, ...]


def _side(first_px: int, second_px: int, corner_px: float, block: int, search: int) -> _Side:
    """Return an axis; the cuts reach ``search`` beyond the overlap and begin at pixels of one pair."""
    shift = round(corner_px)
    low, high = max(0, shift), min(first_px, shift + second_px)
    cuts = []
    for end, back in ((first_px, 0), (second_px, shift)):
        start = max(back, low - search)
        start += (start - low) % 2
        cuts.append(slice(start - back, min(end + back, high + search) - back))
    room = high - low - block
    count = max(1, math.ceil(room / (_SPACING * block)) + 1)
    starts = tuple(low + 2 * round(at / 2) for at in np.linspace(0, room - room % 2, count))
    return _Side(cuts[0], cuts[1], shift, tuple(dict.fromkeys(starts)))


def _thinned(side: _Side, factor: float) -> _Side:
    """Return an axis with fewer blocks by a factor, but two at least: those at both ends."""
    count = len(side.starts)
    kept = np.linspace(0, count - 1, max(min(2, count), round(count / factor))).round().astype(int)
    return replace(side, starts=tuple(side.starts[k] for k in kept))


def _spreads(image: Floats, corners: npt.NDArray[np.intp], side: int) -> Points:
    """Return the standard deviation in squares whose first pixels are ``corners`` (m, 2), as (x, y)."""
    low = np.clip(corners, 0, image.shape[::-1])
    high = np.clip(corners + side, 0, image.shape[::-1])
    (x0, y0), (x1, y1) = low.T, high.T
    count = np.maximum((x1 - x0) * (y1 - y0), 1)
    mean, square = (
        (table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]) / count
        for table in cv2.integral2(image, sdepth=cv2.CV_64F, sqdepth=cv2.CV_64F)
    )
    return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0)))


class _Overlap:
    """What two tiles share, and a little around it."""

    def __init__(
        self, images: tuple[Image, Image], x: _Side, y: _Side, block: int, search: int, centres: Points
    ) -> None:
        self._images = images
        self._x, self._y = x, y
        self._block, self._search = block, search
        self._centres = centres

    @classmethod
    def of(
        cls,
        first: Image,
        second: Image,
        offset_px: tuple[float, float],
        block_px: int,
        search_px: int,
        most: int | None,
    ) -> _Overlap | None:
        """Return the overlap, or None where there is too little."""
        corner = [offset_px[axis] + (first.shape[1 - axis] - second.shape[1 - axis]) / 2 for axis in (0, 1)]
        room = min(
            shared(first.shape[1 - axis], second.shape[1 - axis], round(corner[axis])) for axis in (0, 1)
        )
        block = 2 * (min(block_px, room) // 2)
        if block < min(_LEAST_BLOCK_PX, block_px):
            return None
        search = 2 * math.ceil(search_px / 2)
        x, y = (
            _side(first.shape[1 - axis], second.shape[1 - axis], corner[axis], block, search)
            for axis in (0, 1)
        )
        excess = 1.0 if most is None else max(1.0, len(x.starts) * len(y.starts) / most)
        x, y = _thinned(x, excess**0.5), _thinned(y, excess**0.5)
        cuts = first[y.first, x.first], second[y.second, x.second]
        if any(map(fault, cuts)):
            return None
        centres = np.array([[(n - 1) / 2, (m - 1) / 2] for m, n in (first.shape, second.shape)])
        return cls((filled(cuts[0]), filled(cuts[1])), x, y, block, search, centres)

    def found(self, sigma_px: float, min_ncc: float) -> tuple[Points, int]:
        """Return the blocks found (x, y in the first, x, y in the second, NCC), and how many had texture."""
        fine = smoothed(self._images[0], sigma_px), smoothed(self._images[1], sigma_px)
        coarse = levelled(binned(fine[0], 2), sigma_px, 2), levelled(binned(fine[1], 2), sigma_px, 2)
        places = [(x, y) for y in self._y.starts for x in self._x.starts]
        starts = np.array([self._starts(place) for place in places]).transpose(1, 0, 2)
        contrast = np.minimum(*(_spreads(coarse[n], starts[n] // 2, self._block // 2) for n in (0, 1)))
        textured = contrast >= _TEXTURED * np.quantile(contrast, 0.9)
        rows = []
        for place, worth in zip(places, textured, strict=True):
            row = self._match(fine, coarse, place, sigma_px) if worth else None
            if row is not None and row[-1] >= min_ncc:
                rows.append(row)
        return np.array(rows, float).reshape(-1, 5), int(textured.sum())

    def _starts(self, place: tuple[int, int]) -> list[tuple[int, int]]:
        """Return where a block begins in each cut, (x, y), its place being in the first tile."""
        x, y = place
        return [
            (x - self._x.first.start, y - self._y.first.start),
            (x - self._x.shift - self._x.second.start, y - self._y.shift - self._y.second.start),
        ]

    def _match(
        self,
        fine: tuple[Floats, Floats],
        coarse: tuple[Floats, Floats],
        place: tuple[int, int],
        sigma_px: float,
    ) -> tuple[float, ...] | None:
        """Return where a block is in both tiles, and its correlation."""
        starts = self._starts(place)
        looked = max((0, 1), key=lambda n: self._room(coarse[n], starts[n]))
        lag = self._look(coarse[looked], coarse[1 - looked], starts[looked], starts[1 - looked])
        if lag is None:
            return None
        at = [starts[0], starts[1]]
        whole = round(lag[0]), round(lag[1])
        at[looked] = starts[looked][0] + whole[0], starts[looked][1] + whole[1]
        parts = [self._part(image, x, y) for image, (x, y) in zip(fine, at, strict=True)]
        if parts[0].shape != (self._block, self._block) or parts[1].shape != parts[0].shape:
            return None
        # levelled here: at the border of a frame its own border would show in one of the two
        side = 1 if looked == 0 else -1
        begin = side * (lag[0] - whole[0]), side * (lag[1] - whole[1])
        refined = refine(levelled(parts[0], sigma_px), levelled(parts[1], sigma_px), _REACH_PX, 1, begin)
        if not refined.settled:
            return None
        # what lies at p of the second's part lies at p + d of the first's; both halves move
        middle = (self._block - 1) / 2
        cut = (self._x.first.start, self._y.first.start), (self._x.second.start, self._y.second.start)
        sign = (0.5, -0.5)
        move = refined.dx_px, refined.dy_px
        points = [
            cut[n][axis] + at[n][axis] + middle + sign[n] * move[axis] - self._centres[n, axis]
            for n in (0, 1)
            for axis in (0, 1)
        ]
        return (*points, refined.ncc)

    def _part(self, image: Floats, x: int, y: int) -> Floats:
        return image[max(0, y) : y + self._block, max(0, x) : x + self._block]

    def _room(self, image: Floats, start: tuple[int, int]) -> int:
        """Return how far a block may move in an image on the side where that is least, binned px."""
        half = self._block // 2
        x, y = start[0] // 2, start[1] // 2
        ends = image.shape[1] - half - x, image.shape[0] - half - y
        return int(min(x, y, *ends, self._search // 2))

    def _look(
        self, image: Floats, other: Floats, around: tuple[int, int], start: tuple[int, int]
    ) -> tuple[float, float] | None:
        """Return how far from ``around`` of an image a block of the other lies, px; None at the edge."""
        half, reach = self._block // 2, self._search // 2
        x, y = around[0] // 2, around[1] // 2
        left, top = min(reach, x), min(reach, y)
        area = image[y - top : y + half + reach, x - left : x + half + reach]
        block = other[start[1] // 2 : start[1] // 2 + half, start[0] // 2 : start[0] // 2 + half]
        if block.shape != (half, half) or min(area.shape) < half + 2:
            return None
        ncc = cv2.matchTemplate(area, block, cv2.TM_CCOEFF_NORMED)
        j, i = divmod(int(ncc.argmax()), ncc.shape[1])
        if j in (0, ncc.shape[0] - 1) or i in (0, ncc.shape[1] - 1):
            return None
        dx, dy = vertex(ncc[j], i), vertex(ncc[:, i], j)
        return 2 * (i + dx - left), 2 * (j + dy - top)
