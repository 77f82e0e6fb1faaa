"""A thread that writes a canvas now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from devices.errors import MontangoError

_log = logging.getLogger(__name__)


class Flusher:
    """Calls ``write`` after so many changes, or so many seconds after one; None: never for that reason."""

    def __init__(self, write: Callable[[], None], *, tiles: int | None, seconds: float | None) -> None:
        self._write, self._tiles, self._seconds = write, tiles, seconds
        self._condition = threading.Condition()
        self._changes = 0
        self._stopped = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def changed(self) -> None:
        """Count a change."""
        if self._tiles is None and self._seconds is None:
            return
        with self._condition:
            self._changes += 1
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="mosaic-flush", daemon=True)
                self._thread.start()
            self._condition.notify()

    def check(self) -> None:
        """Raise if the last write failed.

        Raises
        ------
        MontangoError
            It did; the next one tries again.
        """
        with self._condition:
            error, self._error = self._error, None
        if error is not None:
            raise MontangoError(f"the mosaic could not be written: {error}") from error

    def stop(self) -> None:
        """End the thread; what has changed since is not written."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._changes > 0 or self._stopped)
                self._condition.wait_for(self._enough, self._seconds)
                if self._stopped:
                    return
                self._changes = 0
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - given to the thread that adds tiles
                _log.warning("the mosaic could not be written: %s", error)
                with self._condition:
                    self._error = error

    def _enough(self) -> bool:
        return self._stopped or (self._tiles is not None and self._changes >= self._tiles)
