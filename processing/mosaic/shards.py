"""A mosaic drawn shard by shard: by any number of processes, each shard by one of them, whole.

The tiles that lie over a shard are put together in memory and written with the levels that have shards of the
same area; what lies above is made, level by level, from the level below on disk. The pixels are those of
`processing.mosaic.canvas.Canvas`, in any order of the shards. A shard's file is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.kernels.blend import halve
from processing.kernels.render import WEIGHT_STEPS, Area, Interpolation, render_tile
from processing.mosaic._arrays import open_array
from processing.mosaic._blocks import Block
from processing.mosaic._tiles import ShownTile
from processing.mosaic.pyramid import PyramidStore

Pixels = npt.NDArray[Any]
Shard = tuple[int, int]
"""Row and column of a shard in its level."""


def shard_areas(store: PyramidStore) -> dict[Shard, Area]:
    """Return the shards of level 0, each with its area in the mosaic's coordinates."""
    (x, y), side = store.geometry.origin_px, store.layout.shard_px
    rows, columns = (-(-length // side) for length in store.shape)
    return {
        (row, column): Area(x + column * side, y + row * side, x + (column + 1) * side, y + (row + 1) * side)
        for row in range(rows)
        for column in range(columns)
    }


def draw_shard(
    path: Path,
    shard: Shard,
    tiles: Iterable[tuple[ShownTile, Callable[[], Pixels | None]]],
    *,
    feather_px: float | None,
    interpolation: Interpolation = "cubic",
) -> None:
    """Draw a shard of level 0 and what follows from it alone.

    Parameters
    ----------
    path
        The mosaic; nothing is asked of its lock: whoever gives the shards away holds it.
    shard
        Row and column.
    tiles
        All tiles that lie over it, in the order of the mosaic, each with what reads its frame (None: it
        cannot be had, and is left out).
    feather_px
        Depth of full weight; None: flat.
    interpolation
        As for `processing.kernels.render.render_tile`.
    """
    with PyramidStore.open(path) as store:
        area, layout, levels = shard_areas(store)[shard], store.layout, store.levels
        shapes = [store.geometry.level_shape(level) for level in range(levels)]
    block = _block(layout.shard_px, min(layout.inner_levels, levels - 1), layout.numpy_dtype, feather_px)
    for tile, read in tiles:
        if not tile.area & area:
            continue
        image = read()
        if image is not None:
            patch = render_tile(image, tile.transform, interpolation=interpolation, within=area)
            _blend(block, area, patch, tile, feather_px)
    side = layout.shard_px
    block.reduce(Area(0, 0, side, side))
    for level, pixels in enumerate(block.levels):
        _write(path, level, shard, pixels, shapes[level])


def upper_rows(store: PyramidStore, level: int) -> range:
    """Return the rows of shards of a level above those that `draw_shard` writes."""
    return range(-(-store.geometry.level_shape(level)[0] // store.layout.chunk_px))


def first_upper_level(store: PyramidStore) -> int:
    """Return the first level that `draw_shard` does not write."""
    return store.layout.inner_levels + 1


def draw_upper(path: Path, level: int, row: int) -> None:
    """Draw a row of shards of an upper level from the level below, which is all there."""
    with PyramidStore.open(path) as store:
        side, shape = store.layout.chunk_px, store.geometry.level_shape(level)
        below = store.geometry.level_shape(level - 1)
        for column in range(-(-shape[1] // side)):
            y, x = 2 * row * side, 2 * column * side
            part = store.read(level - 1, y, x, min(y + 2 * side, below[0]), min(x + 2 * side, below[1]))
            whole = np.zeros((2 * side, 2 * side), part.dtype)
            whole[: part.shape[0], : part.shape[1]] = part
            small = np.zeros((side, side), part.dtype)
            halve(whole, small)
            _write(path, level, (row, column), small, shape)


def _block(side: int, levels: int, dtype: np.dtype[Any], feather_px: float | None) -> Block:
    planes = tuple(np.zeros((side >> level, side >> level), dtype) for level in range(levels + 1))
    sums = np.zeros((side, side) if feather_px is not None else (0, 0), np.uint32)
    return Block(planes, np.zeros((side, side), np.uint16), sums)


def _blend(block: Block, area: Area, patch: Any, tile: ShownTile, feather_px: float | None) -> None:
    part = patch.area & area
    if not part:
        return
    (left, top) = patch.origin_px
    to = Area(part.x0 - area.x0, part.y0 - area.y0, part.x1 - area.x0, part.y1 - area.y0)
    feather = None if feather_px is None else max(1, round(feather_px * WEIGHT_STEPS))
    of = part.y0 - top, part.x0 - left
    block.blend(to, patch, of, patch.weight, tile.gain, tile.offset, feather)


def _write(path: Path, level: int, shard: Shard, pixels: Pixels, shape: Sequence[int]) -> None:
    side = pixels.shape[0]
    y, x = shard[0] * side, shard[1] * side
    rows, columns = min(side, shape[0] - y), min(side, shape[1] - x)
    if rows > 0 and columns > 0:
        array = open_array(path / str(level), writable=True, durable=False)
        array[y : y + rows, x : x + columns].write(np.ascontiguousarray(pixels[:rows, :columns])).result()
