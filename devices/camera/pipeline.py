"""From the end of an exposure to a frame on disk: readout, ring, file, each in a thread of its own.

A frame counts as written when it is flushed. Frames that wait are written in one batch, so a slow disk costs
fewer flushes, not more; when `depth` frames wait, the next exposure waits too. A frame that nobody waits for
is kept back a moment for the next: fast frames share a flush, which costs as much for one as for several.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraDriver
from devices.camera.writer import FrameFile
from devices.errors import Aborted, InstrumentFault, MontangoError, OperationTimeout
from devices.frames import FrameRing

LINGER_S = 0.004
"""How long a frame that nobody waits for may be kept back, to be flushed with the next ones."""


class Exposure(NamedTuple):
    """An exposure that has ended and waits for its readout."""

    frame: int
    generation: int
    ended: float
    values: Mapping[str, float]


class FramePipeline:
    """Frames of one camera on their way to the ring and the file.

    ``on_written(count)`` is called after each flush, ``on_frame(data)`` for each frame read out,
    ``on_error(error)`` once for a failure; after that every call raises the error until `open_file` or
    `clear`. Frames exposed before the one that failed are written all the same; a frame that is not read out
    ends the exposure that waits behind it.
    """

    def __init__(
        self,
        driver: CameraDriver,
        *,
        depth: int,
        readout_timeout_s: float,
        on_written: Callable[[int], None],
        on_frame: Callable[[npt.NDArray[np.uint16]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._driver = driver
        self._timeout_s = readout_timeout_s
        self._on_written, self._on_frame, self._on_error = on_written, on_frame, on_error
        self._exposed: queue.SimpleQueue[Exposure | None] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[tuple[Exposure, npt.NDArray[np.uint16], dict[str, float]] | None] = (
            queue.SimpleQueue()
        )
        self._depth = depth
        self._batch = max(1, depth // 2)  # while these are flushed, as many can be exposed
        self._wanted = 0
        self._changed = threading.Condition()
        self._in_flight = 0
        self._generation = 0
        self._reading = False
        self._next_index = 0
        self._written = 0
        self._error: Exception | None = None
        self._failed_at: float = math.inf
        self._ending = False
        self._given_up = 0
        self._file: FrameFile | None = None
        self._ring: FrameRing | None = None
        self._epoch = 0

    @property
    def written(self) -> int:
        """Frames of the open (or last) file that are flushed."""
        return self._written

    @property
    def in_flight(self) -> int:
        """Frames exposed and not yet written."""
        return self._in_flight

    @property
    def given_up(self) -> int:
        """Exposures of the open (or last) file whose frames never reached it."""
        return self._given_up

    @property
    def is_open(self) -> bool:
        """Whether a file is open."""
        return self._file is not None

    def open_file(self, file: FrameFile, ring: FrameRing, epoch: int) -> None:
        """Send the frames to come to a file and a ring."""
        self.clear()
        with self._changed:
            self._file, self._ring, self._epoch = file, ring, epoch
            self._next_index = self._written = self._given_up = 0

    def close_file(self, timeout_s: float) -> int:
        """Wait for the frames on their way, close the file and return how many it holds."""
        failure: MontangoError | None = None
        try:
            self.wait_written(self._next_index, timeout_s)
        except MontangoError as error:
            failure = error
        with self._changed:
            file, self._file = self._file, None
            self._generation += 1
        if file is not None:
            file.close()
        if failure is not None and not isinstance(failure, Aborted):
            raise failure
        return self._written

    def reserve(self) -> None:
        """Wait until another frame may be exposed.

        Raises
        ------
        OperationTimeout
            The frames before are not written in time: the disk is too slow or stuck.
        Aborted
            `end` was called.
        MontangoError
            The failure of a frame before.
        """
        with self._changed:
            if self._file is None:
                raise InstrumentFault("no file is open for frames (the camera server may have restarted)")
            if not self._changed.wait_for(
                lambda: self._error or self._ending or self._in_flight < self._depth, self._timeout_s
            ):
                raise OperationTimeout(
                    f"{self._in_flight} frames wait to be written and none was in {self._timeout_s:g} s; "
                    f"check the disk of the data directory"
                )
            self._raise_error()
            if self._ending:
                raise Aborted("exposures were ended; Abort, or another file, lets the camera expose again")
            self._in_flight += 1

    def wait_idle(self, timeout_s: float) -> None:
        """Wait until no frame is on its way, so that somebody else may read one from the driver.

        Raises
        ------
        OperationTimeout
            Frames are still on their way after ``timeout_s``.
        MontangoError
            A frame of the open file failed.
        """
        with self._changed:

            def idle() -> bool:
                # what a file that is closed has left behind counts no more
                done = self._file is None or self._error is not None or self._in_flight == 0
                return done and not self._reading

            self._wanted = max(self._wanted, self._next_index)
            if not self._changed.wait_for(idle, timeout_s):
                raise OperationTimeout(f"{self._in_flight} frames still on their way after {timeout_s:g} s")
            if self._file is not None:
                self._raise_error()

    def release(self) -> None:
        """Give back what `reserve` took, when the exposure failed."""
        with self._changed:
            self._in_flight = max(0, self._in_flight - 1)
            self._changed.notify_all()

    def exposed(self, values: Mapping[str, float]) -> int:
        """Hand over an exposure that has just ended and return its index in the file."""
        with self._changed:
            index = self._next_index
            self._next_index += 1
            self._exposed.put(Exposure(index, self._generation, time.perf_counter(), values))
            return index

    def wait_written(self, count: int, timeout_s: float) -> int:
        """Wait until ``count`` frames are flushed.

        Raises
        ------
        OperationTimeout
            They are not after ``timeout_s``.
        MontangoError
            A frame failed.
        """
        with self._changed:
            if not self._wait_for_frames(count, timeout_s):
                raise OperationTimeout(f"{self._written} of {count} frames written after {timeout_s:g} s")
            self._raise_error()
            return self._written

    def _wait_for_frames(self, count: int, timeout_s: float) -> bool:
        """Wait, with the lock held, until so many frames are flushed, or all before the one that failed."""
        self._wanted = max(self._wanted, count)
        return self._changed.wait_for(lambda: self._written >= min(count, self._failed_at), timeout_s)

    def end(self) -> None:
        """Refuse exposures until `clear` or `open_file`; one that waits to begin ends with Aborted."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> int:
        """Wait until every frame that can still come is flushed; return how many are missing then."""
        with self._changed:
            if self._file is None:
                return 0
            self._wait_for_frames(self._next_index, timeout_s)
            return self._next_index - self._written

    def clear(self) -> None:
        """Forget a failure and `end`, and give up the frames that are not written."""
        with self._changed:
            self._generation += 1
            self._in_flight = 0
            self._given_up += self._next_index - self._written
            self._next_index, self._wanted = self._written, 0
            self._error, self._failed_at, self._ending = None, math.inf, False
            self._changed.notify_all()

    def read_frames(self) -> None:
        """Body of the readout thread; ends with `stop`."""
        while (exposure := self._exposed.get()) is not None:
            with self._changed:
                if exposure.generation != self._generation:
                    continue
                self._reading = True
            try:
                frame = self._driver.read(self._timeout_s)
                self._read_out()
                readout_s = time.perf_counter() - exposure.ended
                if exposure.generation != self._generation or self._ring is None:
                    continue
                self._ring.put(frame.data, self._epoch, exposure.frame)
            except Exception as error:  # noqa: BLE001  # the thread's edge: a driver's bug must not hang the run
                self._read_out()
                self._fail(exposure, error, unread=True)
                continue
            values = dict(exposure.values)
            values["exposure_start_s"] = frame.exposure_start_s
            values["exposure_time_s"] = frame.exposure_time_s
            values["readout_time_s"] = readout_s
            self._read.put((exposure, frame.data, values))
            self._on_frame(frame.data)

    def _read_out(self) -> None:
        with self._changed:
            self._reading = False
            self._changed.notify_all()

    def write_frames(self) -> None:
        """Body of the writing thread; ends with `stop`."""
        while (item := self._read.get()) is not None:
            batch = [item]
            deadline = time.monotonic() + LINGER_S
            while len(batch) < self._batch and batch[-1][0].frame >= self._wanted:
                try:
                    more = self._read.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    self._read.put(None)
                    break
                batch.append(more)
            self._write([entry for entry in batch if entry[0].generation == self._generation])

    def _write(self, batch: list[tuple[Exposure, npt.NDArray[np.uint16], dict[str, float]]]) -> None:
        file = self._file
        batch = [entry for entry in batch if entry[0].frame < self._failed_at]
        if not batch or file is None:
            return
        generation = batch[0][0].generation
        try:
            written = file.append([(data, values) for _, data, values in batch])
        except Exception as error:  # noqa: BLE001  # the thread's edge
            self._fail(batch[0][0], error)
            return
        with self._changed:
            self._written = written
            if generation != self._generation:
                late = max(0, written - self._next_index)  # it came after all
                self._given_up -= late
                self._next_index += late
                return
            self._in_flight = max(0, self._in_flight - len(batch))
            self._changed.notify_all()
        self._on_written(written)

    def stop(self) -> None:
        """End both threads."""
        self._exposed.put(None)
        self._read.put(None)

    def _fail(self, exposure: Exposure, error: Exception, *, unread: bool = False) -> None:
        with self._changed:
            if exposure.generation != self._generation:
                return
            self._failed_at = min(self._failed_at, exposure.frame)
            first = self._error is None
            self._error = self._error or error
            self._changed.notify_all()
        if unread:
            self._driver.abort()  # an exposure that waits behind it would have no frame of its own
        if first:
            self._on_error(error)

    def raise_failure(self) -> None:
        """Raise the failure of a frame, where there was one."""
        with self._changed:
            self._raise_error()

    def _raise_error(self) -> None:
        if isinstance(self._error, MontangoError):
            raise self._error
        if self._error is not None:
            raise InstrumentFault(f"{type(self._error).__name__}: {self._error}")
