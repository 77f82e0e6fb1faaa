"""What a camera must be able to do: the Protocol that hardware and simulation implement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

ShutterMode = Literal["PRE_SPECIMEN", "NONE"]
"""PRE_SPECIMEN: the camera opens a blanker above the sample while it exposes, and only then."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of the sensor, in unbinned pixels: offset of its first pixel, and size."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """What does not change while a camera runs.

    ``pixel_size_um`` is the pitch of the sensor's pixels (at the sensor, not at the specimen);
    ``exposure_range_s`` the shortest and the longest exposure; ``shutter_modes`` what the camera can do to
    keep electrons off the sample, the usual one first.
    """

    model: str
    width_px: int
    height_px: int
    bit_depth: int
    pixel_size_um: float
    exposure_range_s: tuple[float, float]
    binnings: tuple[int, ...] = (1, 2, 4, 8)
    shutter_modes: tuple[ShutterMode, ...] = ("NONE",)


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """Settings of the frames to come.

    ``region`` None is the whole sensor, ``shutter_mode`` None the first of the camera's.
    """

    exposure_time_s: float = 0.1
    binning: int = 1
    region: Region | None = None
    shutter_mode: ShutterMode | None = None

    def frame_shape(self, info: CameraInfo) -> tuple[int, int]:
        """Return ``(height, width)`` of a frame in binned pixels."""
        if self.region is None:
            return info.height_px // self.binning, info.width_px // self.binning
        return self.region.height_px // self.binning, self.region.width_px // self.binning


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: ``data`` (y, x) uint16 in counts; ``exposure_start_s`` in Unix time."""

    data: npt.NDArray[np.uint16]
    exposure_start_s: float
    exposure_time_s: float


class CameraDriver(Protocol):
    """A camera. `expose` and `read` come from two threads, so that a readout overlaps the next stage move.

    One exposure may wait for its readout at a time: a sensor cannot expose while it is read out, so `expose`
    first waits until the frame before has been read out of the sensor.
    """

    @property
    def info(self) -> CameraInfo:
        """Fixed properties."""

    def open(self) -> None:
        """Connect to the hardware."""

    def close(self) -> None:
        """Disconnect."""

    def configure(self, settings: CameraSettings) -> None:
        """Apply settings to the frames to come.

        Raises
        ------
        LimitError
            Exposure, binning, region or shutter mode outside what the camera can do; nothing is changed.
        """

    def temperature_degc(self) -> float:
        """Return the sensor's temperature in deg C."""

    def expose(self) -> None:
        """Make one exposure and return at its end, before it is read out.

        Raises
        ------
        OperationTimeout
            The camera did not end the exposure in time.
        Aborted
            `abort` or `end_exposure` ended it.
        InstrumentFault
            The camera failed.
        """

    def read(self, timeout_s: float) -> Frame:
        """Return the oldest exposed frame once it is read out, waiting at most ``timeout_s`` for it.

        Raises
        ------
        OperationTimeout
            No frame came.
        Aborted
            `abort` dropped it.
        """

    def end_exposure(self) -> None:
        """End the exposure that runs, or waits to begin; frames exposed before stay to be read."""

    def abort(self) -> None:
        """End the exposure that runs and drop the frames that wait; `expose` works again at once."""
