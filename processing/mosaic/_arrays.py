"""The levels of a pyramid on disk: sharded zarr v3 arrays, and how they are made anew for another extent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorstore

from processing.kernels.blend import halves
from processing.mosaic._layout import Layout
from processing.mosaic.metadata import Geometry

METADATA: Final = "zarr.json"
_ZSTD_LEVEL: Final = 1
_LZ4_LEVEL: Final = 5
"""As small as it gets, at the speed of level 1."""


@lru_cache(maxsize=2)
def _context(durable: bool) -> tensorstore.Context:
    """Return what all arrays share: no cache, as writers keep their pixels and readers read regions once."""
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": durable})


def create_array(
    path: Path, layout: Layout, geometry: Geometry, level: int, *, durable: bool
) -> tensorstore.TensorStore:
    """Create a level of zeros, over whatever is there."""
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, *_codecs(layout)]
    sharding = {"chunk_shape": [layout.chunk_px] * 2, "codecs": inner}
    grid = {"chunk_shape": [layout.level_shard_px(level)] * 2}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": {
            "shape": [*geometry.level_shape(level)],
            "data_type": layout.dtype,
            "dimension_names": ["y", "x"],
            "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": grid},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
        "create": True,
        "delete_existing": True,
    }
    return tensorstore.open(spec, context=_context(durable)).result()


def open_array(path: Path, *, writable: bool, durable: bool) -> tensorstore.TensorStore:
    """Open a level."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    return tensorstore.open(spec, read=True, write=writable, context=_context(durable)).result()


def _codecs(layout: Layout) -> list[dict[str, Any]]:
    if layout.compression == "zstd":
        return [{"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}}]
    if layout.compression == "blosc":
        size = layout.numpy_dtype.itemsize
        blosc = {"cname": "lz4", "clevel": _LZ4_LEVEL, "shuffle": "bitshuffle", "typesize": size}
        return [{"name": "blosc", "configuration": blosc}]
    return []


def renew_arrays(
    old: Sequence[tuple[Path, tensorstore.TensorStore]],
    old_geometry: Geometry,
    paths: Sequence[Path],
    geometry: Geometry,
    layout: Layout,
    *,
    durable: bool,
) -> list[tensorstore.TensorStore]:
    """Make levels of another extent beside the old ones, with the pixels that both have.

    Levels whose shards move by whole shards share the old files; the rest, which are small, are written.
    """
    fresh: list[tensorstore.TensorStore] = []
    for level, path in enumerate(paths):
        fresh.append(create_array(path, layout, geometry, level, durable=durable))
        columns, rows = (
            (before - after) >> level
            for before, after in zip(old_geometry.origin_px, geometry.origin_px, strict=True)
        )
        shard = layout.level_shard_px(level)
        if level >= len(old):
            *_, small = halves(np.asarray(fresh[level - 1].read().result()), 1)
            fresh[level].write(small).result()
        elif rows % shard == 0 and columns % shard == 0:
            _link_shards(old[level][0], path, rows // shard, columns // shard)
        else:
            _copy(old[level][1], fresh[level], rows, columns)
    return fresh


def _link_shards(old: Path, new: Path, rows: int, columns: int) -> None:
    """Give the shards of an array to another, moved down and right by whole shards.

    Both name the same files (copies where the file system has no links); a shard that is written later gets a
    new file, so the old array stays as it was.
    """
    for row in (old / "c").glob("*"):
        if int(row.name) + rows < 0:
            continue
        target = new / "c" / str(int(row.name) + rows)
        target.mkdir(parents=True, exist_ok=True)
        for shard in row.iterdir():
            if shard.name.isdecimal() and int(shard.name) + columns >= 0:
                _link(shard, target / str(int(shard.name) + columns))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _copy(old: tensorstore.TensorStore, new: tensorstore.TensorStore, rows: int, columns: int) -> None:
    """Copy an array into another, ``rows`` down and ``columns`` right, as far as there is room."""
    values = np.asarray(old.read().result())
    top, left = max(0, -rows), max(0, -columns)
    y, x = max(0, rows), max(0, columns)
    height = min(values.shape[0] - top, new.shape[0] - y)
    width = min(values.shape[1] - left, new.shape[1] - x)
    if height > 0 and width > 0:
        new[y : y + height, x : x + width].write(values[top : top + height, left : left + width]).result()


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any], *, durable: bool) -> None:
    """Write a file so that it is the old or the new one at any time."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        json.dump(content, file, separators=(",", ":"), allow_nan=False)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)
