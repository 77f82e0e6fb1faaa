"""A grey image at falling resolution, so that a frame at low magnification does not alias."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pyramid:
    """Levels of an image, each half the one before; level 0 has ``texel_nm`` a pixel."""

    levels: tuple[Grey, ...]
    texel_nm: float

    @classmethod
    def of(cls, image: Grey, texel_nm: float) -> Pyramid:
        """Return the pyramid of an image, ``(y, x)`` uint8, down to 16 pixels."""
        levels = [np.ascontiguousarray(image)]
        while min(levels[-1].shape) >= 32:
            even = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2]
            total = even[::2, ::2].astype(np.uint16) + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
            levels.append(((total + 2) >> 2).astype(np.uint8))
        return cls(tuple(levels), texel_nm)

    def for_pixel(self, pixel_nm: float) -> tuple[Grey, float]:
        """Return the level for pixels of this size at the specimen, and the size of its texels in nm."""
        level = max(0, math.floor(math.log2(pixel_nm / self.texel_nm) + 0.25))
        level = min(level, len(self.levels) - 1)
        return self.levels[level], self.texel_nm * 2**level
