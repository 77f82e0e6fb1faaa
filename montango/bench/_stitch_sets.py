"""Montages with exact truth: tiles cut below a pixel from one large image, as `montango bench stitch` needs.

A tile is the canvas interpolated by a windowed sinc of 32 samples at a place that no grid rounds, lit
unevenly, with a gain of its own and noise that grows with the signal. All of it follows from a seed; tiles
are made when they are asked for, so that a set of any size needs the memory of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from montango.bench._stitch_canvas import MEAN, Grey, make_canvas

Reals = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
_TAPS: Final = 32
_KAISER: Final = 6.0
"""Shape of the sinc's window: phases are exact, amplitudes to 0.1 % up to 0.45 cycles a pixel."""
_CLIP_SIGMA: Final = 3.0


@dataclass(frozen=True, slots=True)
class SetSpec:
    """How a montage is cut.

    Attributes
    ----------
    name
        What it is called.
    rows, columns
        Tiles.
    tile_px, overlap_px
        Side of the square tiles, and how much neighbours share where the stage is exact.
    stage_sigma_px
        Standard deviation of a tile's place from its nominal one, each axis; 3 sigma at most.
    noise_sigma
        Of the noise, grey values at the mean of the canvas (140, with structure of 33).
    gain_sigma
        Relative, from tile to tile.
    vignetting
        How much of the light is lost at half the side from the centre.
    seed
        Of places, gains and noise.
    """

    name: str
    rows: int
    columns: int
    tile_px: int
    overlap_px: int
    stage_sigma_px: float
    noise_sigma: float
    gain_sigma: float = 0.03
    vignetting: float = 0.06
    seed: int = 0

    @property
    def margin_px(self) -> int:
        """Canvas around the nominal montage."""
        return math.ceil(_CLIP_SIGMA * self.stage_sigma_px) + _TAPS

    @property
    def canvas_px(self) -> int:
        """Side of the canvas that the montage needs."""
        most = max(self.rows, self.columns)
        return most * (self.tile_px - self.overlap_px) + self.overlap_px + 2 * self.margin_px


SETS: Final = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            SetSpec("s25", 5, 5, 1024, 128, 8.0, 12.0),
            SetSpec("s100", 10, 10, 1024, 128, 8.0, 12.0),
            SetSpec("s400", 20, 20, 1024, 128, 8.0, 12.0),
            SetSpec("n100", 10, 10, 1024, 128, 8.0, 50.0),
            SetSpec("e100", 10, 10, 1024, 128, 25.0, 12.0),
            SetSpec("k64", 8, 8, 2048, 205, 15.0, 12.0),
            SetSpec("q9", 3, 3, 4096, 410, 15.0, 12.0),
        )
    }
)
"""Ordinary montages (s), more noise than specimen (n), a bad stage (e), tiles of 2K (k) and of 4K (q)."""


class SyntheticSet:
    """A montage cut from a canvas.

    Attributes
    ----------
    spec
        How it is cut.
    row, column
        (n,) of each tile, row by row.
    nominal_px, true_px
        (n, 2) as (x, y): centres of the tiles in the mosaic, where the stage was sent and where it was. The
        nominal first tile has its first pixel at (0, 0).
    """

    def __init__(self, spec: SetSpec, canvas: Grey) -> None:
        if min(canvas.shape) < spec.canvas_px:
            raise ValueError(f"set {spec.name} needs a canvas of {spec.canvas_px} px, not {canvas.shape}")
        self.spec = spec
        self._canvas = canvas
        n = np.arange(spec.rows * spec.columns)
        self.row: Indices = n // spec.columns
        self.column: Indices = n % spec.columns
        step = spec.tile_px - spec.overlap_px
        grid = np.stack([self.column, self.row], 1).astype(np.float64)
        self.nominal_px: Reals = np.asarray(grid * step + (spec.tile_px - 1) / 2, np.float64)
        rng = np.random.default_rng([spec.seed, 2])
        error = rng.normal(0.0, spec.stage_sigma_px, (n.size, 2))
        limit = _CLIP_SIGMA * spec.stage_sigma_px
        self.true_px: Reals = np.asarray(self.nominal_px + np.clip(error, -limit, limit), np.float64)

    def __len__(self) -> int:
        return self.row.size

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return self.spec.rows

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return self.spec.columns

    @property
    def tile_px(self) -> int:
        """Side of a tile."""
        return self.spec.tile_px

    @property
    def overlap_px(self) -> int:
        """What neighbours share where the stage is exact."""
        return self.spec.overlap_px

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield the neighbours left and right, and above and below, in the order of acquisition."""
        for j in range(len(self)):
            if self.column[j] > 0:
                yield j - 1, j
            if self.row[j] > 0:
                yield j - self.columns, j

    def tiles(self) -> Iterator[tuple[int, Grey]]:
        """Yield index and image of each tile, row by row."""
        for i in range(len(self)):
            yield i, self.image(i)

    def image(self, i: int) -> Grey:
        """Return tile ``i``, (y, x) uint8: always the same."""
        spec = self.spec
        first = self.true_px[i] - (spec.tile_px - 1) / 2 + spec.margin_px
        signal = _cut(self._canvas, float(first[0]), float(first[1]), spec.tile_px)
        rng = np.random.default_rng([spec.seed, 3, i])
        gain = 1.0 + rng.normal(0.0, spec.gain_sigma)
        u2 = np.linspace(-1.0, 1.0, spec.tile_px, dtype=np.float32) ** 2
        signal *= np.float32(gain) * (1.0 - np.float32(spec.vignetting) * (u2[:, None] + u2))
        noise = rng.standard_normal(signal.shape, np.float32)
        signal += noise * np.sqrt(np.clip(signal, 1.0, None) * np.float32(spec.noise_sigma**2 / MEAN))
        return np.asarray(np.clip(signal + 0.5, 0, 255), np.uint8)


def open_set(name: str, folder: Path, recorded: Path | None = None) -> SyntheticSet:
    """Return a set of `SETS`; its canvas is kept in ``folder`` and made of ``recorded`` data where there are.

    Raises
    ------
    ValueError
        There is no set of this name.
    """
    if name not in SETS:
        raise ValueError(f"there is no set {name!r}; there are {', '.join(SETS)}")
    spec = SETS[name]
    return SyntheticSet(spec, make_canvas(folder, spec.canvas_px, recorded=recorded, seed=spec.seed))


def _sinc(fraction: float) -> Reals:
    """Return the weights of samples ``1 - _TAPS / 2`` to ``_TAPS / 2`` for a value at ``fraction``."""
    x = np.arange(1 - _TAPS // 2, _TAPS // 2 + 1) - fraction
    window = np.i0(_KAISER * np.sqrt(np.clip(1 - (2 * x / _TAPS) ** 2, 0, 1)))
    weights = np.sinc(x) * window
    return np.asarray(weights / weights.sum())


def _cut(canvas: Grey, x_px: float, y_px: float, side_px: int) -> npt.NDArray[np.float32]:
    """Return a square of a canvas whose first pixel lies at (x, y)."""
    x, y = math.floor(x_px), math.floor(y_px)
    before = _TAPS // 2 - 1
    part = np.asarray(
        canvas[y - before : y + side_px + _TAPS // 2, x - before : x + side_px + _TAPS // 2], np.float32
    )
    across, down = _sinc(x_px - x), _sinc(y_px - y)
    found = cv2.sepFilter2D(part, cv2.CV_32F, across, down, anchor=(before, before))
    return np.ascontiguousarray(found[before : before + side_px, before : before + side_px])
