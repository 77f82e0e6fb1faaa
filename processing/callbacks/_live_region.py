"""One region of a montage while its mosaic grows: what places its tiles, and what shows them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError
from processing.callbacks._live_faults import OverlapWatch
from processing.callbacks.verdicts import TileFault
from processing.kernels.render import TileTransform
from processing.mosaic._tiles import TileId
from processing.mosaic.canvas import Canvas
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
_IN_RAM_BYTES: Final = 512e6


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the frame of a tile is: ``index`` in the file of its run, and what reads it."""

    index: int
    run: str
    read: Callable[[], Image]


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
    ) -> None:
        height, width = first.shape
        self.path, self.size_px = path, (width, height)
        self.stitcher = Stitcher(options, self.size_px, load=self._for_stitcher)
        self._watch = OverlapWatch(self.size_px)
        self._frames: dict[Key, Frame] = {}
        self._keys: list[Key] = []
        self._attempts: dict[Key, int] = {}
        self._stale: dict[Key, None] = {}
        self.store = PyramidStore.create(
            path, dtype=first.dtype, pixel_size_nm=pixel_size_nm, metadata=metadata
        )
        small = tiles * first.size * _BYTES_PER_PX < _IN_RAM_BYTES
        self._canvas = Canvas(
            self.store, memory="ram" if small else "memmap", scratch=path.parent, load=self._for_canvas
        )

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def stale(self) -> int:
        """How many tiles are known to lie elsewhere than they are shown."""
        return len(self._stale)

    def frame(self, key: Key) -> Frame:
        """Return where the frame of a tile is that is in the mosaic."""
        return self._frames[key]

    def add(
        self, key: Key, attempt: int, nominal_px: tuple[float, float], image: Image, frame: Frame
    ) -> Iterator[tuple[Key, TileFault]]:
        """Place a tile and draw it; one that is there already is replaced. Yield the faults that show now.

        Raises
        ------
        MontangoError
            It could not be drawn; it is placed.
        """
        known = self._attempts.get(key)
        if known is not None:
            attempt = max(attempt, known + 1)  # frames come in the order of their acquisition
        self._attempts[key], self._frames[key] = attempt, frame
        tile = TileInput(key, attempt, nominal_px)
        if known is None:
            self._keys.append(key)
            added = self.stitcher.add(tile, image)
        else:
            added = self.stitcher.replace(tile, image)
        faults = list(self._watch.add(key, nominal_px, image, added.matches))
        if image.shape == self.size_px[::-1] and image.dtype == self.store.dtype:
            self._canvas.add(key, image, self._transforms([key])[key])
        self._note_moved(added, key)
        yield from faults

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
                self._canvas.move(self._transforms(self._keys), least_px=_MOVED_PX)
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
            dict(self._frames),
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
            return self._frames[tile.key].read()
        except (MontangoError, KeyError) as error:
            _log.warning("tile %s cannot be matched again: %s", tile.key, error)
            return None

    def _for_canvas(self, key: Any) -> Image:
        return self._frames[key].read()
