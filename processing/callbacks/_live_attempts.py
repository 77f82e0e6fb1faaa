"""The acquisitions of each tile, and which of them a mosaic shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.callbacks._mosaic import best
from processing.stitching.solution import Key

Image = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(slots=True, eq=False)
class Frame:
    """An acquisition of a tile.

    Attributes
    ----------
    index, run
        Of its frame in the file of its run.
    read
        Reads it.
    attempt
        Which acquisition of the tile it is.
    nominal_px
        Where the stage says its centre is, px of the mosaic.
    state
        Its verdict: ``pass``, ``fail``, ``needs_review``; None while there is none.
    """

    index: int
    run: str
    read: Callable[[], Image]
    attempt: int = 0
    nominal_px: tuple[float, float] = (0.0, 0.0)
    state: str | None = None


class Attempts:
    """The acquisitions of the tiles of a region, in the order in which they came."""

    def __init__(self) -> None:
        self._frames: dict[Key, list[Frame]] = {}
        self._key_of: dict[tuple[str, int], Key] = {}

    def add(self, key: Key, frame: Frame) -> bool:
        """Take an acquisition; return whether it is to be shown: the newest is, until it is judged."""
        self._frames.setdefault(key, []).append(frame)
        self._key_of[frame.run, frame.index] = key
        return self.shown(key) is frame

    def judge(self, run: str, index: int, state: str) -> Key | None:
        """Take a verdict; return the tile of which another acquisition is to be shown now, or None."""
        key = self._key_of.get((run, index))
        if key is None:
            return None
        before = self.shown(key)
        for frame in self._frames[key]:
            if (frame.run, frame.index) == (run, index):
                frame.state = state
        return None if self.shown(key) is before else key

    def shown(self, key: Key) -> Frame:
        """Return the acquisition that is shown: the newest, unless it failed and an older one passed."""
        return best(self._frames[key])
