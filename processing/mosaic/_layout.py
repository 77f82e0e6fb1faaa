"""How a pyramid's pixels are stored: type, chunks, shards, levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

import numpy as np

from devices.errors import ConfigurationError

Compression = Literal["zstd", "blosc", "none"]
_DTYPES: Final = ("uint8", "uint16")
_FEWEST_PX: Final = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """How pixels are stored; see `PyramidStore.create`.

    ``placed`` says whether it is known where the store begins, ``levels`` is None where their number follows
    from the size.
    """

    dtype: str
    chunk_px: int
    shard_px: int
    levels: int | None
    compression: Compression
    placed: bool

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ConfigurationError(f"dtype of a mosaic is {self.dtype}, not one of {', '.join(_DTYPES)}")
        chunk, shard = self.chunk_px, self.shard_px
        if not (_FEWEST_PX <= chunk <= shard) or chunk & (chunk - 1) or shard & (shard - 1):
            raise ConfigurationError(
                f"chunk_px = {chunk} and shard_px = {shard} must be powers of two, {_FEWEST_PX} or more, and "
                "a shard no smaller than a chunk"
            )
        if self.levels is not None and not 1 <= self.levels <= self.most_levels:
            raise ConfigurationError(
                f"levels = {self.levels} must be 1 to {self.most_levels} for shards of {shard} px"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the layout that `to_json` described."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @property
    def most_levels(self) -> int:
        """The most levels: a shard of level 0 is at least a pixel in each."""
        return self.shard_px.bit_length()

    @property
    def inner_levels(self) -> int:
        """How many levels, after level 0, have shards of their own size: the last one's is a chunk."""
        return (self.shard_px // self.chunk_px).bit_length() - 1

    def level_shard_px(self, level: int) -> int:
        """Return the side of a level's shards, px."""
        return max(self.chunk_px, self.shard_px >> level)

    def level_count(self, shape: tuple[int, int]) -> int:
        """Return how many levels a pyramid has: until a chunk holds the smallest."""
        count = 1
        while max(shape) > self.chunk_px << (count - 1) and count < self.most_levels:
            count += 1
        return self.levels or count

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return np.dtype(self.dtype)
