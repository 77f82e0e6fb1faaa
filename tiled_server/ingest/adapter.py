"""Frames of other programs' files as the catalog serves them: of what is asked for, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.utils import ShapeMismatchError
from tiled.ndslice import NDBlock, NDSlice
from tiled.utils import path_from_uri

from processing.frame_list import read_frame_list
from processing.stitching.frame_files import FrameError
from tiled_server.frames import indices_of

_ALL: Final = NDSlice(...)
_LOOKED_UP: Final = 500
"""Most assets that are looked up by their numbers."""


class FrameListAdapter(ArrayAdapter):  # type: ignore[misc]  # Tiled is untyped
    """An array (frame, 1, y, x) whose frames lie in files of other programs.

    Parameters
    ----------
    structure
        As the catalog describes the array.
    path
        The list of the frames.
    allowed
        Files that may be read: Tiled has seen that they lie in the folders that it serves. What else a list
        names is not read.
    """

    supports_lazy_assets: ClassVar = True
    """Tiled looks up only the assets that `file_indices_for_slice` asks for: of thousands it takes long."""

    def __init__(self, structure: Any, path: Path, allowed: frozenset[Path], **described: Any) -> None:
        self._path, self._allowed = path, allowed
        super().__init__(None, structure, **described)

    @classmethod
    def from_catalog(
        cls, data_source: Any, node: Any, /, data_uris: Sequence[str | None] | None = None, **_: Any
    ) -> Self:
        """Return the array that a catalog describes; no file is opened yet.

        Parameters
        ----------
        data_source, node
            Of the catalog.
        data_uris
            Addresses of the list and of its files, None for those that are not asked for; None: all.
        """
        if data_uris is None:
            data_uris = [one.data_uri for one in sorted(data_source.assets, key=lambda one: one.num or 0)]
        path, *files = (Path(path_from_uri(uri)) for uri in data_uris if uri is not None)
        return cls(data_source.structure, path, frozenset(files), metadata=node.metadata_, specs=node.specs)

    @classmethod
    def file_indices_for_slice(
        cls, structure: Any, n: int, slice: Any, *, properties: Any, parameters: Mapping[str, Any]
    ) -> list[int] | None:
        """Return the numbers of the assets that a slice needs, the list and files; None: all."""
        del n, properties
        if not parameters.get("one_each"):
            return None
        parts = slice if isinstance(slice, tuple) else (slice,)
        frames = indices_of(NDSlice(*parts), structure.shape)[0]
        wanted = [frames] if isinstance(frames, int) else list(frames)
        return [0, *(1 + index for index in wanted)] if len(wanted) <= _LOOKED_UP else None

    def read(self, slice: NDSlice = _ALL) -> npt.NDArray[Any]:
        """Return the array or a part of it.

        Raises
        ------
        tiled.adapters.utils.ShapeMismatchError
            A file is gone, or is another than was ingested.
        """
        shape = self._structure.shape
        wanted = indices_of(slice, shape)
        frames, one, rows, columns = ([axis] if isinstance(axis, int) else list(axis) for axis in wanted)
        within = [_span(axis) for axis in (wanted[2], wanted[3])]
        dtype = self._structure.data_type.to_numpy_dtype()
        found = np.empty((len(frames), len(one), len(rows), len(columns)), dtype)
        if found.size:
            for position, index in enumerate(frames):
                found[position] = self._part(index, within)
        return found[tuple(0 if isinstance(axis, int) else np.s_[:] for axis in wanted)]

    def read_block(self, block: NDBlock, slice: NDSlice = _ALL) -> npt.NDArray[Any]:
        """Return a chunk of the array, or a part of it."""
        whole = NDSlice(*block.slice_from_chunks(self._structure.chunks))
        return self.read(whole[slice] if slice else whole)

    def _part(self, index: int, within: Sequence[slice]) -> npt.NDArray[Any]:
        try:
            listing = read_frame_list(self._path)
        except (OSError, KeyError) as error:
            raise ShapeMismatchError(f"the list of the frames, {self._path.name}, is not there") from error
        path = listing.frame(index).path
        if path not in self._allowed:
            raise ShapeMismatchError(f"frame {index}: {path.name} is not among the files of this array")
        try:
            return listing.part(index, *within)
        except FrameError as error:
            # where files lie is not for every reader
            raise ShapeMismatchError(f"frame {index}: {str(error).replace(f'{path.parent}/', '')}") from error


def _span(axis: int | range) -> slice:
    """Return indices along an axis as a slice."""
    if isinstance(axis, int):
        return slice(axis, axis + 1)
    if not len(axis):
        return slice(0, 0)
    stop = axis[-1] + (1 if axis.step > 0 else -1)
    return slice(axis[0], stop if stop >= 0 else None, axis.step)
