"""Counts that a camera server keeps over its restarts: exposures made, files opened."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

_COUNTS: Final = struct.Struct("<QQ")


class CameraCounts:
    """Two numbers in a small memory-mapped file; they survive a killed server.

    They are the camera's own account: how many exposures the sample really got, whatever the software that
    asked for them remembers.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, _COUNTS.size)
            self._memory = mmap.mmap(descriptor, _COUNTS.size)
        finally:
            os.close(descriptor)

    @property
    def exposures(self) -> int:
        """Exposures made since the camera was installed."""
        return int(_COUNTS.unpack_from(self._memory)[0])

    @property
    def files(self) -> int:
        """Files opened since the camera was installed: the newest epoch."""
        return int(_COUNTS.unpack_from(self._memory)[1])

    def add_exposure(self) -> int:
        """Count an exposure and return the new count."""
        count = self.exposures + 1
        _COUNTS.pack_into(self._memory, 0, count, self.files)
        return count

    def add_file(self) -> int:
        """Count a file and return the new count."""
        count = self.files + 1
        _COUNTS.pack_into(self._memory, 0, self.exposures, count)
        return count

    def close(self) -> None:
        """Unmap the file."""
        self._memory.close()
