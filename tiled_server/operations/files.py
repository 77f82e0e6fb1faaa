"""Files that a catalog points to: whether they are there, whole, and as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

import h5py

from devices.tiles import IMAGE_DATASET, TILE_GROUP
from processing.frame_list import MIMETYPE as LIST
from processing.frame_list import read_frame_list
from processing.stored_frames import NUMBERS, stored_frames
from tiled_server.mimetypes import HDF5, ZARR
from tiled_server.operations.contents import Part, folder_of
from tiled_server.operations.file_records import FileRecords, FileState, difference, state_of
from tiled_server.operations.findings import Report

_FEW: Final = 5
_NUMBERS: Final = {f"{TILE_GROUP}/{name}" for name in NUMBERS}
_ERRORS: Final = (OSError, ValueError, RuntimeError, KeyError)


@dataclass(slots=True)
class FileUse:
    """What the catalog says of a file.

    Attributes
    ----------
    runs
        Uids of the runs that point to it.
    mimetype
        What it is.
    lengths
        Of an HDF5 file, the lengths of its datasets along their first axis.
    swmr
        Whether it was written so that it could be read meanwhile.
    is_list
        Whether it is a list of frames in files of other programs.
    """

    runs: list[str] = field(default_factory=list)
    mimetype: str = ""
    lengths: dict[str, int] = field(default_factory=dict)
    swmr: bool = False
    is_list: bool = False


def add_use(uses: dict[Path, FileUse], run: str, part: Part) -> None:
    """Take the files of a part of a run."""
    single = len(part.files) == 1
    for number, uri in enumerate(part.files):
        path = folder_of(uri)
        if path is None:
            continue
        use = uses.setdefault(path, FileUse(mimetype=part.mimetype))
        if not use.runs or use.runs[-1] != run:
            use.runs.append(run)
        use.is_list = use.is_list or (part.mimetype == LIST and not number)
        if part.mimetype == HDF5:
            name = part.parameters.get("dataset", "/")
            name = name if isinstance(name, str) else "/".join(name)
            cut = part.parameters.get("slice") or part.parameters.get("squeeze")
            length = part.length if single and not cut and part.length is not None else 0
            use.lengths[name] = max(use.lengths.get(name, 0), length)
            use.swmr = use.swmr or bool(part.parameters.get("swmr"))


class Files:
    """Looks at files, one after the other.

    Parameters
    ----------
    report
        Gets what is found.
    records
        What was taken down of files.
    readable
        Folders that the server may read; empty: not checked.
    deep
        Read every pixel, and compare or take down checksums.
    record
        Take down files that were not.
    accept
        Take down anew files that changed.
    """

    def __init__(
        self,
        report: Report,
        records: FileRecords,
        readable: Sequence[Path] = (),
        *,
        deep: bool = False,
        record: bool = False,
        accept: bool = False,
    ) -> None:
        self._report, self._records = report, records
        self._readable = [folder.resolve() for folder in readable]
        self._deep, self._record, self._accept = deep, record, accept

    def look(self, path: Path, use: FileUse) -> None:
        """Look at one."""
        self._report.files += 1
        run = use.runs[0]
        if not path.exists():
            also = f", and {len(use.runs) - 1} other runs" if len(use.runs) > 1 else ""
            self._report.add("file missing", run, str(path), f"the file is not there{also}")
            return
        resolved = path.resolve()
        if self._readable and not any(resolved.is_relative_to(folder) for folder in self._readable):
            self._report.add("file outside", run, str(path), "in no folder that the server may read")
        try:
            if use.mimetype == HDF5:
                self._look_hdf5(path, use)
            elif use.mimetype == ZARR:
                self._look_zarr(path, run)
            elif use.is_list:
                self._look_list(path, run)
            elif path.is_file():
                with path.open("rb") as file:
                    file.read(1)
            self._compare(path, run)
        except _ERRORS as error:
            self._report.add("file unreadable", run, str(path), _words(error))

    def _compare(self, path: Path, run: str) -> None:
        known = self._records.get(path)
        now = state_of(path, deep=self._deep)
        if self._deep:
            self._report.bytes_read += now.bytes
        told = "" if known is None else difference(known, now)
        if told and not self._accept:
            self._report.add("file changed", run, str(path), told)
            return
        # a checksum that was made now completes what was taken down without
        more = known is not None and (told or (now.blake3 and not known.blake3))
        if (known is None and self._record) or (more and (self._accept or self._record)):
            self._records.put(path, now)
            self._report.recorded += 1

    def _look_hdf5(self, path: Path, use: FileUse) -> None:
        run = use.runs[0]
        with h5py.File(path, "r", libver="latest", swmr=use.swmr) as file:
            for name, length in sorted(use.lengths.items()):
                try:
                    data = file[name]
                    stored = data.shape[0] if data.shape else 1
                except (KeyError, AttributeError, *_ERRORS) as error:
                    self._report.add("file unreadable", run, f"{path} {name}", _words(error))
                    continue
                self._compare_lengths(run, path, name, length, stored)
                if self._deep:
                    self._read_all(run, f"{path} {name}", data, data.chunks)
        if use.lengths.keys() >= _NUMBERS:
            frames = stored_frames(path)
            bad = [one.index for one in frames[: use.lengths.get(IMAGE_DATASET)] if not one.readable]
            if bad:
                few = ", ".join(map(str, bad[:_FEW])) + (", ..." if len(bad) > _FEW else "")
                self._report.add("file unreadable", run, str(path), f"{len(bad)} frames are not whole: {few}")

    def _compare_lengths(self, run: str, path: Path, name: str, length: int, stored: int) -> None:
        subject = f"{path} {name}"
        if stored < length:
            self._report.add("file short", run, subject, f"{stored} in the file, {length} in the catalog")
        elif name == IMAGE_DATASET and length and stored > length:
            self._report.add("file long", run, subject, f"{stored} in the file, {length} in the catalog")

    def _look_list(self, path: Path, run: str) -> None:
        """Compare the files that a list names with what it has of them."""
        for one in read_frame_list(path).files:
            if not one.path.exists():
                continue  # told as a file of its own
            known = FileState(one.size, one.mtime_ns, one.blake3)
            if told := difference(known, state_of(one.path, deep=self._deep)):
                self._report.add("file changed", run, str(one.path), f"{told} (at its ingest)")

    def _look_zarr(self, path: Path, run: str) -> None:
        import zarr

        data = zarr.open_array(str(path), mode="r")
        if self._deep:
            self._read_all(run, str(path), data, data.chunks)

    def _read_all(self, run: str, subject: str, data: Any, chunks: Sequence[int] | None) -> None:
        """Read chunk by chunk; what cannot be read is told once."""
        bad, first = 0, ""
        for part in _parts(data.shape, chunks or data.shape):
            try:
                data[part]
            except _ERRORS as error:
                bad += 1
                where = ", ".join(str(one.start) for one in part)
                first = first or f"the first at {where}: {_words(error)}"
        if bad:
            self._report.add("file unreadable", run, subject, f"{bad} chunks cannot be read, {first}")


def _parts(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    ranges = [range(0, length, max(1, step)) for length, step in zip(shape, chunks, strict=True)]
    for corner in product(*ranges):
        yield tuple(slice(one, one + max(1, step)) for one, step in zip(corner, chunks, strict=True))


def _words(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
