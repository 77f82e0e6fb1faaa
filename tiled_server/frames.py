"""Frames of a run that still grows, as the catalog serves them."""

from __future__ import annotations

import math
import threading
from typing import Any, Self

import dask
from tiled.adapters.hdf5 import HDF5Adapter, HDF5ArrayAdapter

_READING = threading.Lock()
"""One read at a time: two handles of one growing file in a process give other frames' pixels."""


class FrameArrayAdapter(HDF5ArrayAdapter):
    """A dataset of a file that may hold more frames than the catalog has been told of yet.

    Tiled's own adapter answers 422 then: it takes the shape of the file for that of the array.
    """

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, *args: Any, **parameters: Any) -> Self:
        """Return the part of the dataset that the catalog describes."""
        adapter = super().from_catalog(data_source, node, *args, **parameters)
        array, shape = adapter._array, data_source.structure.shape
        frame_size = math.prod(array.shape[1:])
        if array.ndim and frame_size and array.size > math.prod(shape):
            adapter._array = array[: math.prod(shape) // frame_size]
        return adapter  # type: ignore[no-any-return]  # Tiled is untyped

    def read(self, *args: Any, **parameters: Any) -> Any:
        """Return the array or a part of it."""
        with _READING, dask.config.set(scheduler="synchronous"):
            return super().read(*args, **parameters)

    def read_block(self, *args: Any, **parameters: Any) -> Any:
        """Return a chunk of the array."""
        with _READING, dask.config.set(scheduler="synchronous"):
            return super().read_block(*args, **parameters)


class FrameFileAdapter(HDF5Adapter):
    """An HDF5 file; its arrays are `FrameArrayAdapter`."""

    @classmethod
    def from_catalog(
        cls, data_source: Any, node: Any, /, dataset: str | list[str] = "/", **parameters: Any
    ) -> Any:
        """Return the adapter of a dataset, or of the whole file."""
        name = dataset if isinstance(dataset, str) else "/".join(dataset)
        if data_source.structure_family == "array":
            return FrameArrayAdapter.from_catalog(data_source, node, dataset=name, **parameters)
        return super().from_catalog(data_source, node, dataset=name, **parameters)
