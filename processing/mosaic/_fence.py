"""One process at a time writes to a mosaic."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from devices.errors import ConfigurationError


class Fence:
    """Keeps other processes, and other stores of this one, from writing to a folder; ends with the process.

    Raises
    ------
    ConfigurationError
        It is up already.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigurationError(f"{path} is open for writing elsewhere: close it there first") from error

    def release(self) -> None:
        """Let others write."""
        os.close(self._descriptor)
