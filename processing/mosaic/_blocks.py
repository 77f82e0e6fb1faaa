"""The mosaic in memory: squares of one shard with their levels, and the levels above them whole."""

from __future__ import annotations

import tempfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.kernels.blend import blend_feather, blend_flat, halve
from processing.kernels.render import Area, Patch
from processing.mosaic._layout import Layout

Pixels = npt.NDArray[Any]
Key = tuple[int, int]
"""Row and column of a block, counted from the one that the mosaic began in."""
_PAGE: Final = 4096
_SPARES: Final = 4
_POPULATE_WRITE: Final = 23
"""Advice that maps all pages of a file, for writing: ``MADV_POPULATE_WRITE`` of Linux."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One shard's area of level 0.

    Attributes
    ----------
    levels
        Pixels of level 0 and of those whose shards cover the same area.
    weights
        (y, x) uint16: depth of the tile shown (flat), or sum of weights (feather).
    totals
        (y, x) uint32: sum of weights times counts (feather), empty otherwise.
    """

    levels: tuple[Pixels, ...]
    weights: npt.NDArray[np.uint16]
    totals: npt.NDArray[np.uint32]

    def reduce(self, area: Area) -> Area:
        """Bring the levels up to date over an area of level 0; return it in the last of them."""
        for above, level in zip(self.levels, self.levels[1:], strict=False):
            area = half(area)
            window = above[2 * area.y0 : 2 * area.y1, 2 * area.x0 : 2 * area.x1]
            halve(window, level[area.y0 : area.y1, area.x0 : area.x1])
        return area

    def blend(
        self,
        to: Area,
        patch: Patch,
        of: tuple[int, int],
        weight: npt.NDArray[np.uint16],
        gain: float,
        offset: float,
        feather: int | None,
    ) -> None:
        """Put on what a tile has of an area.

        Parameters
        ----------
        to
            The area, in the block's pixels.
        patch
            The tile, as drawn.
        of
            Row and column of the patch where the area begins.
        weight
            That of the patch, or what of it is to be used.
        gain, offset
            Of the tile.
        feather
            Depth of full weight in steps of the weight; None: flat.
        """
        window = slice(to.y0, to.y1), slice(to.x0, to.x1)
        own = slice(of[0], of[0] + to.y1 - to.y0), slice(of[1], of[1] + to.x1 - to.x0)
        there, tile = (self.levels[0][window], self.weights[window]), (patch.pixels[own], weight[own])
        if feather is None:
            blend_flat(*there, *tile, gain, offset)
        else:
            blend_feather(*there, self.totals[window], *tile, gain, offset, feather)

    def clear(self, area: Area) -> None:
        """Remove all data from an area of level 0."""
        window = slice(area.y0, area.y1), slice(area.x0, area.x1)
        self.levels[0][window] = 0
        self.weights[window] = 0
        if self.totals.size:
            self.totals[window] = 0


class Blocks:
    """Blocks by their keys; made, by ``begin``, when they are asked for.

    With ``limit_bytes`` each is a scratch file, of which as many are mapped as the limit allows, at least
    one; without, all are in memory. Fresh memory costs more than drawing on it, so spare blocks are made
    ahead by a thread of their own.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        summed: bool,
        begin: Callable[[Key, Block], None],
        limit_bytes: int | None,
        scratch: Path | None,
    ) -> None:
        side = layout.shard_px
        self._planes: list[tuple[tuple[int, int], npt.DTypeLike]] = [
            ((side >> level, side >> level), layout.numpy_dtype) for level in range(layout.inner_levels + 1)
        ]
        self._planes += [((side, side), np.uint16), ((side, side) if summed else (0, 0), np.uint32)]
        self._sizes = [
            -(-prod(shape) * np.dtype(kind).itemsize // _PAGE) * _PAGE for shape, kind in self._planes
        ]
        self._begin = begin
        self._most = None if limit_bytes is None else max(1, limit_bytes // sum(self._sizes))
        self._known: set[Key] = set()
        self._open: OrderedDict[Key, Block] = OrderedDict()
        self._spares: deque[Future[tuple[Path | None, list[Pixels]]]] = deque()
        self._files: dict[Key, Path] = {}
        self._numbers = count()
        self._maker = ThreadPoolExecutor(1, "mosaic-blocks")
        self._folder = (
            None if limit_bytes is None else tempfile.TemporaryDirectory(prefix="mosaic-", dir=scratch)
        )

    def __getitem__(self, key: Key) -> Block:
        """Return a block; views of it must not be kept beyond the next one."""
        block = self._open.get(key)
        if block is not None:
            self._open.move_to_end(key)
            return block
        while self._most is not None and len(self._open) >= self._most:
            self._open.popitem(last=False)
        block = self._open[key] = self._map(key)
        if key not in self._known:
            self._known.add(key)
            self._begin(key, block)
        return block

    def __contains__(self, key: Key) -> bool:
        """Return whether a block is there already."""
        return key in self._known

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys of blocks that are there."""
        return iter(sorted(self._known))

    def close(self) -> None:
        """Remove the scratch files."""
        self._maker.shutdown()
        self._spares.clear()
        self._open.clear()
        self._known.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def _map(self, key: Key) -> Block:
        if key in self._files:
            parts = self._planes_of(self._files[key])
        else:
            path, parts = self._spares.popleft().result() if self._spares else self._made()
            while len(self._spares) < _SPARES:
                self._spares.append(self._maker.submit(self._made))
            if path is not None:
                self._files[key] = path
        return Block(tuple(parts[:-2]), parts[-2], parts[-1])

    def _made(self) -> tuple[Path | None, list[Pixels]]:
        """Return file and planes of a new block, of memory that is there and not only promised."""
        if self._folder is not None:
            path = Path(self._folder.name) / str(next(self._numbers))
            with path.open("wb") as file:
                file.truncate(sum(self._sizes))
            return path, self._planes_of(path)
        parts: list[Pixels] = [np.empty(shape, kind) for shape, kind in self._planes]
        for part in parts:
            part.fill(0)
        return None, parts

    def _planes_of(self, path: Path) -> list[Pixels]:
        """Return the planes of a block in a file, its pages mapped at once: one by one they cost far more."""
        whole = np.memmap(path, np.uint8, "r+")
        with suppress(OSError):  # Linux before 5.14
            whole._mmap.madvise(_POPULATE_WRITE)  # type: ignore[attr-defined]
        starts = np.cumsum([0, *self._sizes])
        return [
            np.ndarray(shape, kind, whole, int(start))
            for (shape, kind), start in zip(self._planes, starts[:-1], strict=True)
        ]


