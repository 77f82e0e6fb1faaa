"""Brightness of tiles matched while they come: from small copies, as frames are not kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels.gains import OverlapLevels, gains
from processing.stitching.solution import Key

_SMALL_PX: Final = 256
"""Longer side of the copies."""
_LEAST: Final = 64
"""Pixels of both copies that an overlap needs."""


class Brightness:
    """Finds a gain for every tile that makes the overlaps of tiles that match alike.

    Parameters
    ----------
    size_px
        Width and height of the tiles.
    """

    def __init__(self, size_px: tuple[int, int]) -> None:
        self._bin = max(1.0, max(size_px) / _SMALL_PX)
        self._size = tuple(max(1, round(length / self._bin)) for length in size_px)
        self._small: dict[Key, npt.NDArray[np.float32]] = {}
        self._levels: dict[tuple[Key, Key], tuple[float, float]] = {}

    def add(self, key: Key, image: npt.NDArray[Any], offsets_px: Mapping[Key, tuple[float, float]]) -> None:
        """Take a tile, or another acquisition of it.

        Parameters
        ----------
        key
            Of the tile.
        image
            (y, x) counts.
        offsets_px
            Centre of this tile minus that of each tile that it matches, px.
        """
        small = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA).astype(np.float32)
        self._small[key] = small
        self._levels = {pair: levels for pair, levels in self._levels.items() if key not in pair}
        for other, offset in offsets_px.items():
            levels = self._shared(self._small.get(other), small, offset)
            if levels is not None:
                self._levels[other, key] = levels

    def gains(self) -> dict[Key, float]:
        """Return the gain of every tile, about 1."""
        index = {key: k for k, key in enumerate(self._small)}
        overlaps = [
            OverlapLevels(index[first], index[second], (a,), (b,))
            for (first, second), (a, b) in self._levels.items()
        ]
        found = gains(len(index), overlaps).gains
        return {key: float(found[k]) for key, k in index.items()}

    def _shared(
        self, first: npt.NDArray[np.float32] | None, second: npt.NDArray[np.float32], offset: Any
    ) -> tuple[float, float] | None:
        """Return the mean of two copies over what both show, counts."""
        if first is None:
            return None
        means = []
        for image, sign in ((first, 1), (second, -1)):
            height, width = image.shape
            dx, dy = (round(sign * length / self._bin) for length in offset)
            part = image[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            means.append(float(part.mean()) if part.size >= _LEAST else math.nan)
        return (means[0], means[1]) if min(means) > 0 else None
