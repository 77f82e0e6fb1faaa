"""Frames of the files that a stream resource names: HDF5 that may still grow, Zarr, lists of frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from processing.frame_list import MIMETYPE as FRAME_LIST
from processing.frame_list import read_frame_list
from tiled_server.frames import READING
from tiled_server.mimetypes import HDF5, ZARR


def read_rows(
    arguments: Mapping[str, Any], path: str | Path, first: int, last: int
) -> npt.NDArray[np.generic]:
    """Return data of some frames of a resource, one after the other.

    Parameters
    ----------
    arguments
        ``mimetype``, ``parameters`` and ``shape`` of the resource; the shape is that of one frame.
    path
        The file, or the folder of a Zarr array.
    first, last
        Indices of the frames, the last one not included.

    Returns
    -------
    numpy.ndarray
        (frame, *shape).

    Raises
    ------
    OSError
        The file is not there, or cannot be read.
    KeyError
        The file has no such dataset.
    ValueError
        It has fewer frames, others than described, or is of a kind that is not known.
    """
    return read_many([Rows(arguments, str(path), first, last)])[0]


class Rows(NamedTuple):
    """Some frames of a resource: what is asked for of `read_rows`."""

    arguments: Mapping[str, Any]
    path: str
    first: int
    last: int


def read_many(wanted: Sequence[Rows]) -> list[npt.NDArray[np.generic]]:
    """Return data of several resources, each as `read_rows` does; a file that many lie in is opened once."""
    found: dict[int, npt.NDArray[np.generic]] = {}
    files: dict[tuple[str, bool], list[int]] = {}
    for at, one in enumerate(wanted):
        kind = one.arguments["mimetype"]
        if kind == HDF5:
            swmr = bool((one.arguments.get("parameters") or {}).get("swmr"))
            files.setdefault((one.path, swmr), []).append(at)
        elif kind == ZARR:
            import zarr

            found[at] = _cut(zarr.open_array(one.path, mode="r"), one)
        elif kind == FRAME_LIST:
            found[at] = _listed(one)
        else:
            raise ValueError(f"{one.path} is {kind}, which is not known here")
    for (path, swmr), places in files.items():
        with READING, h5py.File(path, "r", libver="latest", swmr=swmr) as file:
            for at in places:
                found[at] = _cut(file[_dataset(wanted[at])], wanted[at])
    return [found[at] for at in range(len(wanted))]


def _listed(rows: Rows) -> npt.NDArray[np.generic]:
    """Return frames that lie in files of other programs."""
    frames = read_frame_list(Path(rows.path))
    if rows.last > len(frames):
        raise ValueError(f"{rows.path} has {len(frames)} frames, and {rows.last} are asked for")
    found = frames.read(slice(rows.first, rows.last))
    return found.reshape((rows.last - rows.first, *rows.arguments["shape"]))


def _dataset(rows: Rows) -> str:
    name = (rows.arguments.get("parameters") or {}).get("dataset", "/")
    return name if isinstance(name, str) else "/".join(name)


def _cut(data: Any, wanted: Rows) -> npt.NDArray[np.generic]:
    """Return frames out of a dataset that has them stacked, or one after the other along its first axis."""
    shape, first, last = tuple(wanted.arguments["shape"]), wanted.first, wanted.last
    # a frame of shape (1, y, x) lies in a dataset (frame, y, x), or (frame, 1, y, x)
    rows = shape[0] if shape and tuple(data.shape[1:]) == shape[1:] and shape[0] != 1 else 1
    if rows * last > data.shape[0]:
        raise ValueError(f"{wanted.path} has {data.shape[0] // rows} frames, and {last} are asked for")
    found = np.asarray(data[rows * first : rows * last])
    return found.reshape((last - first, *shape))


def rows_of(places: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield resource, first and last index (not included) of frames that follow each other."""
    at = 0
    while at < len(places):
        uid, first = places[at]
        end = at + 1
        while end < len(places) and places[end] == (uid, first + end - at):
            end += 1
        yield uid, first, first + end - at
        at = end
