"""A montage stitched from files: matched, solved, drawn into a mosaic, and described in files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.kernels.gains import OverlapLevels, gains
from processing.kernels.render import TileTransform, footprint
from processing.mosaic.canvas import Canvas
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.engine import Stitcher
from processing.stitching.frame_files import FrameCache, FrameError, Image
from processing.stitching.options import StitchOptions
from processing.stitching.solution import EdgeRecord, Key, StitchSolution
from processing.stitching.sources import TileSet

Reals = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
MOSAIC: Final = "mosaic.ome.zarr"
_SAMPLED: Final = 9
"""Frames that tell the range of counts where they are not whole numbers."""
_MOST_IN_RAM: Final = 1.5e9
_OVERVIEW_PX: Final = 2048
_UNKNOWN_PIXEL_NM: Final = 1.0


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
    keep_mb
        Frames kept in memory, 10^6 bytes.
    """

    stitch: StitchOptions = field(default_factory=StitchOptions)
    blending: Literal["flat", "feather"] = "flat"
    match_brightness: bool = True
    keep_mb: float = 512.0


@dataclass(frozen=True)
class Stitched:
    """A montage that was stitched; ``faults`` are (name, reason) of what could not be read or placed."""

    tiles: TileSet
    solution: StitchSolution
    faults: tuple[tuple[str, str], ...]

    @property
    def names(self) -> dict[Key, str]:
        """Names of the tiles by key."""
        return {one.tile.key: one.name for one in self.tiles.tiles}


def nothing(what: str, done: int, of: int) -> None:
    """Take progress and do nothing with it."""


def stitch_tiles(
    tiles: TileSet, options: OfflineOptions | None = None, progress: Progress = nothing
) -> Stitched:
    """Return where the tiles of a montage lie.

    A tile that cannot be read, or has another size than most, is placed by its nominal position; its record
    says why.

    Raises
    ------
    ConfigurationError
        The field given is for frames of another size, or no tile can be read.
    """
    options = options or OfflineOptions()
    cache = FrameCache(options.keep_mb)
    ordered = sorted(tiles.tiles, key=lambda one: one.tile.key)
    frames = {one.tile.key: one.frame for one in ordered}
    stitch = replace(options.stitch, keep_mb=options.keep_mb)
    if stitch.first_search_px is None and tiles.search_px is not None:
        stitch = replace(stitch, first_search_px=tiles.search_px)
    try:
        stitcher = Stitcher(stitch, tiles.size_px, [one.tile for one in ordered])
    except ValueError as error:
        raise ConfigurationError(f"{tiles.name}: {error}") from error
    unread: dict[Key, str] = {}
    faults = list(tiles.left_out)
    for done, one in enumerate(ordered):
        progress("match", done, len(ordered))
        try:
            image: Any = cache.read(frames[one.tile.key])
        except FrameError as error:
            image, unread[one.tile.key] = None, str(error)
            faults.append((one.name, str(error)))
        stitcher.add(one.tile, image)
    progress("solve", 0, 1)
    if len(unread) == len(ordered):
        raise ConfigurationError(f"no tile of {tiles.name} can be read: {faults[-1][1]}")
    solution = stitcher.solution()
    records = tuple(
        replace(one, reason=f"prior-only: {unread[one.key]}") if one.key in unread else one
        for one in solution.tiles
    )
    return Stitched(tiles, replace(solution, tiles=records), tuple(faults))


def transforms(solution: StitchSolution) -> dict[Key, TileTransform]:
    """Return the transform of every tile."""
    shared = solution.field if solution.field.degree > 1 else None
    return {one.key: TileTransform(one.position_px, one.matrix, shared) for one in solution.tiles}


