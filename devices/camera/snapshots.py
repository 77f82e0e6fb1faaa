"""The server's side of snaps: one frame past the pipeline, into a ring of its own shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from devices.camera.counts import CameraCounts
from devices.camera.driver import CameraDriver, CameraSettings, Frame
from devices.camera.snap import SNAP_SLOTS, SnapResult, ring_path
from devices.frames import FrameRing

RINGS_KEPT: Final = 4
"""Shapes of frames whose rings are kept; making a ring touches all its pages, which takes time."""


class Snapshots:
    """Takes snaps with a camera's driver; who calls sees to it that nobody else exposes or reads.

    Parameters
    ----------
    driver, counts
        The camera, and its own count of exposures.
    prefix
        Path that the rings begin with; see `devices.camera.snap.ring_path`.
    epoch
        A number that no other life of this server has.
    on_frame
        Called with the pixels of every snap, ``(y, x)`` uint16.
    """

    def __init__(
        self,
        driver: CameraDriver,
        counts: CameraCounts,
        prefix: str,
        epoch: int,
        on_frame: Callable[[npt.NDArray[np.uint16]], None],
    ) -> None:
        self.prefix = prefix
        self._driver, self._counts, self._on_frame = driver, counts, on_frame
        self._epoch = epoch
        self._rings: dict[tuple[int, int], FrameRing] = {}
        self._taken = 0

    def take(self, settings: CameraSettings, after: CameraSettings, timeout_s: float) -> SnapResult:
        """Expose and read one frame with ``settings``; the camera has the settings ``after`` in any case.

        Raises
        ------
        LimitError
            The settings are not possible; nothing is exposed.
        MontangoError
            The camera failed or was aborted.
        """
        self._driver.configure(settings)
        try:
            frame, count = self._expose(timeout_s)
        finally:
            self._driver.configure(after)
        height_px, width_px = frame.data.shape
        self._ring((height_px, width_px)).put(frame.data, self._epoch, self._taken)
        self._taken += 1
        self._on_frame(frame.data)
        return SnapResult(
            frame.exposure_time_s,
            frame.exposure_start_s,
            settings.binning,
            count,
            height_px,
            width_px,
            self._epoch,
            self._taken - 1,
        )

    def _expose(self, timeout_s: float) -> tuple[Frame, int]:
        try:
            self._driver.expose()
            count = self._counts.add_exposure()
            return self._driver.read(timeout_s), count
        except BaseException:
            self._driver.abort()  # a frame that comes late must not become the next tile
            raise

    def _ring(self, shape: tuple[int, int]) -> FrameRing:
        ring = self._rings.pop(shape, None)
        if ring is None:
            while len(self._rings) >= RINGS_KEPT:
                self._rings.pop(next(iter(self._rings))).unlink()
            ring = FrameRing.create(ring_path(self.prefix, shape), SNAP_SLOTS, shape)
        self._rings[shape] = ring  # the newest last
        return ring

    def close(self) -> None:
        """Remove the rings."""
        for ring in self._rings.values():
            ring.unlink()
        self._rings.clear()
