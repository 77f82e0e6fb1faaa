"""A mosaic on disk: a pyramid of sharded zarr arrays with OME-NGFF 0.5 metadata, open to any reader.

``<path>/zarr.json`` is the group with all metadata, ``<path>/<level>/`` an array a level: inner chunks of
``chunk_px``, shards that halve with each level from ``shard_px`` down to a chunk, so that the area of a shard
of level 0 is one shard in each of these. Chunks without data are not stored; value 0 is no data.

The store grows in whole shards, to the left and the top as well: the levels of the grown store are made
beside the old ones and share their shard files, and then the group's metadata are replaced, which is one
step. So a store that a killed process leaves is the old or the new one. While it grows the levels may be
called ``next-<level>``; the metadata name them, and `close` puts the plain names back.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import tensorstore

from devices.errors import ConfigurationError
from processing.kernels.blend import halves
from processing.kernels.render import Area
from processing.mosaic._arrays import METADATA, create_array, open_array, renew_arrays, write_json
from processing.mosaic._fence import Fence
from processing.mosaic._layout import Compression, Layout
from processing.mosaic.metadata import Geometry, group_metadata, own_attributes, provenance

Pixels = npt.NDArray[Any]
Block = tuple[int, int, int, Pixels]
"""Level, row and column of the first pixel, and pixels (y, x)."""
_GROWN: Final = "next-"
_IN_FLIGHT: Final = 8


class PyramidStore:
    """A pyramid on disk; make it with `create` or `open`. Its methods may be called from several threads.

    A reader that has it open while it grows opens it again when ``zarr.json`` has changed.

    Attributes
    ----------
    path
        Its folder.
    layout
        How its pixels are stored.
    geometry
        Where they lie.
    name
        Of the image.
    """

    def __init__(
        self, path: Path, group: Mapping[str, Any], *, writable: bool, durable: bool = False
    ) -> None:
        own = own_attributes(group, path)
        multiscale = group["attributes"]["ome"]["multiscales"][0]
        window = group["attributes"]["ome"]["omero"]["channels"][0]["window"]
        self.path, self.writable = path, writable
        self.layout = Layout.from_json(own["layout"])
        self.geometry = Geometry.from_json(own)
        self.name: str = multiscale["name"]
        self._window: tuple[float, float] = window["start"], window["end"]
        self._provenance = provenance(own)
        self._durable = durable
        self._paths = [one["path"] for one in multiscale["datasets"]]
        self._lock = threading.RLock()
        self._fence = Fence(path) if writable else None
        self._arrays = [open_array(path / one, writable=writable, durable=durable) for one in self._paths]

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        dtype: npt.DTypeLike,
        pixel_size_nm: float,
        shape: tuple[int, int] | None = None,
        origin_px: tuple[int, int] = (0, 0),
        translation_um: tuple[float, float] = (0.0, 0.0),
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
        window: tuple[float, float] | None = None,
        chunk_px: int = 512,
        shard_px: int = 4096,
        levels: int | None = None,
        compression: Compression = "blosc",
        overwrite: bool = False,
        durable: bool = False,
    ) -> Self:
        """Create a store without data.

        Parameters
        ----------
        path
            Its folder, ending in ``.zarr`` by custom.
        dtype
            uint8 or uint16.
        pixel_size_nm
            Size of a pixel, above 0.
        shape
            (y, x) px; None: not known yet, the first `extend` says where the store begins.
        origin_px
            Mosaic coordinates (x, y) of pixel (0, 0).
        translation_um
            Where the zero of the mosaic's coordinates lies, (x, y) along the mosaic's axes.
        metadata
            JSON that is kept with it: input uids, recipe, parameters, transforms.
        name
            Of the image; None: that of the folder.
        window
            Counts shown as black and as white at first; None: the range of the dtype.
        chunk_px, shard_px
            Sides of the smallest readable piece and of the files of level 0, px: powers of two, the chunk 16
            or more.
        levels
            How many; None: until one chunk holds the smallest.
        compression
            "blosc" shuffles bits, then LZ4; "zstd" at level 1: uint16 of the same size in four times the
            time, uint8 a tenth smaller in twice the time; "none".
        overwrite
            Replace a mosaic that is there.
        durable
            Wait for the disk at every write: then a store survives a loss of power, too.

        Raises
        ------
        ConfigurationError
            A value is outside its range, or there is a file or folder already.
        """
        path = Path(path)
        if not pixel_size_nm > 0:
            raise ConfigurationError(f"pixel_size_nm = {pixel_size_nm} of a mosaic must be above 0")
        if shape is not None and min(shape) < 1:
            raise ConfigurationError(f"shape = {shape} of a mosaic must be 1 px or more both ways")
        layout = Layout(np.dtype(dtype).name, chunk_px, shard_px, levels, compression, shape is not None)
        geometry = Geometry(shape or (shard_px, shard_px), float(pixel_size_nm), origin_px, translation_um)
        if path.exists():
            if not overwrite:
                raise ConfigurationError(f"{path} exists already: name another, or allow to overwrite it")
            cls._remove(path)
        path.mkdir(parents=True)
        paths = [str(level) for level in range(layout.level_count(geometry.shape))]
        for level, one in enumerate(paths):
            create_array(path / one, layout, geometry, level, durable=durable)
        group = group_metadata(
            geometry, paths, layout, name=name or path.stem, window=window, provenance=metadata or {}
        )
        write_json(path / METADATA, group, durable=durable)
        return cls(path, group, writable=True, durable=durable)

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False, durable: bool = False) -> Self:
        """Open a store, also one that a killed process left.

        Raises
        ------
        ConfigurationError
            There is none, or another process writes to it and ``writable`` was asked for.
        """
        path = Path(path)
        try:
            group = json.loads((path / METADATA).read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path} is no mosaic that can be read: {error}") from error
        store = cls(path, group, writable=writable, durable=durable)
        if writable:
            store._remove_others()
        return store

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of level 0, px."""
        return self.geometry.shape

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return len(self._arrays)

    @property
    def area(self) -> Area:
        """The pixels of level 0, in the mosaic's coordinates."""
        (x, y), (rows, columns) = self.geometry.origin_px, self.shape
        return Area(x, y, x + columns, y + rows)

    @property
    def metadata(self) -> dict[str, Any]:
        """What was given as metadata."""
        return dict(self._provenance)

    @property
    def placed(self) -> bool:
        """Whether it is known where the store begins."""
        return self.layout.placed

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self.layout.numpy_dtype

    def read(self, level: int, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """Return pixels of a level, (y, x), 0 where there are no data; only their chunks are read.

        Raises
        ------
        IndexError
            There is no such level, or pixels are outside.
        """
        with self._lock:
            array = self._array(level, y0, x0, y1, x1)
        return np.asarray(array[y0:y1, x0:x1].read().result())

    def write(self, level: int, y0: int, x0: int, block: Pixels) -> None:
        """Write pixels (y, x) of a level; whole shards are cheapest, whole chunks come next.

        Raises
        ------
        IndexError
            There is no such level, or pixels are outside.
        """
        self.write_all([(level, y0, x0, block)])

    def write_all(self, blocks: Iterable[Block]) -> None:
        """Write several blocks that share no shard, some at a time; see `write`."""
        waiting: list[Any] = []
        with self._lock:
            for level, y0, x0, block in blocks:
                rows, columns = block.shape
                array = self._array(level, y0, x0, y0 + rows, x0 + columns)
                part = array[y0 : y0 + rows, x0 : x0 + columns]
                waiting.append(part.write(np.ascontiguousarray(block, self.dtype)))
                if len(waiting) >= _IN_FLIGHT:
                    waiting.pop(0).result()
            for one in waiting:
                one.result()

    def write_image(self, image: Pixels) -> None:
        """Write a whole image, (y, x) of the store's shape, with all levels.

        It may be a memory map: it is read in squares of a shard.

        Raises
        ------
        ValueError
            It is of another shape or type.
        """
        if image.shape != self.shape or image.dtype != self.dtype:
            raise ValueError(f"image is {image.dtype} {image.shape}, the store {self.dtype} {self.shape}")
        inner, shard = min(self.levels - 1, self.layout.inner_levels), self.layout.shard_px
        small = np.zeros(self.geometry.level_shape(inner), self.dtype)
        for y in range(0, self.shape[0], shard):
            for x in range(0, self.shape[1], shard):
                chain = list(halves(image[y : y + shard, x : x + shard], inner))
                self.write_all((level, y >> level, x >> level, one) for level, one in enumerate(chain))
                rows, columns = chain[-1].shape
                small[y >> inner : (y >> inner) + rows, x >> inner : (x >> inner) + columns] = chain[-1]
        upper = enumerate(halves(small, self.levels - 1 - inner))
        self.write_all((inner + level, 0, 0, one) for level, one in upper if level)

    def extend(self, area: Area) -> bool:
        """Grow in whole shards until an area of the mosaic is inside; return whether it had to.

        A store without a shape begins an eighth of a shard before the first area.
        """
        with self._lock:
            old, shard = self.area, self.layout.shard_px
            if self.placed and (old | area) == old:
                return False
            layout = replace(self.layout, placed=True)
            if not self.placed:
                x, y = area.x0 - shard // 8, area.y0 - shard // 8
                old = Area(x, y, x + 1, y + 1)
            whole = old | area
            x, y = old.x0 - _round_up(old.x0 - whole.x0, shard), old.y0 - _round_up(old.y0 - whole.y0, shard)
            shape = tuple(
                end - first if end == whole_end else _round_up(whole_end - first, shard)
                for first, end, whole_end in ((y, old.y1, whole.y1), (x, old.x1, whole.x1))
            )
            self._renew(replace(self.geometry, shape=(shape[0], shape[1]), origin_px=(x, y)), layout)
            return True

    def trim(self, area: Area) -> None:
        """Cut off what lies right of and below an area of the mosaic, and whole shards left and above."""
        with self._lock:
            old = self.area
            kept = area & old
            if not kept:
                return
            x, y = (
                first + (start - first) // self.layout.shard_px * self.layout.shard_px
                for first, start in ((old.x0, kept.x0), (old.y0, kept.y0))
            )
            fresh = Area(x, y, kept.x1, kept.y1)
            if fresh != old:
                shape = fresh.y1 - fresh.y0, fresh.x1 - fresh.x0
                self._renew(replace(self.geometry, shape=shape, origin_px=(x, y)), self.layout)

    def describe(
        self, metadata: Mapping[str, Any] | None = None, *, window: tuple[float, float] | None = None
    ) -> None:
        """Change metadata: keys that are given are replaced, and the window if it is given."""
        with self._lock:
            self._provenance.update(metadata or {})
            if window is not None:
                self._window = window
            self._write_metadata()

    def close(self) -> None:
        """Give the levels their plain names, and let go of the store."""
        with self._lock:
            if self._fence is not None:
                if self._paths[0] != "0":
                    self._renew(self.geometry, self.layout)
                self._fence.release()
            self._fence, self._arrays = None, []

    def __enter__(self) -> Self:
        """Return the store; it is closed at the end."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    @classmethod
    def _remove(cls, path: Path) -> None:
        """Remove a store that nobody writes to, and nothing else."""
        if not (path / METADATA).is_file():
            raise ConfigurationError(f"{path} is no mosaic: it is not overwritten")
        cls.open(path, writable=True).close()
        shutil.rmtree(path)

    def _array(self, level: int, y0: int, x0: int, y1: int, x1: int) -> tensorstore.TensorStore:
        if not 0 <= level < len(self._arrays):
            raise IndexError(f"level {level} of {self.path}: there are {len(self._arrays)}")
        rows, columns = self.geometry.level_shape(level)
        if not (0 <= y0 <= y1 <= rows and 0 <= x0 <= x1 <= columns):
            raise IndexError(
                f"rows {y0} to {y1}, columns {x0} to {x1} of level {level} of {self.path}: "
                f"it has {rows} x {columns}"
            )
        return self._arrays[level]

    def _write_metadata(self) -> None:
        group = group_metadata(
            self.geometry,
            self._paths,
            self.layout,
            name=self.name,
            window=self._window,
            provenance=self._provenance,
        )
        write_json(self.path / METADATA, group, durable=self._durable)

    def _renew(self, geometry: Geometry, layout: Layout) -> None:
        """Make the levels anew for another extent; the metadata turn to them in one step."""
        prefix = _GROWN if self._paths[0] == "0" else ""
        paths = [f"{prefix}{level}" for level in range(layout.level_count(geometry.shape))]
        arrays = renew_arrays(
            [(self.path / one, array) for one, array in zip(self._paths, self._arrays, strict=True)],
            self.geometry,
            [self.path / one for one in paths],
            geometry,
            layout,
            durable=self._durable,
        )
        self.geometry, self.layout, self._paths, self._arrays = geometry, layout, paths, arrays
        self._write_metadata()
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove levels that the metadata do not name."""
        for folder in self.path.iterdir():
            if folder.name.removeprefix(_GROWN).isdecimal() and folder.name not in self._paths:
                shutil.rmtree(folder)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
