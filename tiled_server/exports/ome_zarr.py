"""The mosaic of a region as OME-Zarr 0.5, drawn from its frames: for montages without a live mosaic.

A tile lies at the place that was solved for it, or else at that of the stage; seams run along the middle of
the overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.kernels.render import Area, TileTransform
from processing.mosaic._tiles import ShownTile
from processing.mosaic.pyramid import PyramidStore
from processing.mosaic.shards import draw_shard, draw_upper, first_upper_level, shard_areas, upper_rows
from processing.stitching.frame_files import Frame, FrameCache
from tiled_server.exports.montage import Floats, Montage
from tiled_server.exports.output import Progress

Flags = npt.NDArray[np.bool_]
_KEEP_MB: Final = 256.0
_KEPT_FRAMES: Final = 400


@dataclass(frozen=True)
class Drawing:
    """A mosaic to be drawn from the frames of a region: places and matrices of the tiles, and their areas.

    Attributes
    ----------
    montage
        Frames of one region, one a tile.
    places, matrices
        (tile, 2) px of the centres, (tile, 2, 2).
    boxes
        (tile, 4): pixels that a tile may cover, as `processing.kernels.render.Area` counts.
    """

    montage: Montage
    places: Floats
    matrices: Floats
    boxes: Floats

    @classmethod
    def of(cls, montage: Montage) -> Drawing:
        """Return how a region is drawn.

        Raises
        ------
        ConfigurationError
            There are frames of several regions or sizes, or several attempts of a tile, or nothing tells
            where a tile lies.
        """
        if len(montage.rois) != 1:
            known = ", ".join(map(str, montage.rois))
            raise ConfigurationError(
                f"montage {montage.montage_id} has regions {known}, and a mosaic is of one: give --roi"
            )
        if montage.table.duplicated(["roi", "row", "column"]).any():
            raise ConfigurationError("a mosaic shows one attempt of a tile: leave out --attempts all")
        places, matrices = placed(montage)
        if not np.isfinite(places).all():
            lost = montage.table[~np.isfinite(places).all(1)].iloc[0]
            raise ConfigurationError(
                f"row {lost['row']}, column {lost['column']} of montage {montage.montage_id}: neither stage "
                "nor mosaic tells where it lies"
            )
        half = np.abs(matrices) @ (np.array(montage.size_px) / 2)
        boxes = np.concatenate([np.ceil(places - half), np.floor(places + half) + 1], 1)
        return cls(montage, places, matrices, boxes)

    @property
    def area(self) -> Area:
        """The pixels of the whole mosaic."""
        x0, y0 = self.boxes[:, :2].min(0)
        x1, y1 = self.boxes[:, 2:].max(0)
        return Area(int(x0), int(y0), int(x1), int(y1))

    @property
    def bytes(self) -> int:
        """About how many bytes it takes: its pixels and those of the levels above."""
        area = self.area
        return (area.x1 - area.x0) * (area.y1 - area.y0) * 8 // 3

    def steps(self, shard_px: int = 4096) -> int:
        """Return how many shards of level 0 it has."""
        area = self.area
        return (-(-(area.x1 - area.x0) // shard_px)) * (-(-(area.y1 - area.y0) // shard_px))

    def draw(self, path: Path, progress: Progress, *, name: str) -> None:
        """Draw it, shard by shard: in memory are a shard and the frames over it and its neighbour."""
        montage, area = self.montage, self.area
        frames = list(montage.frames())
        cache = FrameCache(min(_KEEP_MB, _KEPT_FRAMES * 2e-6 * math.prod(montage.size_px)))
        nm, _ = montage.runs[0].calibration
        store = PyramidStore.create(
            path, dtype=cache.read(frames[0]).dtype, shape=(area.y1 - area.y0, area.x1 - area.x0),
            origin_px=(area.x0, area.y0), pixel_size_nm=nm, name=name,
            metadata={
                "montage_id": montage.montage_id, "input_uids": [run.uid for run in montage.runs],
                "recipe": "export", "blending": "flat",
            },
        )  # fmt: skip
        with store:
            areas = shard_areas(store)
            for shard, own in areas.items():
                over = np.flatnonzero(
                    (self.boxes[:, 0] < own.x1) & (self.boxes[:, 2] > own.x0)
                    & (self.boxes[:, 1] < own.y1) & (self.boxes[:, 3] > own.y0)
                )  # fmt: skip
                if len(over):
                    draw_shard(path, shard, self._tiles(over, frames, cache), feather_px=None)
                progress.step(_shard_bytes(path, store.levels, shard))
            for level in range(first_upper_level(store), store.levels):
                for row in upper_rows(store, level):
                    draw_upper(path, level, row)

    def _tiles(self, over: Any, frames: list[Frame], cache: FrameCache) -> Iterator[tuple[ShownTile, Any]]:
        width, height = self.montage.size_px
        for k in over:
            (a, b), (c, d) = self.matrices[k].tolist()
            x, y = self.places[k].tolist()
            shown = ShownTile(TileTransform((x, y), ((a, b), (c, d))), (height, width))
            yield shown, partial(cache.read, frames[k])


def placed(montage: Montage) -> tuple[Floats, Floats]:
    """Return places (tile, 2) px and matrices (tile, 2, 2) of the tiles.

    Solved places are taken where there are any, and the rest of a region is moved to them. Of several
    regions, each with a mosaic of its own, all are moved to the stage's coordinates.
    """
    nominal = montage.nominal_px()
    solved = np.stack([montage.column("solved_x_px"), montage.column("solved_y_px")], -1)
    names = ("matrix_xx", "matrix_xy", "matrix_yx", "matrix_yy")
    found = np.stack([montage.column(name) for name in names], -1).reshape(-1, 2, 2)
    known: Flags = np.asarray(np.isfinite(solved).all(1))
    whole: Flags = np.asarray(known & np.isfinite(found).all((1, 2)))
    matrices = np.where(whole[:, None, None], found, np.eye(2))
    places = nominal.copy()
    for roi in montage.rois:
        own = (montage.table["roi"] == roi).to_numpy()
        both = np.flatnonzero(own & known & np.isfinite(nominal).all(1))
        shift = np.median(solved[both] - nominal[both], 0) if both.size else np.zeros(2)
        moved = np.where(known[:, None], solved, nominal + shift)[own]
        places[own] = moved if len(montage.rois) == 1 else moved - shift
    return places, matrices


def _shard_bytes(path: Path, levels: int, shard: tuple[int, int]) -> int:
    row, column = shard
    files = (path / str(level) / "c" / str(row) / str(column) for level in range(levels))
    return sum(file.stat().st_size for file in files if file.is_file())
