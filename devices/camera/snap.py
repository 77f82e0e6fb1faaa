"""A single frame beside the record: what `Snap` takes and gives, and where its pixels are.

Snaps are for focus, drift, alignment: they never touch the file of a montage. The camera counts them in
``exposure_count``. Their pixels are in rings of their own, one for each shape of frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from devices.camera.driver import Region
from devices.errors import LimitError
from devices.frames import FrameRingReader

SNAP_SLOTS = 2
"""Snaps of one shape that a ring keeps: the newest two."""


@dataclass(frozen=True)
class Snap:
    """One frame: ``data`` (y, x) uint16 in counts; ``exposure_start_s`` in Unix time.

    ``exposure_count`` is the camera's own count of exposures, this one included.
    """

    data: npt.NDArray[np.uint16]
    exposure_time_s: float
    exposure_start_s: float
    binning: int
    exposure_count: int


class SnapRequest(NamedTuple):
    """The numbers of the command `Snap`; a width of 0 is the whole sensor."""

    exposure_time_s: float
    binning: int = 1
    x_px: int = 0
    y_px: int = 0
    width_px: int = 0
    height_px: int = 0

    @classmethod
    def unpack(cls, numbers: Any) -> SnapRequest:
        """Return a request from the numbers that Tango carried.

        Raises
        ------
        LimitError
            Too few or too many.
        """
        if not 1 <= len(numbers) <= len(cls._fields):
            raise LimitError(
                f"Snap takes 1 to {len(cls._fields)} numbers ({', '.join(cls._fields)}), not {len(numbers)}"
            )
        return cls(float(numbers[0]), *(int(number) for number in numbers[1:]))

    @property
    def region(self) -> Region | None:
        """The region of the sensor in unbinned pixels; None is all of it."""
        return Region(*self[2:]) if self.width_px else None


class SnapResult(NamedTuple):
    """The numbers that `Snap` returns; ``number`` counts the snaps of this server, from 0."""

    exposure_time_s: float
    exposure_start_s: float
    binning: int
    exposure_count: int
    height_px: int
    width_px: int
    epoch: int
    number: int


def ring_path(prefix: str, shape: tuple[int, int]) -> Path:
    """Return the ring of the snaps of a shape; ``prefix`` is the camera's attribute ``snap_rings``."""
    return Path(f"{prefix}-{shape[1]}x{shape[0]}.ring")


def read_snap(prefix: str, numbers: Any) -> Snap:
    """Return the snap that a camera server has just made, from its numbers and its ring.

    Raises
    ------
    FrameMissed
        Other snaps have taken its place.
    """
    time_s, start_s, *whole = (float(number) for number in numbers)
    result = SnapResult(time_s, start_s, *map(int, whole))
    reader = FrameRingReader(ring_path(prefix, (result.height_px, result.width_px)))
    data = reader.get(result.epoch, result.number)
    return Snap(cast("npt.NDArray[np.uint16]", data), time_s, start_s, result.binning, result.exposure_count)
