"""A mosaic that grows tile by tile: in memory at full resolution with all levels, and after it on disk.

Tiles are drawn at their sub-pixel places and put together; after every tile all levels of the pyramid are
brought up to date where it lies, and a thread of the canvas's own writes what has changed to a `PyramidStore`
every few tiles or seconds. After `Canvas.flush` a level is the mean of the level below over pixels with data,
and the mosaic is the same, to the last bit, whether tiles were put there at first, moved, or replaced.

Memory, in bytes a pixel of the mosaic: 4/3 of the pixel's own for the levels, 2 for the depth of the tile
that is shown; "feather" 4 more for sums. So 3.3 and 7.3 for uint8, 4.7 and 8.7 for uint16, and the
areas of two shards in reserve. With ``memory="memmap"`` they are in scratch files, and ``limit_mb`` of them
in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError, MontangoError
from processing.kernels.render import (
    Area,
    Interpolation,
    Patch,
    Reference,
    TileTransform,
    render_strips,
    render_tile,
)
from processing.mosaic._flusher import Flusher
from processing.mosaic._surface import Surface
from processing.mosaic._tiles import ShownTile, TileId, load_tiles, save_tiles
from processing.mosaic.pyramid import PyramidStore

Pixels = npt.NDArray[Any]
Blending = Literal["flat", "feather"]
_MOST_AHEAD_S: Final = 0.25
Loader = Callable[[TileId], Pixels]
"""Gives the frame of a tile again, (y, x) as it was added; raises OSError or MontangoError if it cannot."""


class Canvas:
    """A mosaic that grows tile by tile, and its pyramid on disk.

    A tile is added by a name of its own: a string, a number, or a tuple of these. Where a store has tiles
    already, from a process that was killed for example, the canvas goes on with them; what was added after
    the last flush is to be added again.

    Parameters
    ----------
    store
        Where it is written, open for writing. It grows where tiles lie outside.
    blending
        "flat": a pixel is that of the tile in which it lies deepest, so seams run along the middle of the
        overlaps and no pixel is mixed. "feather": the mean of its tiles, weighted by the depth.
    memory
        "ram", or "memmap" for mosaics that are larger.
    limit_mb
        Of scratch files that are in memory at a time, MB; one shard's area at least.
    scratch
        Folder for scratch files; None: the system's.
    feather_px
        Depth at which a tile has its full weight, px; half of an overlap or more blends over all of it.
    interpolation
        As for `render_tile`.
    reference
        Flat-field correction of every frame.
    load
        Gives frames again when tiles are moved or replaced.
    flush_tiles, flush_s
        What has changed is written after so many tiles, or so many seconds after a change; None: only by
        `flush`.
    written
        Told of the tiles that were added since the last time, once they are on the disk, in the thread that
        wrote them.

    Raises
    ------
    ConfigurationError
        A value is outside its range, or the tiles that the store has were blended in another way.
    """

    def __init__(
        self,
        store: PyramidStore,
        *,
        blending: Blending = "flat",
        memory: Literal["ram", "memmap"] = "ram",
        limit_mb: float = 256.0,
        scratch: str | Path | None = None,
        feather_px: float = 128.0,
        interpolation: Interpolation = "cubic",
        reference: Reference | None = None,
        load: Loader | None = None,
        flush_tiles: int | None = 10,
        flush_s: float | None = 5.0,
        written: Callable[[Sequence[TileId]], object] | None = None,
    ) -> None:
        if blending not in ("flat", "feather") or memory not in ("ram", "memmap"):
            raise ConfigurationError(
                f'blending = {blending!r} must be "flat" or "feather", memory = {memory!r} "ram" or "memmap"'
            )
        if not 1 <= feather_px <= 8000 or not limit_mb > 0:
            raise ConfigurationError(
                f"feather_px = {feather_px} must be 1 to 8000, limit_mb = {limit_mb} above 0"
            )
        if not store.writable:
            raise ConfigurationError(f"{store.path} is open for reading: open it with writable=True")
        self.store = store
        self._interpolation, self._reference, self._load = interpolation, reference, load
        self._blending = {"blending": blending, "feather_px": feather_px if blending == "feather" else None}
        self._tiles = self._known_tiles()
        self._written, self._fresh = written, list[TileId]()
        self._lock, self._writing = threading.RLock(), threading.Lock()
        self._free = threading.Event()
        self._free.set()
        self._surface = Surface(
            store,
            feather_px=feather_px if blending == "feather" else None,
            limit_bytes=None if memory == "ram" else int(limit_mb * 1e6),
            scratch=None if scratch is None else Path(scratch),
            shown=[*self._tiles.values()],
        )
        self._flusher = Flusher(self._write_between, tiles=flush_tiles, seconds=flush_s)

    @property
    def tiles(self) -> dict[TileId, ShownTile]:
        """The tiles as they are shown, in the order of their adding."""
        with self._lock:
            return dict(self._tiles)

    @property
    def extent(self) -> Area | None:
        """The smallest area with all tiles, in the mosaic's coordinates; None before the first."""
        with self._lock:
            areas = [tile.area for tile in self._tiles.values()]
        if not areas:
            return None
        whole = areas[0]
        for area in areas[1:]:
            whole |= area
        return whole

    def add(
        self,
        tile: TileId,
        image: Pixels,
        transform: TileTransform,
        *,
        gain: float = 1.0,
        offset: float = 0.0,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Show a tile; one of the same name is replaced, in its place in the order.

        Parameters
        ----------
        tile
            Its name.
        image
            (y, x) uint8, uint16 or float32.
        transform
            Where it lies.
        gain, offset
            It is shown as ``gain * counts + offset``.
        mask
            (y, x) bool, where the image is to be used; None: everywhere. It is not kept: a tile with a mask
            is drawn without it when it is loaded again, unless the loader gives NaN there.

        Raises
        ------
        ValueError
            As for `render_tile`.
        ConfigurationError
            It replaces a tile, and there is no loader for the tiles around it.
        MontangoError
            Earlier tiles could not be written.
        """
        self._flusher.check()
        shown = ShownTile(transform, (image.shape[0], image.shape[1]), gain, offset)
        with self._lock:
            if tile in self._tiles:
                self._redo({tile: shown}, self._load, {tile: image})
            else:
                self._surface.cover(shown.area)
                for patch in self._drawn(image, transform, mask):
                    self._surface.draw(patch, gain, offset)
                self._surface.refresh(shown.area)
                self._tiles[tile] = shown
            self._fresh.append(tile)
        self._flusher.changed()

    def move(
        self,
        transforms: Mapping[TileId, TileTransform],
        *,
        gains: Mapping[TileId, tuple[float, float]] | None = None,
        least_px: float = 1.0,
        load: Loader | None = None,
    ) -> list[TileId]:
        """Draw tiles anew whose place has changed; return which.

        Frames of these and of all tiles beside them are loaded again, each once: it costs least when many are
        moved at a time.

        Parameters
        ----------
        transforms
            Where tiles lie now; tiles that are not on the canvas are ignored.
        gains
            Gain and offset of tiles that are to be drawn with others.
        least_px
            Tiles of which no point moves by more stay, px.
        load
            Gives frames; None: the canvas's own.

        Raises
        ------
        ConfigurationError
            There is no loader. Nothing has changed then.
        MontangoError
            Frames could not be loaded: there are gaps in the mosaic where they were.
        """
        self._flusher.check()
        with self._lock:
            changes = {}
            for name in {**transforms, **(gains or {})}:
                old = self._tiles.get(name)
                if old is None:
                    continue
                place = transforms.get(name, old.transform)
                gain, offset = (gains or {}).get(name, (old.gain, old.offset))
                if (gain, offset) != (old.gain, old.offset) or old.moved_px(place) > least_px:
                    changes[name] = ShownTile(place, old.shape, gain, offset)
            if changes:
                self._redo(changes, load or self._load, {})
        if changes:
            self._flusher.changed()
        return [*changes]

    def remove(self, tiles: Iterable[TileId], *, load: Loader | None = None) -> None:
        """Take tiles off; what lies under them is drawn again. Raises as `move` does."""
        self._flusher.check()
        with self._lock:
            gone: dict[TileId, ShownTile | None] = {name: None for name in tiles if name in self._tiles}
            if gone:
                self._redo(gone, load or self._load, {})
        self._flusher.changed()

    def make_room(self, area: Area) -> None:
        """Let the store cover an area where tiles will lie: growing it later takes time, when they come."""
        with self._lock:
            self._surface.cover(area)

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Let what is done inside go before writing: the canvas's thread waits a little before each shard.

        It waits for `_MOST_AHEAD_S` at most, so that writing goes on, slower, where tiles come without a
        pause.
        """
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def read(self, level: int, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """Return pixels of a level from memory, (y, x), 0 where there are none; see `PyramidStore.read`."""
        return self._surface.read(level, Area(x0, y0, x1, y1))

    def flush(self) -> None:
        """Write what has changed, and return when it is written.

        Raises
        ------
        OSError, MontangoError
            It could not be; what is missing is tried again at the next flush.
        """
        self._write()

    def close(self, *, trim: bool = True) -> None:
        """Write the rest, cut off what lies outside of all tiles, and let go; the store stays open.

        ``trim`` cuts as far as `PyramidStore.trim` can.
        """
        self._flusher.stop()
        try:
            self._write()
            extent = self.extent
            if trim and extent is not None:
                self.store.trim(extent)
        finally:
            self._surface.close()

    def __enter__(self) -> Self:
        """Return the canvas; it is closed at the end."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    def _known_tiles(self) -> dict[TileId, ShownTile]:
        known = load_tiles(self.store.path)
        if known is None:
            return {}
        tiles, blending = known
        if blending != self._blending:
            raise ConfigurationError(
                f"the tiles in {self.store.path} were blended with {blending}, not {self._blending}: go on "
                "in the same way, or begin a new mosaic"
            )
        return tiles

    def _write_between(self) -> None:
        """Write what has changed, giving way to `ahead`."""
        self._write(lambda: self._free.wait(_MOST_AHEAD_S))

    def _write(self, turn: Callable[[], object] = lambda: None) -> None:
        with self._writing:
            with self._lock:
                tiles, fresh = dict(self._tiles), self._fresh
                self._fresh = []
            self._surface.flush(turn)
            save_tiles(self.store.path, tiles, blending=self._blending)
        if self._written is not None:
            self._written(fresh)

    def _drawn(
        self,
        image: Pixels,
        transform: TileTransform,
        mask: npt.NDArray[np.bool_] | None = None,
        within: Area | None = None,
    ) -> Iterator[Patch]:
        how: Any = {"reference": self._reference, "interpolation": self._interpolation, "within": within}
        if mask is None:
            return render_strips(image, transform, **how)
        return iter([render_tile(image, transform, mask=mask, **how)])

    def _redo(
        self,
        changes: Mapping[TileId, ShownTile | None],
        load: Loader | None,
        images: Mapping[TileId, Pixels],
    ) -> None:
        """Draw anew where tiles change (None: go); all tiles there, in the order of their adding."""
        areas = [self._tiles[name].area for name in changes]
        areas += [tile.area for tile in changes.values() if tile is not None]
        kept = {name: changes.get(name, tile) for name, tile in self._tiles.items()}
        fresh = {name: tile for name, tile in kept.items() if tile is not None}
        corners = np.array([(area.x0, area.y0, area.x1, area.y1) for area in areas])
        redrawn = {name: _among(tile.area, corners, areas) for name, tile in fresh.items()}
        redrawn = {name: touched for name, touched in redrawn.items() if touched}
        if load is None and not redrawn.keys() <= images.keys():
            raise ConfigurationError(
                f"{len(redrawn)} tiles are to be drawn again and there is no loader for their frames: give "
                "the canvas one"
            )
        for area in areas:
            self._surface.cover(area)
            self._surface.clear(area)
        self._tiles = fresh
        lost = []
        for name, touched in redrawn.items():
            tile = fresh[name]
            try:
                image = images[name] if name in images or load is None else load(name)
            except (OSError, MontangoError) as error:
                lost.append(f"{name}: {error}")
                continue
            within = reduce(or_, touched) & tile.area
            for patch in self._drawn(image, tile.transform, within=within):
                self._surface.draw(patch, tile.gain, tile.offset, touched)
        for area in areas:
            self._surface.refresh(area)
        if lost:
            raise MontangoError(f"frames of {len(lost)} tiles could not be loaded: {'; '.join(lost[:3])}")


def _among(area: Area, corners: npt.NDArray[np.int64], areas: list[Area]) -> list[Area]:
    """Return those of some areas that meet an area; ``corners`` are theirs, (n, 4)."""
    x0, y0, x1, y1 = corners.T
    meets = (x0 < area.x1) & (x1 > area.x0) & (y0 < area.y1) & (y1 > area.y0)
    return [areas[index] for index in np.flatnonzero(meets)]
