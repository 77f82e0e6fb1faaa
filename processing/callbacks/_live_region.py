"""One region of a montage while its mosaic grows: what places its tiles, and what shows them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError
from processing.callbacks._live_attempts import Attempts, Frame
from processing.callbacks._live_faults import OverlapWatch
from processing.callbacks._live_gains import Brightness
from processing.callbacks._live_places import PlaceWatch
from processing.callbacks.verdicts import TileFault
from processing.kernels.render import Area, TileTransform
from processing.mosaic._tiles import TileId
from processing.mosaic.canvas import Blending, Canvas
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.engine import Added, Stitcher, StitchOptions
from processing.stitching.solution import Key, StitchSolution, TileInput

_log = logging.getLogger(__name__)

Image = npt.NDArray[np.unsignedinteger[Any]]
_AT_A_TIME: Final = 6
"""Tiles that are drawn anew together between two that come."""
_MOVED_PX: Final = 1.0
_BYTES_PER_PX: Final = 4.7
"""Of the canvas's memory, uint16."""
_IN_RAM_SHARE: Final = 1 / 8
"""Of the machine's memory, for the canvas: a larger one lies in a scratch file, which takes twice as long."""
_FEATHER: Final = 0.05
"""Depth at which a feathered tile has its full weight, of its side: half of a usual overlap."""
_GAIN_STEP: Final = 0.003
"""Change of a gain for which a tile is drawn anew at the end: not seen at a seam."""
_SHARD_PX: Final = 2048
"""A tile changes parts of shards, and they are written whole: smaller ones cost half."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A region whose mosaic is complete.

    Attributes
    ----------
    path, solution_path
        The OME-Zarr, and the solution as JSON.
    solution
        Where its tiles lie.
    frames
        The frames that it shows, by their tiles.
    levels
        Shapes (y, x) of the pyramid's levels.
    dtype, chunk_px, origin_px
        Type of the pixels, side of the chunks, mosaic coordinates (x, y) of pixel (0, 0).
    """

    path: Path
    solution_path: Path
    solution: StitchSolution
    frames: Mapping[Key, Frame]
    levels: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]
    chunk_px: int
    origin_px: tuple[int, int]