def brightness(stitched: Stitched, cache: FrameCache) -> dict[Key, float]:
    """Return the gain of every tile that makes the overlaps alike."""
    index = {one.key: k for k, one in enumerate(stitched.solution.tiles)}
    frames = {one.tile.key: one.frame for one in stitched.tiles.tiles}
    levels = []
    for edge in stitched.solution.edges:
        if edge.accepted:
            first, second = _shared(cache.read(frames[edge.first]), cache.read(frames[edge.second]), edge)
            if first > 0 and second > 0:
                levels.append(OverlapLevels(index[edge.first], index[edge.second], (first,), (second,)))
    found = gains(len(index), levels).gains
    return {key: float(found[k]) for key, k in index.items()}


def _shared(first: Image, second: Image, edge: EdgeRecord) -> tuple[float, float]:
    """Return the mean of two tiles over what both show, counts; NaN where that is nothing."""
    means = []
    for image, sign in ((first, 1), (second, -1)):
        height, width = image.shape
        dx, dy = (round(sign * offset) for offset in edge.offset_px)
        part = image[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        finite = part[np.isfinite(part)]
        means.append(float(finite.mean()) if finite.size else math.nan)
    return means[0], means[1]


@dataclass(frozen=True, slots=True)
class Counts:
    """How counts of frames become those of a mosaic: ``scale * counts + offset`` of this dtype."""

    dtype: str
    scale: float = 1.0
    offset: float = 0.0


def counts_of(tiles: TileSet, cache: FrameCache) -> Counts:
    """Return how counts become those of a mosaic: whole numbers as they are, others spread over uint16."""
    step = max(1, len(tiles.tiles) // _SAMPLED)
    dtypes, low, high = set(), math.inf, -math.inf
    for one in tiles.tiles[::step]:
        try:
            image = cache.read(one.frame)
        except FrameError:
            continue
        dtypes.add(image.dtype.name)
        finite = image[np.isfinite(image)]
        if image.dtype == np.float32 and finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if "float32" not in dtypes:
        return Counts("uint16" if "uint16" in dtypes else "uint8")
    # gains multiply counts: zero stays zero where nothing is below it
    low = min(low, 0.0)
    scale = 65000.0 / max(high - low, 1e-30)
    return Counts("uint16", scale, 1 - scale * low)


def draw_mosaic(
    stitched: Stitched,
    path: Path,
    options: OfflineOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = nothing,
) -> None:
    """Draw the tiles into a mosaic, OME-Zarr 0.5.

    Raises
    ------
    ConfigurationError
        There is something else at ``path``, or a mosaic and ``overwrite`` is not set.
    """
    options = options or OfflineOptions()
    tiles, solution = stitched.tiles, stitched.solution
    cache = FrameCache(options.keep_mb)
    counts = counts_of(tiles, cache)
    gain = brightness(stitched, cache) if options.match_brightness else {}
    metadata = {
        **tiles.provenance,
        "recipe": "stitch",
        "counts": {"scale": counts.scale, "offset": counts.offset},
        "pixel_size_known": tiles.pixel_size_nm is not None,
        "blending": options.blending,
        "field": solution.field.to_dict(),
    }
    width, height = tiles.size_px
    where = transforms(solution)
    whole = reduce(or_, (footprint(one, (height, width)) for one in where.values()))
    store = PyramidStore.create(
        path,
        dtype=counts.dtype,
        shape=(whole.y1 - whole.y0, whole.x1 - whole.x0),
        origin_px=(whole.x0, whole.y0),
        pixel_size_nm=tiles.pixel_size_nm or _UNKNOWN_PIXEL_NM,
        metadata=metadata,
        name=tiles.name,
        overwrite=overwrite,
    )
    large = len(tiles.tiles) * width * height * np.dtype(counts.dtype).itemsize * 5 > _MOST_IN_RAM
    with store, Canvas(store, blending=options.blending, memory="memmap" if large else "ram") as canvas:
        for done, one in enumerate(tiles.tiles):
            progress("draw", done, len(tiles.tiles))
            try:
                image = cache.read(one.frame)
            except FrameError:
                continue
            canvas.add(
                one.name,
                image,
                where[one.tile.key],
                gain=counts.scale * gain.get(one.tile.key, 1.0),
                offset=counts.offset,
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
