"""Frames of a run that may still grow, as the catalog serves them: what is asked for is read, and no more."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self

import dask
import numpy as np
import numpy.typing as npt
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.hdf5 import HDF5Adapter, HDF5ArrayAdapter, h5open
from tiled.adapters.utils import DataNotReadyError
from tiled.ndslice import NDBlock, NDSlice
from tiled.utils import path_from_uri

READING = threading.Lock()
"""One read at a time: two handles of one growing file in a process give other frames' pixels."""
_ALL: Final = NDSlice(...)


class FrameArrayAdapter(ArrayAdapter):  # type: ignore[misc]  # Tiled is untyped
    """A dataset of one file, read in part.

    The file may hold more frames than the catalog has been told of yet. Tiled's own adapter makes a task for
    each frame of the whole array, whatever is asked for, and reads every frame whole that a region touches.

    Parameters
    ----------
    structure
        As the catalog describes the array; it may have axes of length 1 that the dataset has not.
    path, dataset, options
        File, name of the dataset in it, and how to open the file (``swmr``, ``libver``, ``locking``).
    otherwise
        Returns the adapter for a dataset whose shape or type is not simply that of the array.
    """

    def __init__(
        self,
        structure: Any,
        path: Any,
        dataset: str,
        options: dict[str, Any],
        otherwise: Callable[[], Any],
        **described: Any,
    ) -> None:
        self._path, self._dataset, self._options = path, dataset, options
        self._otherwise = otherwise
        super().__init__(None, structure, **described)

    @classmethod
    def from_catalog(
        cls,
        data_source: Any,
        node: Any,
        /,
        dataset: str = "/",
        swmr: bool = False,
        libver: str = "latest",
        locking: Any = None,
    ) -> Self:
        """Return the part of the dataset that the catalog describes; the file is not opened yet."""
        options = {"swmr": swmr, "libver": libver, "locking": locking}
        return cls(
            data_source.structure,
            path_from_uri(data_source.assets[0].data_uri),
            dataset,
            # without a cache the pixels asked for are read, not the whole chunk, which is a frame
            options | {"rdcc_nbytes": 0},
            partial(StackedArrayAdapter.from_catalog, data_source, node, dataset=dataset, **options),
            metadata=node.metadata_,
            specs=node.specs,
        )

    def read(self, slice: NDSlice = _ALL) -> npt.NDArray[Any]:
        """Return the array or a part of it.

        Raises
        ------
        tiled.adapters.utils.DataNotReadyError
            The file has fewer frames than the catalog says.
        """
        if not isinstance(slice, NDSlice):  # Tiled's Zarr routes give plain slices
            slice = NDSlice(*slice)
        shape, dtype = self._structure.shape, self._structure.data_type.to_numpy_dtype()
        wanted = indices_of(slice, shape)
        with READING, h5open(self._path, self._dataset, **self._options) as data:
            axes = _matched(shape, data.shape) if data.dtype == dtype else None
            if axes is not None:
                return _part(data, axes, wanted)
        return self._otherwise().read(slice)  # type: ignore[no-any-return]

    def get(self, key: str) -> None:
        """Return that there is nothing in an array: Tiled asks for whatever an address goes on with."""

    def read_block(self, block: NDBlock, slice: NDSlice = _ALL) -> npt.NDArray[Any]:
        """Return a chunk of the array, or a part of it."""
        whole = NDSlice(*block.slice_from_chunks(self._structure.chunks))
        return self.read(whole[slice] if slice else whole)


class StackedArrayAdapter(HDF5ArrayAdapter):  # type: ignore[misc]  # Tiled is untyped
    """A dataset of several files, one after the other, or one that is cut before it is served."""

    def get(self, key: str) -> None:
        """Return that there is nothing in an array."""

    def read(self, *args: Any, **parameters: Any) -> Any:
        """Return the array or a part of it."""
        with READING, dask.config.set(scheduler="synchronous"):
            return super().read(*args, **parameters)

    def read_block(self, *args: Any, **parameters: Any) -> Any:
        """Return a chunk of the array."""
        with READING, dask.config.set(scheduler="synchronous"):
            return super().read_block(*args, **parameters)


