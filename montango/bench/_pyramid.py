"""How fast mosaics are written: the pyramid beside other writers, and a tile on its way into it.

Rates are MB of level 0 a second of processor time, so other programs on the machine hardly matter. Writers
get the same picture, chunks, shards and compression; the others get the levels ready-made and no metadata.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import tensorstore
import zarr
from zarr.codecs import BloscCodec

from processing.kernels.blend import halves
from processing.kernels.field import FieldModel
from processing.kernels.render import TileTransform
from processing.mosaic.canvas import Blending, Canvas
from processing.mosaic.pyramid import PyramidStore

Pixels = npt.NDArray[Any]
_CHUNK_PX: Final = 512
_SHARD_PX: Final = 4096
_BLOSC: Final[dict[str, Any]] = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}


@dataclass(frozen=True, slots=True)
class WritingRate:
    """How fast one writer is.

    Attributes
    ----------
    writer
        Its name.
    cpu_mb_s, wall_mb_s
        MB of level 0 a second of processor and of wall time, median of the rounds.
    ratio
        Bytes of all levels by bytes on disk.
    """

    writer: str
    cpu_mb_s: float
    wall_mb_s: float
    ratio: float


@dataclass(frozen=True, slots=True)
class TileTimes:
    """What a tile of 4096 x 4096 px takes, from its frame to all levels, medians in ms.

    Attributes
    ----------
    blending
        "flat" or "feather".
    cpu_ms, wall_ms
        Until it is in the mosaic in memory, with all levels: undistorted, turned, put at its sub-pixel place.
    flush_cpu_ms
        A tile's share of writing, with the canvas's thread writing every ten tiles.
    """

    blending: str
    cpu_ms: float
    wall_ms: float
    flush_cpu_ms: float


def micrograph(side_px: int, dtype: npt.DTypeLike, seed: int = 1) -> Pixels:
    """Return texture with shot noise that compresses as electron micrographs do, (y, x)."""
    rng = np.random.default_rng(seed)
    part = min(side_px, 2048)
    texture = sum(
        cv2.GaussianBlur(rng.standard_normal((part, part)).astype(np.float32), (0, 0), scale) * scale
        for scale in (2.0, 6.0, 20.0)
    )
    eight = np.dtype(dtype) == np.uint8
    mean, contrast, noise = (140.0, 14.0, 9.0) if eight else (2800.0, 420.0, 190.0)
    noisy = mean + contrast * np.asarray(texture) + rng.normal(0, noise, (part, part))
    limits = np.iinfo(np.dtype(dtype))  # type: ignore[type-var]
    image = np.clip(noisy, 1, limits.max).astype(dtype)
    count = -(-side_px // part)
    return np.ascontiguousarray(np.tile(image, (count, count))[:side_px, :side_px])


def writing_rates(
    folder: Path, dtype: npt.DTypeLike, *, side_px: int = 8192, rounds: int = 3
) -> list[WritingRate]:
    """Return how fast our writer, tensorstore by itself, and zarr-python are; rounds are interleaved."""
    image = micrograph(side_px, dtype)
    levels = list(halves(image, 5))
    size = sum(level.nbytes for level in levels)

    def ours(path: Path) -> None:
        with PyramidStore.create(
            path,
            dtype=dtype,
            pixel_size_nm=4.0,
            shape=image.shape,
            levels=len(levels),  # type: ignore[arg-type]
        ) as store:
            store.write_image(image)

    writers: dict[str, Callable[[Path], None]] = {
        "montango: levels, writing, metadata": ours,
        "tensorstore: writing": lambda path: _write_tensorstore(path, levels),
        "zarr-python: writing": lambda path: _write_zarr(path, levels),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
    ratios = {}
    for turn in range(rounds + 1):
        for name, writer in writers.items():
            path = folder / "rate.zarr"
            shutil.rmtree(path, ignore_errors=True)
            spent = _timed(lambda writer=writer, path=path: writer(path))  # type: ignore[misc]
            ratios[name] = size / sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
            if turn:
                times[name].append(spent)
    shutil.rmtree(folder / "rate.zarr", ignore_errors=True)
    rates = []
    for name, measured in times.items():
        cpu, wall = (image.nbytes / 1e6 / statistics.median(one) for one in zip(*measured, strict=True))
        rates.append(WritingRate(name, cpu, wall, ratios[name]))
    return rates


def tile_times(
    folder: Path, blending: Blending, *, dtype: npt.DTypeLike = "uint8", tiles: int = 12
) -> TileTimes:
    """Return what tiles of 4096 x 4096 px take; the first two, which compile and allocate, do not count."""
    side, step = 4096, 3700
    frame = micrograph(side, dtype)
    coefficients = np.random.default_rng(3).normal(0, 0.6, (2, 18))
    field = FieldModel(side, side, 5, coefficients)
    path = folder / "tiles.zarr"
    columns = 4
    added: list[tuple[float, float]] = []
    with PyramidStore.create(path, dtype=dtype, pixel_size_nm=4.0, overwrite=path.exists()) as store:
        canvas = Canvas(store, blending=blending, flush_tiles=None, flush_s=None)
        writing = 0.0
        for index in range(tiles + 2):
            row, column = divmod(index, columns)
            place = TileTransform(
                (2048.3 + column * step, 2048.7 + row * step), ((1.0003, 0.0008), (-0.0007, 0.9996)), field
            )
            spent = _timed(lambda index=index, place=place: canvas.add(index, frame, place))  # type: ignore[misc]
            if index >= 2:
                added.append(spent)
            if index % 10 == 9 or index == tiles + 1:
                writing += _timed(canvas.flush)[0]
        canvas.close()
    shutil.rmtree(path, ignore_errors=True)
    cpu, wall = (1e3 * statistics.median(one) for one in zip(*added, strict=True))
    return TileTimes(blending, cpu, wall, 1e3 * writing / (tiles + 2))


def _timed(action: Callable[[], object]) -> tuple[float, float]:
    """Return processor and wall time of an action, s."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def _write_zarr(path: Path, levels: Sequence[Pixels]) -> None:
    group = zarr.create_group(path, zarr_format=3)
    for level, image in enumerate(levels):
        array = group.create_array(
            str(level),
            shape=image.shape,
            dtype=image.dtype,
            chunks=(_CHUNK_PX, _CHUNK_PX),
            shards=(max(_CHUNK_PX, _SHARD_PX >> level),) * 2,
            compressors=BloscCodec(**_BLOSC),
        )
        array[:] = image


def _write_tensorstore(path: Path, levels: Sequence[Pixels]) -> None:
    context = tensorstore.Context({"file_io_sync": False})
    writes = []
    for level, image in enumerate(levels):
        inner = [{"name": "bytes", "configuration": {"endian": "little"}}]
        blosc = _BLOSC | {"typesize": image.dtype.itemsize}
        inner += [{"name": "blosc", "configuration": blosc}]  # type: ignore[dict-item]
        sharding = {"chunk_shape": [_CHUNK_PX] * 2, "codecs": inner}
        grid = {"chunk_shape": [max(_CHUNK_PX, _SHARD_PX >> level)] * 2}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{path / str(level)}/"},
            "metadata": {
                "shape": [*image.shape],
                "data_type": image.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": grid},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
            "create": True,
        }
        writes.append(tensorstore.open(spec, context=context).result().write(image))
    for one in writes:
        one.result()
