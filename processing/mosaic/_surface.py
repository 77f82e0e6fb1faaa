"""The pixels of a mosaic: what is in memory, what of it is not on disk yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from processing.kernels.blend import FRACTIONS, sums_of
from processing.kernels.render import WEIGHT_STEPS, Area, Patch, tile_weight
from processing.mosaic._blocks import Block, Blocks, Key, Pixels, UpperLevels, shifted
from processing.mosaic._tiles import ShownTile
from processing.mosaic.pyramid import PyramidStore


class Surface:
    """The pixels of a mosaic and of all its levels; areas are in the mosaic's coordinates.

    ``shown`` are the tiles that the store shows already, in its order.
    """

    def __init__(
        self,
        store: PyramidStore,
        *,
        feather_px: float | None,
        limit_bytes: int | None,
        scratch: Path | None,
        shown: Sequence[ShownTile],
    ) -> None:
        self.store = store
        self._feather = None if feather_px is None else max(1, round(feather_px * WEIGHT_STEPS))
        self._shown = list(shown)
        self._side = store.layout.shard_px
        self._blocks = Blocks(
            store.layout,
            summed=feather_px is not None,
            begin=self._thaw,
            limit_bytes=limit_bytes,
            scratch=scratch,
        )
        self._upper = UpperLevels(store.layout)
        self._dirty: dict[Key, Area] = {}
        self._lock = threading.RLock()
        self._flushing = threading.RLock()
        self._anchor: tuple[int, int] | None = None
        if store.placed:
            self._place()
            if self._shown:
                self._fill_upper()

    def cover(self, area: Area) -> None:
        """Make room for an area."""
        if self.store.placed and (self.store.area | area) == self.store.area:
            return
        # a block on its way to the disk is to be there before the pixels of the store get other numbers
        with self._flushing, self._lock:
            self.store.extend(area)
            self._place()

    def draw(self, patch: Patch, gain: float, offset: float, areas: Sequence[Area] | None = None) -> None:
        """Put a tile on, or only what of it lies in some areas."""
        weight = patch.weight
        if areas is not None:
            x, y = patch.origin_px
            mask = np.zeros(weight.shape, np.bool_)
            for area in areas:
                part = shifted(area & patch.area, -x, -y)
                if part:
                    mask[part.y0 : part.y1, part.x0 : part.x1] = True
            weight = weight * mask
        with self._lock:
            for key, part in self._parts(patch.area):
                of = part.y0 - patch.origin_px[1], part.x0 - patch.origin_px[0]
                to = self._inside(key, part)
                self._blocks[key].blend(to, patch, of, weight, gain, offset, self._feather)

    def clear(self, area: Area) -> None:
        """Remove all data from an area."""
        with self._lock:
            for key, part in self._parts(area):
                self._blocks[key].clear(self._inside(key, part))

    def refresh(self, area: Area) -> None:
        """Bring the levels up to date over an area, and note that it is to be written."""
        with self._lock:
            for key, part in self._parts(area):
                inside, block = self._inside(key, part), self._blocks[key]
                self._upper.update(key, block, block.reduce(inside))
                old = self._dirty.get(key)
                self._dirty[key] = inside if old is None else old | inside

    def read(self, level: int, area: Area) -> Pixels:
        """Return pixels (y, x) of a level, of an area in its own pixels, counted from the store's first."""
        out = np.zeros((area.y1 - area.y0, area.x1 - area.x0), self.store.dtype)
        with self._lock:
            if level >= self._upper.first:
                out[:] = self._upper.window(level, area)
                return out
            x, y = self.store.geometry.origin_px
            side = self._side >> level
            whole = Area(area.x0 << level, area.y0 << level, area.x1 << level, area.y1 << level)
            for key, _ in self._parts(shifted(whole, x, y)):
                if key not in self._blocks and not self._shown:
                    continue
                corner, block = self._corner(key), Area(0, 0, side, side)
                at = (corner[0] - x) >> level, (corner[1] - y) >> level
                part = shifted(block, *at) & area
                if part:
                    own = shifted(part, -at[0], -at[1])
                    to = shifted(part, -area.x0, -area.y0)
                    pixels = self._blocks[key].levels[level][own.y0 : own.y1, own.x0 : own.x1]
                    out[to.y0 : to.y1, to.x0 : to.x1] = pixels
        return out

    def flush(self, turn: Callable[[], object] = lambda: None) -> None:
        """Write what has changed, block by block; ``turn`` is called before each, and may wait."""
        with self._lock:
            waiting = list(self._dirty)
        for key in waiting:
            turn()
            with self._flushing:
                self._flush_block(key)
        turn()
        with self._flushing:
            for level in range(self._upper.first, self.store.levels):
                self._flush_upper(level)

    def close(self) -> None:
        """Let go of the memory."""
        with self._flushing, self._lock:
            self._blocks.close()

    def _place(self) -> None:
        area = self.store.area
        if self._anchor is None:
            self._anchor = area.x0, area.y0
        left, top = (
            (first - anchor) // self._side
            for first, anchor in zip((area.x0, area.y0), self._anchor, strict=True)
        )
        rows, columns = (-(-length // self._side) for length in (area.y1 - area.y0, area.x1 - area.x0))
        self._upper.resize(top, left, rows, columns, self.store.levels)

    def _corner(self, key: Key) -> tuple[int, int]:
        """Return the mosaic coordinates (x, y) of a block's first pixel."""
        x, y = self._anchor or (0, 0)
        return x + key[1] * self._side, y + key[0] * self._side

    def _inside(self, key: Key, area: Area) -> Area:
        """Return an area in the pixels of a block."""
        x, y = self._corner(key)
        return shifted(area, -x, -y)

    def _parts(self, area: Area) -> Iterator[tuple[Key, Area]]:
        """Yield the blocks that an area touches, and its part in each."""
        x, y = self._anchor or (0, 0)
        side = self._side
        for row in range((area.y0 - y) // side, -(-(area.y1 - y) // side)):
            for column in range((area.x0 - x) // side, -(-(area.x1 - x) // side)):
                left, top = self._corner((row, column))
                yield (row, column), area & Area(left, top, left + side, top + side)

    def _copies(self, key: Key, area: Area) -> list[tuple[int, int, int, Pixels]]:
        """Return what is to be written of a block: whole chunks, of all its levels."""
        block, (left, top) = self._blocks[key], self._corner(key)
        x, y = self.store.geometry.origin_px
        chunk, copies = self.store.layout.chunk_px, []
        for level, pixels in enumerate(block.levels[: self.store.levels]):
            first_y, first_x = (top - y) >> level, (left - x) >> level
            rows, columns = self.store.geometry.level_shape(level)
            part = _whole_chunks(_at(area, level), chunk)
            part = part & Area(0, 0, *reversed(pixels.shape))
            part = part & Area(0, 0, columns - first_x, rows - first_y)
            if part:
                copy = pixels[part.y0 : part.y1, part.x0 : part.x1].copy()
                copies.append((level, first_y + part.y0, first_x + part.x0, copy))
        return copies

    def _flush_block(self, key: Key) -> None:
        with self._lock:
            area = self._dirty.pop(key, None)
            if area is None:
                return
            copies = self._copies(key, area)
        try:
            self.store.write_all(copies)
        except BaseException:
            with self._lock:
                self._dirty[key] = area | self._dirty.get(key, area)
            raise

    def _flush_upper(self, level: int) -> None:
        with self._lock:
            area = self._upper.take(level)
            if area is None:
                return
            rows, columns = self.store.geometry.level_shape(level)
            area = _whole_chunks(area, self.store.layout.chunk_px) & Area(0, 0, columns, rows)
            if not area:
                return
            copy = self._upper.window(level, area).copy()
        try:
            self.store.write(level, area.y0, area.x0, copy)
        except BaseException:
            with self._lock:
                self._upper.mark(level, area)
            raise

    def _fill_upper(self) -> None:
        """Take the upper levels from the store."""
        for level in range(self._upper.first, self.store.levels):
            rows, columns = self.store.geometry.level_shape(level)
            self._upper.fill(level, self.store.read(level, 0, 0, rows, columns))
        if self._upper.first >= self.store.levels:
            for key, _ in self._parts(self.store.area):
                block = self._blocks[key]
                side = block.levels[-1].shape[0]
                self._upper.update(key, block, Area(0, 0, side, side))

    def _thaw(self, key: Key, block: Block) -> None:
        """Give a block what the store shows of it, with the weights of the tiles that are shown."""
        left, top = self._corner(key)
        area = Area(left, top, left + self._side, top + self._side)
        tiles = [tile for tile in self._shown if tile.area & area]
        stored = area & self.store.area
        if not tiles or not stored:
            return
        x, y = self.store.geometry.origin_px
        window = shifted(stored, -x, -y)
        to = shifted(stored, -left, -top)
        image = block.levels[0]
        image[to.y0 : to.y1, to.x0 : to.x1] = self.store.read(0, window.y0, window.x0, window.y1, window.x1)
        for tile in tiles:
            patch = tile_weight(tile.transform, tile.shape)
            part = patch.area & area
            own, of = shifted(part, -left, -top), shifted(part, -patch.origin_px[0], -patch.origin_px[1])
            known = block.weights[own.y0 : own.y1, own.x0 : own.x1]
            weight = patch.weight[of.y0 : of.y1, of.x0 : of.x1]
            if self._feather is None:
                np.maximum(known, weight, out=known)
            else:
                known += sums_of(weight, self._feather)
        block.weights[image == 0] = 0
        if self._feather is not None:
            np.multiply(image, block.weights, out=block.totals, dtype=np.uint32)
            block.totals[:] *= np.uint32(FRACTIONS[self.store.dtype.name])
        block.reduce(Area(0, 0, self._side, self._side))


def _at(area: Area, level: int) -> Area:
    """Return the pixels of a level that an area of level 0 touches."""
    unit = 1 << level
    return Area(area.x0 // unit, area.y0 // unit, -(-area.x1 // unit), -(-area.y1 // unit))


def _whole_chunks(area: Area, chunk_px: int) -> Area:
    x0, y0 = (value // chunk_px * chunk_px for value in (area.x0, area.y0))
    x1, y1 = (-(-value // chunk_px) * chunk_px for value in (area.x1, area.y1))
    return Area(x0, y0, x1, y1)