class UpperLevels:
    """The levels above those of the blocks, whole in memory: 1/192 of level 0 or less for shards of 8 chunks.

    ``first`` is the level that the first of them is. Changes are noted by areas counted from block (0, 0), so
    they hold when the mosaic grows to the left or the top.
    """

    def __init__(self, layout: Layout) -> None:
        self.first = layout.inner_levels + 1
        self._side = layout.shard_px >> self.first
        self._dtype = layout.numpy_dtype
        self._top, self._left = 0, 0
        self._arrays: list[Pixels] = []
        self._dirty: list[Area | None] = []

    def resize(self, top: int, left: int, rows: int, columns: int, levels: int) -> None:
        """Cover blocks from (``top``, ``left``) on, and so many levels of the whole pyramid, at least one.

        What is there is kept, and levels that were not there are made from it.
        """
        old, known = self._arrays, len(self._arrays)
        down, right = (self._top - top) * self._side, (self._left - left) * self._side
        self._top, self._left = top, left
        count = max(1, known, levels - self.first)
        self._arrays = []
        for level in range(count):
            size = (rows * self._side) >> level, (columns * self._side) >> level
            fresh = np.zeros(size, self._dtype)
            if level < known:
                y, x = down >> level, right >> level
                height, width = old[level].shape
                fresh[y : y + height, x : x + width] = old[level]
            self._arrays.append(fresh)
        self._dirty += [None] * (count - known)
        for level in range(max(1, known), count):
            whole = Area(0, 0, self._arrays[level].shape[1], self._arrays[level].shape[0])
            self._halve(level, whole)
            self._mark(level, whole)

    def update(self, key: Key, block: Block, area: Area) -> None:
        """Take an area of the last level of a block, in its own pixels, and bring all levels up to date."""
        area = half(area)
        window = block.levels[-1][2 * area.y0 : 2 * area.y1, 2 * area.x0 : 2 * area.x1]
        area = shifted(area, (key[1] - self._left) * self._side, (key[0] - self._top) * self._side)
        halve(window, self._arrays[0][area.y0 : area.y1, area.x0 : area.x1])
        self._mark(0, area)
        for level in range(1, len(self._arrays)):
            area = half(area)
            self._halve(level, area)
            self._mark(level, area)

    def fill(self, level: int, pixels: Pixels) -> None:
        """Take a whole level as it was stored."""
        self._arrays[level - self.first][: pixels.shape[0], : pixels.shape[1]] = pixels

    def window(self, level: int, area: Area) -> Pixels:
        """Return an area of a level, counted from the first pixel that is covered."""
        return self._arrays[level - self.first][area.y0 : area.y1, area.x0 : area.x1]

    def take(self, level: int) -> Area | None:
        """Return what changed in a level since it was asked last, counted as in `window`."""
        index = level - self.first
        area, self._dirty[index] = self._dirty[index], None
        return None if area is None else shifted(area, *(-value for value in self._corner(index)))

    def mark(self, level: int, area: Area) -> None:
        """Note that an area, counted as in `window`, has changed."""
        self._mark(level - self.first, area)

    def _corner(self, index: int) -> tuple[int, int]:
        return (self._left * self._side) >> index, (self._top * self._side) >> index

    def _mark(self, index: int, area: Area) -> None:
        area = shifted(area, *self._corner(index))
        old = self._dirty[index]
        self._dirty[index] = area if old is None else old | area

    def _halve(self, index: int, area: Area) -> None:
        above, level = self._arrays[index - 1], self._arrays[index]
        halve(
            above[2 * area.y0 : 2 * area.y1, 2 * area.x0 : 2 * area.x1],
            level[area.y0 : area.y1, area.x0 : area.x1],
        )


def half(area: Area) -> Area:
    """Return the pixels of the next level that an area touches."""
    return Area(area.x0 // 2, area.y0 // 2, -(-area.x1 // 2), -(-area.y1 // 2))


def shifted(area: Area, x: int, y: int) -> Area:
    """Return an area moved."""
    return Area(area.x0 + x, area.y0 + y, area.x1 + x, area.y1 + y)
