"""A montage stitched from files: matched and solved; `processing.stitching.drawing` makes the mosaic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.mosaic.pyramid import PyramidStore
from processing.stitching._jobs import Matched, process_cache
from processing.stitching.options import StitchOptions
from processing.stitching.rounds import Rounds
from processing.stitching.solution import Key, StitchSolution
from processing.stitching.sources import TileSet
from processing.stitching.workers import InProcess, Record, Workers

Progress = Callable[[str, int, int], None]
MOSAIC: Final = "mosaic.ome.zarr"
_OVERVIEW_PX: Final = 2048
_KEPT_FRAMES: Final = 50


@dataclass(frozen=True)
class OfflineOptions:
    """How a montage is stitched from files.

    Attributes
    ----------
    stitch
        How tiles are matched and placed.
    blending
        "flat" or "feather"; see `processing.mosaic.canvas.Canvas`.
    match_brightness
        Whether every tile gets a gain that makes the overlaps alike.
    feather_px
        Depth of full weight for "feather", px.
    keep_mb
        Frames that a process keeps, 10^6 bytes.
    """

    stitch: StitchOptions = field(default_factory=StitchOptions)
    blending: Literal["flat", "feather"] = "flat"
    match_brightness: bool = True
    feather_px: float = 128.0
    keep_mb: float = 512.0

    def cache_mb(self, size_px: tuple[int, int]) -> float:
        """Return how much of frames of a size is kept: no more than the tiles of two jobs, 10^6 bytes."""
        return min(self.keep_mb, _KEPT_FRAMES * 2e-6 * size_px[0] * size_px[1])


@dataclass(frozen=True)
class Stitched:
    """A montage that was stitched.

    Attributes
    ----------
    tiles, solution
        The tiles, and where they lie.
    faults
        (name, reason) of what could not be read or placed.
    levels
        Mean counts of both tiles of a pair that matched over what both show.
    unusable
        Keys of tiles whose frame was not used.
    """

    tiles: TileSet
    solution: StitchSolution
    faults: tuple[tuple[str, str], ...]
    levels: Mapping[tuple[Key, Key], tuple[float, float]] = field(default_factory=dict)
    unusable: frozenset[Key] = frozenset()

    @property
    def names(self) -> dict[Key, str]:
        """Names of the tiles by key."""
        return {one.tile.key: one.name for one in self.tiles.tiles}


def inputs(tiles: TileSet, options: OfflineOptions) -> dict[str, Any]:
    """Return what the results of a montage follow from, by the words of the user: JSON for `Record`."""
    field = options.stitch.field
    return {
        "tiles": [(*one.tile.key, one.tile.attempt, one.name) for one in tiles.tiles],
        "positions": [one.tile.nominal_px for one in tiles.tiles],
        "files": [(repr(one.frame), *one.frame.stamp()) for one in tiles.tiles],
        "size of a pixel": tiles.pixel_size_nm,
        "distortion": None if field is None else field.to_dict(),
        "options": [repr(replace(options, stitch=replace(options.stitch, field=None))), tiles.search_px],
        "version of montango": version("montango"),
    }


def nothing(what: str, done: int, of: int) -> None:
    """Take progress and do nothing with it."""


def stitch_tiles(
    tiles: TileSet,
    options: OfflineOptions | None = None,
    progress: Progress = nothing,
    *,
    workers: Workers | None = None,
    record: Record | None = None,
) -> Stitched:
    """Return where the tiles of a montage lie.

    A tile that cannot be read, or has another size than most, is placed by its nominal position; its record
    says why.

    Parameters
    ----------
    tiles, options
        What is stitched, and how.
    progress
        Called as it goes on.
    workers, record
        Who matches, and what was matched before; None: this process, and nothing. The solution is the same.

    Raises
    ------
    ConfigurationError
        The field given is for frames of another size, no tile can be read, or a worker does not have files
        that are here.
    """
    options = options or OfflineOptions()
    ordered = sorted(tiles.tiles, key=lambda one: one.tile.key)
    stitch = replace(options.stitch, keep_mb=options.cache_mb(tiles.size_px))
    if stitch.first_search_px is None and tiles.search_px is not None:
        stitch = replace(stitch, first_search_px=tiles.search_px)
    unread: dict[int, str] = {}
    judged = 0

    def judge(found: Matched, own: int) -> None:
        nonlocal judged
        judged += own
        if own:
            progress("match", judged, len(ordered))
        for index, one in found.unread.items():
            if one.absent and not ordered[index].frame.absent():
                raise ConfigurationError(
                    f"worker on {one.host} does not have {ordered[index].frame.where}, which is here: mount "
                    "the folder at the same path on all hosts of the workers, or stitch with --dask local"
                )
            unread[index] = one.reason

    progress("match", 0, len(ordered))
    try:
        rounds = Rounds(ordered, stitch, tiles.size_px, workers or InProcess(), record, judge)
    except ValueError as error:
        raise ConfigurationError(f"{tiles.name}: {error}") from error
    rounds.run()
    progress("solve", 0, 1)
    if len(unread) == len(ordered):
        raise ConfigurationError(f"no tile of {tiles.name} can be read: {next(iter(unread.values()))}")
    process_cache.cache_clear()
    keys = [one.tile.key for one in ordered]
    faults = [*tiles.left_out, *((ordered[k].name, reason) for k, reason in sorted(unread.items()))]
    return Stitched(
        tiles,
        rounds.stitcher.solution(),
        tuple(faults),
        {(keys[i], keys[j]): means for (i, j), means in rounds.levels.items()},
        frozenset(keys[k] for k in rounds.faults),
    )


def overview(path: Path) -> npt.NDArray[np.uint8]:
    """Return a reduced picture of a mosaic, (y, x), from its darkest to its brightest half percent."""
    with PyramidStore.open(path) as store:
        level = 0
        while level + 1 < store.levels and max(store.geometry.level_shape(level)) > _OVERVIEW_PX:
            level += 1
        rows, columns = store.geometry.level_shape(level)
        pixels = store.read(level, 0, 0, rows, columns)
    return stretched(pixels)


def stretched(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return pixels to look at; 0 stays black."""
    inside = pixels[pixels > 0]
    if not inside.size:
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(inside, (0.5, 99.5))
    scaled = (pixels.astype(np.float32) - low) * (254 / max(1.0, float(high - low))) + 1
    return np.where(pixels > 0, np.clip(scaled, 1, 255), 0).astype(np.uint8)


def write_picture(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write a picture as PNG.

    Raises
    ------
    OSError
        It cannot be written.
    """
    _, data = cv2.imencode(".png", pixels)
    path.write_bytes(data.tobytes())
