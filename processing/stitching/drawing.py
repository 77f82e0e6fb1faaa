"""The mosaic of a montage that is placed: brightness matched, drawn shard by shard by whoever works."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from processing.kernels.gains import OverlapLevels, gains
from processing.kernels.render import TileTransform, footprint
from processing.mosaic._arrays import METADATA
from processing.mosaic._tiles import ShownTile, save_tiles
from processing.mosaic.pyramid import PyramidStore
from processing.mosaic.shards import draw_shard, draw_upper, first_upper_level, shard_areas, upper_rows
from processing.stitching._jobs import process_cache
from processing.stitching.frame_files import Frame, FrameCache, FrameError, Image
from processing.stitching.offline import MOSAIC, OfflineOptions, Progress, Stitched, nothing
from processing.stitching.solution import Key, StitchSolution
from processing.stitching.sources import TileSet
from processing.stitching.workers import BEGUN, InProcess, Record, Workers, run_recorded

__all__ = ["MOSAIC", "brightness", "counts_of", "draw_mosaic", "transforms"]

_SAMPLED: Final = 9
"""Frames that tell the range of counts where they are not whole numbers."""
_UNKNOWN_PIXEL_NM: Final = 1.0
_CREATED: Final = "created"


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A shard to be drawn.

    Attributes
    ----------
    path, shard
        Of which mosaic; row and column.
    tiles
        What lies over it: how it is shown, the frame, and whether there may be none to be had.
    feather_px
        Depth of full weight; None: flat.
    keep_mb
        Frames that the process keeps for its next job, 10^6 bytes.
    """

    path: Path
    shard: tuple[int, int]
    tiles: tuple[tuple[ShownTile, Frame, bool], ...]
    feather_px: float | None
    keep_mb: float


@dataclass(frozen=True, slots=True)
class UpperJob:
    """A row of shards of an upper level to be drawn."""

    path: Path
    level: int
    row: int


def shard_job(job: ShardJob) -> bool:
    """Draw a shard.

    Raises
    ------
    FrameError
        A frame that was matched cannot be read here.
    """
    cache = process_cache(job.keep_mb)

    def read(frame: Frame, doubtful: bool) -> Image | None:
        try:
            return cache.read(frame)
        except FrameError as error:
            if doubtful:
                return None
            raise FrameError(f"on host {socket.gethostname()}: {error}") from error

    tiles = ((tile, partial(read, frame, doubtful)) for tile, frame, doubtful in job.tiles)
    draw_shard(job.path, job.shard, tiles, feather_px=job.feather_px)
    return True


def upper_job(job: UpperJob) -> bool:
    """Draw a row of shards of an upper level."""
    draw_upper(job.path, job.level, job.row)
    return True


def transforms(solution: StitchSolution) -> dict[Key, TileTransform]:
    """Return the transform of every tile."""
    shared = solution.field if solution.field.degree > 1 else None
    return {one.key: TileTransform(one.position_px, one.matrix, shared) for one in solution.tiles}


def brightness(stitched: Stitched) -> dict[Key, float]:
    """Return the gain of every tile that makes the overlaps alike."""
    index = {one.key: k for k, one in enumerate(stitched.solution.tiles)}
    levels = []
    for edge in stitched.solution.edges:
        first, second = stitched.levels.get((edge.first, edge.second), (math.nan, math.nan))
        if edge.accepted and first > 0 and second > 0:
            levels.append(OverlapLevels(index[edge.first], index[edge.second], (first,), (second,)))
    found = gains(len(index), levels).gains
    return {key: float(found[k]) for key, k in index.items()}


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
    workers: Workers | None = None,
    record: Record | None = None,
) -> None:
    """Draw the tiles into a mosaic, OME-Zarr 0.5.

    Parameters
    ----------
    stitched
        Where the tiles lie.
    path
        Folder of the mosaic.
    options
        How it is drawn.
    overwrite
        Replace a mosaic that is there.
    progress
        Called as it goes on.
    workers, record
        Who draws, and what was drawn before; None: this process, and nothing.

    Raises
    ------
    ConfigurationError
        There is something else at ``path``, or a mosaic and ``overwrite`` is not set.
    """
    options, workers = options or OfflineOptions(), workers or InProcess()
    begun = record.get(BEGUN) if record is not None else None
    if begun == _CREATED and (path / METADATA).is_file():
        store = PyramidStore.open(path, writable=True)
    else:
        if path.exists() and not overwrite and begun is None:
            raise ConfigurationError(f"{path} exists already: name another, or allow to overwrite it")
        if record is not None:
            record.forget(shard_job.__name__, upper_job.__name__)
            record.put(BEGUN, "to be created")
        store = _create(stitched, path, options, overwrite=overwrite or begun is not None)
        if record is not None:
            record.put(BEGUN, _CREATED)
    shown = _shown(stitched, options, store.metadata["counts"])
    feather = {"blending": options.blending, "feather_px": _feather(options)}
    with store:
        _draw(stitched, store, shown, options, progress, workers, record)
        names = stitched.names
        save_tiles(path, {names[key]: tile for key, tile in shown.items()}, blending=feather)
    process_cache.cache_clear()


