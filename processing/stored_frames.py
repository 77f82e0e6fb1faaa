"""Which frames a file really holds: after a killed camera server, a full disk or a power cut.

A frame counts when its pixels lie within the file and its numbers were written. Pixels are written before
the index that names them, and numbers last; a file that was cut off anywhere behind its last flush has every
frame that was flushed, and at most some that are not whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from devices.tiles import IMAGE_DATASET, TILE_GROUP
from processing.callbacks import _frame_file
from processing.frame_list import FrameList, is_frame_list

_log = logging.getLogger(__name__)

NUMBERS: Final = ("raster_index", "row", "column", "attempt", "x_um", "y_um", "exposure_count")
"""Columns without which a frame is of no use."""
ROI: Final = "roi"


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One frame of a file: ``index`` there, and whether pixels and numbers are there.

    ``roi``, ``row``, ``column`` and ``attempt`` are -1 where the numbers are not.
    """

    index: int
    readable: bool
    roi: int
    row: int
    column: int
    attempt: int
    exposure_count: int


def stored_frames(path: Path) -> list[StoredFrame]:
    """Return the frames of a file in order; empty where the file cannot be opened at all.

    The file may be growing; nothing of the pixels is read.
    """
    try:
        with _frame_file._lock, h5py.File(path, "r", libver="latest", swmr=True) as file:
            if is_frame_list(file):
                return _listed_frames(file)
            data = file[IMAGE_DATASET]
            columns = {name: _column(file, name, len(data)) for name in (*NUMBERS, ROI)}
            size, ends = path.stat().st_size, _ends(data)
            return [
                _frame(
                    index,
                    _pixels_are_there(data, index, size) if ends is None else 0 < ends.get(index, 0) <= size,
                    columns,
                )
                for index in range(len(data))
            ]
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        _log.warning("%s holds no frame that can be read: %s", path, error)
        return []


def _listed_frames(file: Any) -> list[StoredFrame]:
    """Return the frames that a file names: they count when the files that have them are there."""
    there = FrameList.of(file).there()
    columns = {name: _column(file, name, len(there)) for name in (*NUMBERS, ROI)}
    # what came from another program's files never had these
    columns |= {name: np.zeros(len(there)) for name in ("x_um", "y_um", "exposure_count")}
    return [_frame(index, whole, columns) for index, whole in enumerate(there)]


def _column(file: Any, name: str, length: int) -> npt.NDArray[np.float64]:
    """Return a column, NaN where it cannot be read; a file from before regions of interest has one region."""
    try:
        values = np.asarray(file[f"{TILE_GROUP}/{name}"][:length], np.float64)
    except KeyError:
        return np.zeros(length) if name == ROI else np.full(length, np.nan)
    except (OSError, ValueError, RuntimeError):
        values = _readable_part(file[f"{TILE_GROUP}/{name}"], length)
    return np.pad(values, (0, length - len(values)), constant_values=np.nan)


def _readable_part(dataset: Any, length: int) -> npt.NDArray[np.float64]:
    """Return a column chunk by chunk, NaN for those that are cut off."""
    values = np.full(length, np.nan)
    step = dataset.chunks[0]
    for first in range(0, min(length, len(dataset)), step):
        try:
            part = dataset[first : first + step]
        except (OSError, ValueError, RuntimeError):
            continue
        values[first : first + len(part)] = part[: length - first]
    return values


def _ends(data: Any) -> dict[int, int] | None:
    """Return where the pixels of each frame end in the file, or None where not all can be told at once.

    To ask for one frame after the other takes HDF5 a time that grows with the square of their number.
    """
    found: dict[int, int] = {}

    def see(chunk: Any) -> None:
        if chunk.size and chunk.byte_offset is not None:
            found[chunk.chunk_offset[0]] = chunk.byte_offset + chunk.size

    try:
        data.id.chunk_iter(see)
    except (OSError, ValueError, RuntimeError):
        return None
    return found


def _pixels_are_there(data: Any, index: int, file_size: int) -> bool:
    try:
        chunk = data.id.get_chunk_info_by_coord((index, 0, 0))
    except (OSError, ValueError, RuntimeError):
        return False
    if chunk.byte_offset is None:
        return False
    return bool(chunk.size and chunk.byte_offset + chunk.size <= file_size)


def _frame(index: int, pixels: bool, columns: Mapping[str, npt.NDArray[np.float64]]) -> StoredFrame:
    values = {name: float(column[index]) for name, column in columns.items()}
    whole = {name: -1 if np.isnan(value) else round(value) for name, value in values.items()}
    readable = pixels and not any(np.isnan(values[name]) for name in (*NUMBERS, ROI))
    return StoredFrame(
        index,
        readable,
        whole[ROI],
        whole["row"],
        whole["column"],
        whole["attempt"],
        whole["exposure_count"],
    )
