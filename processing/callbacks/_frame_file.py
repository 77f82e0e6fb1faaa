"""Reading the file of a run while it grows: one handle a process, whoever reads.

HDF5 keeps one shared state of a file and of each dataset in a process. With a dataset open twice, `refresh`
does not renew what HDF5 knows of its chunks, and a read returns another frame's pixels without an error (seen
with h5py 3.16, HDF5 in SWMR mode, two threads: 1,860 wrong frames of 1,970; none through this module). So
every reader of the process goes through one handle, and one dataset is open at a time.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

_lock = threading.Lock()
_open: dict[Path, tuple[h5py.File, int]] = {}


class FrameFileReader:
    """A reader of a run's file; readers of the same file share its handle.

    Raises
    ------
    OSError
        There is no such file, or it is no HDF5.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closed = False
        with _lock:
            file, readers = _open.get(path, (None, 0))
            if file is None:
                file = h5py.File(path, "r", libver="latest", swmr=True)
            _open[path] = file, readers + 1

    def read(self, dataset: str, selection: int | slice) -> npt.NDArray[Any]:
        """Return part of a dataset along its first axis, as it is on disk now.

        Raises
        ------
        OSError, KeyError, ValueError, IndexError
            It cannot be read, does not exist, or has no such part.
        """
        with _lock:
            data = _open[self._path][0][dataset]
            data.refresh()
            return np.asarray(data[selection])

    def close(self) -> None:
        """Let go of the file; the last reader closes it. Closing twice is harmless."""
        with _lock:
            if self._closed:
                return
            self._closed = True
            file, readers = _open[self._path]
            if readers > 1:
                _open[self._path] = file, readers - 1
            else:
                del _open[self._path]
                file.close()
