"""Series of frames timed by the camera: one after the other, in a thread of their own."""

from __future__ import annotations

import queue
from collections.abc import Callable

from devices.errors import Aborted


class Series:
    """Runs series; the newest ends the one before.

    Parameters
    ----------
    expose
        Makes one exposure and returns its index in the file.
    wait_written
        Waits until so many frames of the file are flushed.
    on_done, on_failed
        Called with the id of a series that has ended, and why where it failed.
    """

    def __init__(
        self,
        expose: Callable[[], int],
        wait_written: Callable[[int], object],
        on_done: Callable[[int], None],
        on_failed: Callable[[int, Exception], None],
    ) -> None:
        self.running = 0
        """Id of the series that runs or ran last; 0: it was ended."""
        self._expose, self._wait_written = expose, wait_written
        self._on_done, self._on_failed = on_done, on_failed
        self._queue: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()

    def start(self, series: int, frames: int) -> None:
        """Begin a series of so many frames."""
        self.running = series
        self._queue.put((series, frames))

    def end(self) -> None:
        """End the series that runs before its next exposure."""
        self.running = 0

    def stop(self) -> None:
        """End the thread."""
        self._queue.put(None)

    def run(self) -> None:
        """Body of the thread; ends with `stop`."""
        while (item := self._queue.get()) is not None:
            series, frames = item
            try:
                last = -1
                for _ in range(frames):
                    if self.running != series:
                        raise Aborted("the series was ended by Abort or by another Arm")
                    last = self._expose()
                self._wait_written(last + 1)
            except Exception as error:  # noqa: BLE001  # the thread's edge
                self._on_failed(series, error)
            else:
                self._on_done(series)