def _feather(options: OfflineOptions) -> float | None:
    return options.feather_px if options.blending == "feather" else None


def _create(stitched: Stitched, path: Path, options: OfflineOptions, *, overwrite: bool) -> PyramidStore:
    tiles, solution = stitched.tiles, stitched.solution
    counts = counts_of(tiles, process_cache(options.cache_mb(tiles.size_px)))
    width, height = tiles.size_px
    whole = reduce(or_, (footprint(one, (height, width)) for one in transforms(solution).values()))
    return PyramidStore.create(
        path,
        dtype=counts.dtype,
        shape=(whole.y1 - whole.y0, whole.x1 - whole.x0),
        origin_px=(whole.x0, whole.y0),
        pixel_size_nm=tiles.pixel_size_nm or _UNKNOWN_PIXEL_NM,
        metadata={
            **tiles.provenance,
            "recipe": "stitch",
            "counts": {"scale": counts.scale, "offset": counts.offset},
            "pixel_size_known": tiles.pixel_size_nm is not None,
            "blending": options.blending,
            "field": solution.field.to_dict(),
        },
        name=tiles.name,
        overwrite=overwrite,
    )


def _shown(stitched: Stitched, options: OfflineOptions, counts: dict[str, float]) -> dict[Key, ShownTile]:
    """Return the tiles as they are drawn."""
    gain = brightness(stitched) if options.match_brightness else {}
    places = transforms(stitched.solution)
    shown = {}
    for one in stitched.tiles.tiles:
        key, (width, height) = one.tile.key, stitched.tiles.size_px
        if key in stitched.unusable:
            try:
                width, height = one.frame.size_px()
            except FrameError:
                continue
        scale = counts["scale"] * gain.get(key, 1.0)
        shown[key] = ShownTile(places[key], (height, width), scale, counts["offset"])
    return shown


def _draw(
    stitched: Stitched,
    store: PyramidStore,
    shown: dict[Key, ShownTile],
    options: OfflineOptions,
    progress: Progress,
    workers: Workers,
    record: Record | None,
) -> None:
    tiles = [
        (shown[one.tile.key], one.frame, one.tile.key in stitched.unusable)
        for one in stitched.tiles.tiles
        if one.tile.key in shown
    ]
    corners: npt.NDArray[np.int64] = np.array(
        [(tile.area.x0, tile.area.y0, tile.area.x1, tile.area.y1) for tile, *_ in tiles]
    ).reshape(-1, 4)
    jobs, kept = [], options.cache_mb(stitched.tiles.size_px)
    for shard, area in shard_areas(store).items():
        x0, y0, x1, y1 = corners.T
        over = np.flatnonzero((x0 < area.x1) & (x1 > area.x0) & (y0 < area.y1) & (y1 > area.y0))
        if len(over):
            own = tuple(tiles[k] for k in over)
            jobs.append(ShardJob(store.path.resolve(), shard, own, _feather(options), kept))
    drawn = 0

    def done(_index: int, _result: bool) -> None:
        nonlocal drawn
        drawn += 1
        progress("draw", drawn, len(jobs))

    progress("draw", 0, len(jobs))
    _run(workers, record, shard_job, jobs, done)
    for level in range(first_upper_level(store), store.levels):
        rows = [UpperJob(store.path.resolve(), level, row) for row in upper_rows(store, level)]
        _run(workers, record, upper_job, rows)


def _run(
    workers: Workers, record: Record | None, function: Any, jobs: Iterable[Any], done: Any = lambda *_: None
) -> None:
    run_recorded(workers, record, function, [*jobs], encode=bool, decode=bool, done=done)
