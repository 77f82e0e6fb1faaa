"""Pixels of a montage over HTTP, read lazily: frames and the levels of mosaics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from tiled_server.client.runs import start_of, stream_parts

if TYPE_CHECKING:
    import dask.array

MOSAIC_RECIPE: Final = "live_mosaic"
_BLOCK_PX: Final = 2048


class FrameStack:
    """Frames of several runs as one array to slice: (tile, y, x), counts. Only what is asked for is sent.

    Parameters
    ----------
    images
        The clients of the runs' images, (frame, 1, y, x) each, all of one frame size.
    frames
        For each tile, which of the images has it, and its index there.
    """

    ndim: Final = 3

    def __init__(self, images: Sequence[Any], frames: Sequence[tuple[int, int]]) -> None:
        self._images, self._frames = list(images), list(frames)
        *_, height, width = self._images[0].shape
        self.shape = (len(self._frames), int(height), int(width))
        self.dtype = np.dtype(self._images[0].dtype)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """Return a part; each frame that it touches is one request."""
        parts = list(key) if isinstance(key, tuple) else [key]
        tile, *within = parts + [slice(None)] * (3 - len(parts))
        if isinstance(tile, int | np.integer):
            return self._frame(int(tile), within)
        found = [self._frame(at, within) for at in range(*tile.indices(len(self._frames)))]
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), self.dtype)

    def _frame(self, at: int, within: Sequence[Any]) -> npt.NDArray[Any]:
        number, index = self._frames[at]
        return np.asarray(self._images[number][(index, 0, *within)])


def lazy_stack(images: Sequence[Any], frames: Sequence[tuple[int, int]]) -> dask.array.Array:
    """Return frames as a dask array (tile, y, x), one chunk a frame; see `FrameStack`."""
    from dask.base import tokenize

    stack = FrameStack(images, frames)
    name = f"frames-{tokenize([str(image.uri) for image in images], list(frames))}"
    return _lazy(stack, (1, *stack.shape[1:]), name)


def lazy_level(array: Any, name: str) -> dask.array.Array:
    """Return a mosaic's level as a dask array (y, x), in blocks of about 2048 px that hold whole chunks."""
    chunks = [max(1, _BLOCK_PX // axis[0]) * axis[0] for axis in array.chunks]
    return _lazy(array, tuple(chunks), name)


def _lazy(array: Any, chunks: tuple[int, ...], name: str) -> dask.array.Array:
    from dask.array import from_array  # takes a while to import

    return from_array(array, chunks=chunks, name=name)  # type: ignore[no-any-return, no-untyped-call]


def newest(results: Sequence[Any], recipe: str, roi: int | None = None) -> Any | None:
    """Return the newest result of a recipe, for a region; None without any."""
    found = [run for run in results if start_of(run).get("recipe") == recipe]
    if roi is not None:
        found = [run for run in found if int(start_of(run).get("roi", 0)) == roi]
    return found[-1] if found else None


def mosaic_levels(mosaic: Any) -> list[Any]:
    """Return the clients of the levels of a mosaic's run, full resolution first."""
    parts = stream_parts(mosaic, "mosaic") or {}
    names = [name for name in parts if name.startswith("level_")]
    return [parts[name] for name in sorted(names, key=lambda name: int(name.removeprefix("level_")))]


def mosaic_level(mosaic: Any, level: int) -> Any:
    """Return the client of a level.

    Raises
    ------
    ConfigurationError
        There is no such level.
    """
    levels = mosaic_levels(mosaic)
    if not -len(levels) <= level < len(levels):
        raise ConfigurationError(
            f"level = {level} is none of this mosaic's: it has 0 (full resolution) to {len(levels) - 1}"
        )
    return levels[level]