class FrameFileAdapter(HDF5Adapter):  # type: ignore[misc]  # Tiled is untyped
    """An HDF5 file; its arrays are `FrameArrayAdapter`."""

    @classmethod
    def from_catalog(
        cls, data_source: Any, node: Any, /, dataset: str | list[str] = "/", **parameters: Any
    ) -> Any:
        """Return the adapter of a dataset, or of the whole file."""
        name = dataset if isinstance(dataset, str) else "/".join(dataset)
        if data_source.structure_family != "array":
            return super().from_catalog(data_source, node, dataset=name, **parameters)
        cut = {"slice", "squeeze"} & parameters.keys()
        if len(data_source.assets) != 1 or any(parameters[key] for key in cut):
            return StackedArrayAdapter.from_catalog(data_source, node, dataset=name, **parameters)
        known = {key: parameters[key] for key in ("swmr", "libver", "locking") if key in parameters}
        return FrameArrayAdapter.from_catalog(data_source, node, dataset=name, **known)


def indices_of(wanted: NDSlice, shape: Sequence[int]) -> list[int | range]:
    """Return the indices asked for along each axis: a number, or a range of them."""
    parts = list(wanted.expand_for_shape(tuple(shape)))
    found: list[int | range] = []
    for part, length in zip(parts, shape, strict=True):
        if isinstance(part, int):
            found.append(part % length)
        else:
            start, stop, step = part.start, part.stop, part.step or 1
            if step < 0 and stop is not None and stop < 0:
                stop = None  # as Tiled writes "down to the first"
            found.append(range(*slice(start, stop, step).indices(length)))
    return found


def _matched(shape: Sequence[int], stored: Sequence[int]) -> list[int | None] | None:
    """Return for each axis of the catalog's the axis of the dataset that it is; None: not one of it.

    Axes of length 1 may be the catalog's own; the first axis of the dataset may be longer than the catalog's.
    Returns None altogether where the shapes differ otherwise.
    """
    extra = len(shape) - len(stored)
    axes: list[int | None] = []
    at = len(stored) - 1
    for length in reversed(shape):
        if at >= 0 and (length == stored[at] or (at == 0 and (length != 1 or not extra))):
            axes.insert(0, at)
            at -= 1
        elif length == 1 and extra:
            axes.insert(0, None)
            extra -= 1
        else:
            return None
    if at >= 0 or 0 not in axes:
        return None
    known = shape[axes.index(0)]
    if stored[0] < known:
        raise DataNotReadyError(
            f"the catalog knows of {known} frames, and the file has {stored[0]} so far; try again"
        )
    return axes


def _part(data: Any, axes: Sequence[int | None], wanted: Sequence[int | range]) -> npt.NDArray[Any]:
    """Read a part of a dataset, and give it the axes of the catalog's array."""
    ranges = [range(one, one + 1) if isinstance(one, int) else one for one in wanted]
    lengths = [len(one) for one in ranges]
    if not math.prod(lengths):
        kept = [length for length, one in zip(lengths, wanted, strict=True) if not isinstance(one, int)]
        return np.empty(kept, data.dtype)
    selection: list[slice] = []
    strides: list[slice] = []
    for axis, one in zip(axes, ranges, strict=True):
        if axis is None:
            continue
        low, high, step = min(one[0], one[-1]), max(one[0], one[-1]), abs(one.step)
        # pixels between those wanted are read too: each would be a request of its own to the disk
        within = step if len(selection) < data.ndim - 2 else 1
        selection.append(slice(low, high + 1, within))
        strides.append(slice(None, None, (step // within) * (1 if one.step > 0 else -1)))
    found = data[tuple(selection)][tuple(strides)].reshape(lengths)
    return np.ascontiguousarray(found[tuple(0 if isinstance(one, int) else slice(None) for one in wanted)])