class LiveRegion:
    """The tiles of one region, placed and drawn as they come.

    Parameters
    ----------
    path
        The mosaic's folder, ``....ome.zarr``: made.
    first
        A frame: its size and type are those of all.
    pixel_size_nm
        Size of a pixel.
    tiles
        How many are expected, about: decides whether the canvas is in memory or in scratch files.
    metadata
        What the mosaic says of itself.
    options
        How to stitch.
    blending, match_brightness
        How tiles are put together, and whether each gets a gain.
    least_px
        How far the stage may miss.
    told
        Told how far tiles are: see `processing.callbacks.live_mosaic`.
    expected
        What the mosaic will cover, px; it grows where tiles lie outside.
    """

    def __init__(
        self,
        path: Path,
        first: Image,
        *,
        pixel_size_nm: float,
        tiles: int,
        metadata: Mapping[str, Any],
        options: StitchOptions,
        blending: Blending = "flat",
        match_brightness: bool = False,
        least_px: float = 0.0,
        told: Callable[[str, str, int], object] | None = None,
        expected: Area | None = None,
    ) -> None:
        height, width = first.shape
        self.path, self.size_px = path, (width, height)
        self.stitcher = Stitcher(options, self.size_px, load=self._for_stitcher)
        self._watch = OverlapWatch(self.size_px)
        self._places = PlaceWatch(least_px)
        self._brightness = Brightness(self.size_px) if match_brightness else None
        self._gains: dict[TileId, float] = {}
        self._told = told
        self._attempts = Attempts()
        self._keys: list[Key] = []
        self._turns: dict[Key, int] = {}
        self._stale: dict[Key, None] = {}
        self.store = PyramidStore.create(
            path, dtype=first.dtype, pixel_size_nm=pixel_size_nm, metadata=metadata, shard_px=_SHARD_PX
        )
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        small = tiles * first.size * _BYTES_PER_PX < _IN_RAM_SHARE * memory
        self._canvas = Canvas(
            self.store,
            blending=blending,
            feather_px=_FEATHER * min(self.size_px),
            memory="ram" if small else "memmap",
            scratch=path.parent,
            load=self._for_canvas,
            flush_tiles=1,
            written=None if told is None else self._written,
        )
        if expected is not None:
            self._canvas.make_room(expected)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def stale(self) -> int:
        """How many tiles are known to lie elsewhere than they are shown."""
        return len(self._stale)

    def frame(self, key: Key) -> Frame:
        """Return the acquisition of a tile that the mosaic shows."""
        return self._attempts.shown(key)

    def add(self, key: Key, image: Image, frame: Frame) -> Iterator[tuple[Key, TileFault]]:
        """Place a tile and draw it; one that is there already is replaced. Yield the faults that show now.

        Raises
        ------
        MontangoError
            It could not be drawn; it is placed.
        """
        if self._attempts.add(key, frame):
            with self._canvas.ahead():
                faults = list(self._show(key, image))
            yield from faults

    def judge(self, run: str, index: int, state: str) -> None:
        """Take a verdict: where a later attempt of a tile failed, one that passed is shown again.

        Raises
        ------
        MontangoError
            Its frame could not be read.
        """
        key = self._attempts.judge(run, index, state)
        if key is not None:
            for _, fault in self._show(key, self._attempts.shown(key).read()):
                _log.warning("tile %s, shown again: %s", key, fault.kind)

    def _show(self, key: Key, image: Image) -> Iterator[tuple[Key, TileFault]]:
        """Put the acquisition of a tile that is to be shown in its place."""
        nominal_px, known = self._attempts.shown(key).nominal_px, key in self._turns
        # for the stitcher each is a later one, also where an earlier attempt is shown again
        self._turns[key] = self._turns[key] + 1 if known else 0
        tile = TileInput(key, self._turns[key], nominal_px)
        if known:
            added = self.stitcher.replace(tile, image)
        else:
            self._keys.append(key)
            added = self.stitcher.add(tile, image)
        self._tell("solved", key)
        if image.shape == self.size_px[::-1] and image.dtype == self.store.dtype:
            self._match_brightness(key, image, added)
            gain = self._gains.get(key, 1.0)
            self._canvas.add(key, image, self._transforms([key])[key], gain=gain)
            self._tell("drawn", key)
        self._note_moved(added, key)
        yield from self._watch.add(key, nominal_px, image, added.matches)
        partners = {one: self._watch.matched(one) for one in {key, *self._watch.matched(key)}}
        places = {one: self._attempts.shown(one).nominal_px for one in self._keys}
        yield from self._places.check(places, partners, self.stitcher.placement)

    def redraw(self) -> None:
        """Draw some of the tiles anew that lie elsewhere than shown: those close to each other.

        Raises
        ------
        MontangoError
            Frames could not be read: there are gaps.
        """
        if not self._stale:
            return
        first, positions = next(iter(self._stale)), self.stitcher.positions()[0]
        place = {key: positions[k] for k, key in enumerate(self._keys)}
        near = sorted(self._stale, key=lambda key: float(np.hypot(*(place[key] - place[first]))))
        for key in near[:_AT_A_TIME]:
            del self._stale[key]
        self._canvas.move(self._transforms(near[:_AT_A_TIME]), least_px=_MOVED_PX)

    def finish(self, describe: Callable[[StitchSolution], Mapping[str, Any]]) -> Finished:
        """Solve all anew, draw what has moved, write everything, and close the mosaic.

        Parameters
        ----------
        describe
            Returns what the mosaic says of its solution.

        Raises
        ------
        OSError, MontangoError
            Something could not be written.
        """
        try:
            solution = self.stitcher.solution(final=True)
            try:
                transforms = self._transforms(self._keys)
                self._canvas.move(transforms, gains=self._last_gains(), least_px=_MOVED_PX)
            finally:
                self._canvas.close()
            self.store.describe(describe(solution))
            geometry = self.store.geometry
            levels = tuple(geometry.level_shape(level) for level in range(self.store.levels))
        finally:
            self.store.close()
        target = self.path.with_name(self.path.name.removesuffix(".ome.zarr") + "_solution.json")
        scratch = target.with_suffix(".tmp")
        scratch.write_text(solution.to_json())
        scratch.replace(target)
        return Finished(
            self.path,
            target,
            solution,
            {key: self._attempts.shown(key) for key in self._keys},
            levels,
            self.store.dtype,
            self.store.layout.chunk_px,
            geometry.origin_px,
        )

    def close(self) -> None:
        """Let go of everything; what is not written yet is lost."""
        try:
            self._canvas.close(trim=False)
        finally:
            self.store.close()

    def _match_brightness(self, key: Key, image: Image, added: Added) -> None:
        """Find the gain of a tile that is about to be drawn; those that are drawn keep theirs for now."""
        if self._brightness is not None:
            offsets = {one: (match.dx_px, match.dy_px) for one, match in added.matches if match.accepted}
            self._brightness.add(key, image, offsets)
            self._gains[key] = self._brightness.gains()[key]

    def _last_gains(self) -> dict[TileId, tuple[float, float]]:
        """Return the gains of tiles that are to be drawn with another than they are."""
        found = {} if self._brightness is None else self._brightness.gains()
        return {key: (gain, 0.0) for key, gain in found.items() if abs(gain - self._gains[key]) > _GAIN_STEP}

    def _tell(self, step: str, key: Key) -> None:
        if self._told is not None:
            frame = self._attempts.shown(key)
            self._told(step, frame.run, frame.index)

    def _written(self, keys: Iterable[Any]) -> None:
        for key in keys:
            self._tell("written", key)

    def _note_moved(self, added: Added, own: Key) -> None:
        for index in added.moved:
            self._stale[self._keys[index]] = None
        self._stale.pop(own, None)

    def _transforms(self, keys: list[Key]) -> dict[TileId, TileTransform]:
        positions, matrices = self.stitcher.positions()
        field = self.stitcher.field if self.stitcher.field.degree > 1 else None
        index = {key: k for k, key in enumerate(self._keys)}
        found: dict[TileId, TileTransform] = {}
        for key in keys:
            (x, y), ((a, b), (c, d)) = positions[index[key]].tolist(), matrices[index[key]].tolist()
            found[key] = TileTransform((x, y), ((a, b), (c, d)), field)
        return found

    def _for_stitcher(self, tile: TileInput) -> Image | None:
        try:
            return self._attempts.shown(tile.key).read()
        except (MontangoError, KeyError) as error:
            _log.warning("tile %s cannot be matched again: %s", tile.key, error)
            return None

    def _for_canvas(self, key: Any) -> Image:
        return self._attempts.shown(key).read()
