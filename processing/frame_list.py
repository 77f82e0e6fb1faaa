"""Frames that stay in files of other programs: an HDF5 file that names them and has the numbers of the tiles.

Where a frame file has its pixels in ``/entry/data``, a list has ``/entry/files`` (path, size, mtime_ns,
blake3; one row a file) and ``/entry/frames`` (file, page; one row a frame). ``/entry/tiles`` is the same in
both. `processing.callbacks._frame_file.read_parts` and `processing.stored_frames` read both.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import h5py
import numpy as np
import numpy.typing as npt

from devices.tiles import TILE_COLUMNS, TILE_GROUP
from processing.stitching.frame_files import FrameError, FrameFile
from processing.stitching.image_parts import part

FILES: Final = "/entry/files"
FRAMES: Final = "/entry/frames"
MIMETYPE: Final = "application/x-montango-frame-list"
_CHUNK: Final = 512

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that has frames: where it is, its size in bytes, time of change, ns, and BLAKE3 checksum."""

    path: Path
    size: int
    mtime_ns: int
    blake3: str

    def unchanged(self) -> bool:
        """Return whether it is there, of the same size and time of change."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True)
class FrameList:
    """Frames, and the files that they are in.

    Attributes
    ----------
    files
        The files.
    file, page
        For each frame the index of its file, and which image of it; (frame,) int64.
    shape
        Height and width of all frames, px.
    dtype
        Type of their numbers.
    """

    files: tuple[ListedFile, ...]
    file: Whole
    page: Whole
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.file)

    def frame(self, index: int) -> FrameFile:
        """Return where a frame is."""
        return FrameFile(self.files[self.file[index]].path, int(self.page[index]))

    def part(self, index: int, rows: slice = slice(None), columns: slice = slice(None)) -> npt.NDArray[Any]:
        """Return a part of a frame, (y, x).

        Raises
        ------
        FrameError
            It cannot be read, or its file is another than was listed.
        """
        frame, listed = self.frame(index), self.files[self.file[index]]
        if (size := _size(listed.path)) != listed.size:
            what = f"has {size} bytes and had {listed.size}" if size >= 0 else "is not there"
            raise FrameError(f"{listed.path} {what}: bring the file back, or ingest it anew")
        image = part(frame, rows, columns)
        shape = [len(range(*one.indices(n))) for one, n in zip((rows, columns), self.shape, strict=True)]
        if list(image.shape) != shape or image.dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
            raise FrameError(f"{frame.path} has other images than were ingested: bring those back")
        return np.asarray(image, self.dtype)

    def read(self, selection: int | slice) -> npt.NDArray[Any]:
        """Return a frame, or several as (frame, y, x). Raises as `part` does."""
        if isinstance(selection, slice):
            wanted = range(*selection.indices(len(self)))
            found = [self.part(index) for index in wanted]
            return np.stack(found) if found else np.empty((0, *self.shape), self.dtype)
        return np.array(self.part(range(len(self))[selection]))

    def there(self) -> list[bool]:
        """Return for each frame whether its file is there and as large as it was."""
        sizes = [_size(one.path) for one in self.files]
        whole = [size == one.size for one, size in zip(self.files, sizes, strict=True)]
        return [whole[at] for at in self.file]

    def write(self, path: Path, columns: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Write a list, whole or not at all.

        Parameters
        ----------
        path
            The file; its folder exists.
        columns
            Of the tiles, (frame,) each, by the names of `devices.tiles.TILE_COLUMNS`; one that is not given
            is NaN.
        """
        fresh = path.with_name(f".{path.name}.part")
        try:
            with h5py.File(fresh, "w", libver="latest") as file:
                self._put(file, columns)
            fresh.rename(path)
        finally:
            fresh.unlink(missing_ok=True)

    def _put(self, file: h5py.File, columns: Mapping[str, npt.NDArray[np.float64]]) -> None:
        text = h5py.string_dtype()
        files = file.create_group(FILES)
        files.create_dataset("path", data=[str(one.path) for one in self.files], dtype=text)
        files.create_dataset("blake3", data=[one.blake3 for one in self.files], dtype=text)
        files.create_dataset("size", data=np.array([one.size for one in self.files], np.int64))
        files.create_dataset("mtime_ns", data=np.array([one.mtime_ns for one in self.files], np.int64))
        frames = file.create_group(FRAMES)
        frames.create_dataset("file", data=self.file)
        frames.create_dataset("page", data=self.page)
        frames.attrs.update(height=self.shape[0], width=self.shape[1], dtype=self.dtype.str)
        for column in TILE_COLUMNS:
            values = columns.get(column.name, np.full(len(self), np.nan))
            made = file.create_dataset(
                f"{TILE_GROUP}/{column.name}", data=np.asarray(values, np.float64), chunks=(_CHUNK,),
                maxshape=(None,),
            )  # fmt: skip
            made.attrs["units"], made.attrs["description"] = column.unit, column.description

    @classmethod
    def of(cls, file: h5py.File) -> Self:
        """Return the list that an open file has."""
        files, frames = file[FILES], file[FRAMES]
        names = zip(
            files["path"].asstr()[:], files["size"][:], files["mtime_ns"][:], files["blake3"].asstr()[:],
            strict=True,
        )  # fmt: skip
        return cls(
            tuple(ListedFile(Path(path), int(size), int(time), sum_) for path, size, time, sum_ in names),
            frames["file"][:],
            frames["page"][:],
            (int(frames.attrs["height"]), int(frames.attrs["width"])),
            np.dtype(str(frames.attrs["dtype"])),
        )


def read_frame_list(path: Path) -> FrameList:
    """Return the list in a file; the last ones read are kept.

    Raises
    ------
    OSError, KeyError
        There is no such file, or it has no list.
    """
    found = path.stat()
    return _read(path, (found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=16)
def _read(path: Path, _: tuple[int, int]) -> FrameList:
    from processing.callbacks._frame_file import _lock

    with _lock, h5py.File(path, "r", libver="latest", swmr=True) as file:
        return FrameList.of(file)


def is_frame_list(file: h5py.File) -> bool:
    """Return whether an open file names frames instead of having them."""
    return FRAMES in file


def unlisted(path: Path, folders: Sequence[Path]) -> list[Path]:
    """Return the files of a list that are in none of some folders; none for a file that is no list."""
    try:
        files = read_frame_list(path).files
    except (OSError, KeyError):
        return []
    return [one.path for one in files if not any(one.path.resolve().is_relative_to(at) for at in folders)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
