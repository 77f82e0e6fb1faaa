"""The frames that neighbours still to come may need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processing.stitching.solution import Key, TileInput

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
Loader = Callable[[TileInput], Image | None]
_PER_SIDE: Final = 9
_INSET: Final = 0.01
_DTYPES: Final = ("uint8", "uint16", "float32")


def fault(image: Any, size_px: tuple[int, int]) -> str:
    """Say why a frame cannot be used in a montage of frames of this width and height, or nothing."""
    if not isinstance(image, np.ndarray) or image.ndim != 2 or image.dtype.name not in _DTYPES:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        return f"its frame is {what}, not (y, x) of {', '.join(_DTYPES)}"
    if image.shape != size_px[::-1]:
        (height, width), (w, h) = image.shape, size_px
        return f"its frame has {width} x {height} px, the montage {w} x {h}"
    return ""


class Frames:
    """Keeps frames of tiles by index until no neighbour can come any more.

    With the expected tiles known, a frame goes when all that may overlap it have come; else when all its
    sides are covered by other tiles. Beyond ``keep_mb`` (10^6 bytes) the oldest go; ``load`` brings a frame
    back.
    """

    def __init__(
        self,
        size_px: tuple[int, int],
        keep_mb: float,
        margin_px: float,
        expected: Sequence[TileInput] | None,
        load: Loader | None,
    ) -> None:
        self._size = np.array(size_px, np.float64)
        self._keep_bytes = keep_mb * 1e6
        self._frames: dict[int, Image] = {}
        self._load = load
        self._margin = margin_px
        self._known = expected is not None
        listed = list(expected or ())
        self._waiting = {tile.key: np.asarray(tile.nominal_px, np.float64) for tile in listed}
        self._awaited: dict[int, set[Key]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def bytes(self) -> int:
        """Memory that the frames take."""
        return sum(frame.nbytes for frame in self._frames.values())

    def put(self, index: int, tile: TileInput, image: Image) -> None:
        """Keep a frame; it is not copied."""
        self._frames[index] = image
        self.arrived(tile)
        if self._known:
            keys = list(self._waiting)
            places = np.array([self._waiting[key] for key in keys]).reshape(-1, 2)
            near = (np.abs(places - np.asarray(tile.nominal_px)) < self._size + self._margin).all(1)
            self._awaited[index] = {keys[k] for k in np.flatnonzero(near)}

    def arrived(self, tile: TileInput) -> None:
        """Note that a tile has come, with a frame or without."""
        self._waiting.pop(tile.key, None)
        for awaited in self._awaited.values():
            awaited.discard(tile.key)

    def get(self, index: int, tile: TileInput) -> Image | None:
        """Return the frame of a tile, or None where it is gone and cannot be loaded."""
        frame = self._frames.get(index)
        return frame if frame is not None or self._load is None else self._load(tile)

    def drop(self, index: int) -> None:
        """Let a frame go."""
        self._frames.pop(index, None)
        self._awaited.pop(index, None)

    def release(self, positions: Reals) -> None:
        """Let go of all frames that are not needed, for tiles at these places (n, 2)."""
        if self._known:
            for index in [one for one, keys in self._awaited.items() if not keys]:
                self.drop(index)
        else:
            for index in [one for one in self._frames if self._covered(one, positions)]:
                self.drop(index)
        while len(self._frames) > 1 and self.bytes > self._keep_bytes:
            self.drop(next(iter(self._frames)))

    def _covered(self, index: int, positions: Reals) -> bool:
        """Return whether other tiles lie over all sides of one."""
        away = positions - positions[index]
        away = away[(np.abs(away) < self._size).all(1) & (np.abs(away) > 0).any(1)]
        if len(away) < 4:
            return False
        along = np.linspace(-0.5 + _INSET, 0.5 - _INSET, _PER_SIDE)
        end = np.full(_PER_SIDE, 0.5 - _INSET)
        sides = [np.stack(side, 1) for side in ((along, end), (along, -end), (end, along), (-end, along))]
        border = np.concatenate(sides) * self._size
        inside = (np.abs(border[:, None] - away) <= self._size / 2).all(2)
        return bool(inside.any(1).all())
