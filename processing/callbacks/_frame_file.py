"""Reading the file of a run while it grows: opened anew for each read, one read at a time in a process.

HDF5 keeps one state of a file and of each dataset in a process. With a file held open while it grows,
`refresh` does not always renew what HDF5 knows of its chunks: a read then returns another frame's pixels,
without an error (h5py 3.16, SWMR mode: 1,860 wrong frames of 1,970 with two handles in two threads, about 1
of 70 with one handle). A file opened anew has nothing stale; that costs 1 ms or so, and only frames that the
ring has no more are read here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from devices.tiles import IMAGE_DATASET

_lock = threading.Lock()


def read_parts(path: Path, datasets: Sequence[str], selection: int | slice) -> list[npt.NDArray[Any]]:
    """Return the same part of some datasets along their first axis, as it is on disk now.

    Frames that the file only names (`processing.frame_list`) are read where they are.

    Raises
    ------
    OSError, KeyError, ValueError, IndexError
        The file cannot be read, has no such dataset, or no such part.
    FrameError
        A file that it names cannot be read.
    """
    with _lock, h5py.File(path, "r", libver="latest", swmr=True) as file:
        if IMAGE_DATASET not in datasets or IMAGE_DATASET in file:
            return [np.asarray(file[dataset][selection]) for dataset in datasets]
    from processing.frame_list import read_frame_list

    frames = read_frame_list(path).read(selection)
    others = [dataset for dataset in datasets if dataset != IMAGE_DATASET]
    numbers = dict(zip(others, read_parts(path, others, selection), strict=True)) if others else {}
    return [numbers.get(dataset, frames) for dataset in datasets]
