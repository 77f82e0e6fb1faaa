"""What really was at an exposure: the record that the camera appends beside the world."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from sim.config import ColumnConfig
from sim.faults import FAULT_NAMES

_TRUTH = struct.Struct("<Qd8d5diI?7x")


@dataclass(frozen=True, slots=True)
class TrueExposure:
    """What really was at one exposure.

    ``index`` counts the exposures of the world from 0; ``time_s`` is its start in Unix time; ``x_um`` and
    ``y_um`` the specimen point at the middle of the image (stage, image shift and beam tilt with all their
    errors), ``z_um`` the height of the stage; ``defocus_um`` that of the objective (underfocus negative);
    ``drift_x_um`` and ``drift_y_um`` how far the specimen ran during the exposure; ``pixel_size_nm`` and
    ``dose_e_nm2`` those of the middle of the beam; ``beam_on`` whether electrons reached the camera.
    ``astigmatism_um`` has the components along 0 and 45 deg; the beam lay at ``beam_x_um``, ``beam_y_um``
    (stage) with ``beam_radius_um``; ``slot`` is that of the sample (0: none, -1: the world has no loader).
    """

    SIZE: ClassVar[int] = _TRUTH.size

    index: int
    time_s: float
    x_um: float
    y_um: float
    z_um: float
    defocus_um: float
    drift_x_um: float
    drift_y_um: float
    pixel_size_nm: float
    dose_e_nm2: float
    faults: tuple[str, ...]
    beam_on: bool
    astigmatism_um: tuple[float, float] = (0.0, 0.0)
    beam_x_um: float = 0.0
    beam_y_um: float = 0.0
    beam_radius_um: float = 0.0
    slot: int = -1

    def pack(self) -> bytes:
        """Return the record as bytes of fixed length."""
        bits = 0
        for name in self.faults:
            bits |= 1 << FAULT_NAMES.index(name)
        return _TRUTH.pack(
            self.index,
            self.time_s,
            self.x_um,
            self.y_um,
            self.z_um,
            self.defocus_um,
            self.drift_x_um,
            self.drift_y_um,
            self.pixel_size_nm,
            self.dose_e_nm2,
            *self.astigmatism_um,
            self.beam_x_um,
            self.beam_y_um,
            self.beam_radius_um,
            self.slot,
            bits,
            self.beam_on,
        )

    @classmethod
    def unpack(cls, record: bytes) -> TrueExposure:
        """Return the record that `pack` made."""
        v = _TRUTH.unpack(record)
        names = tuple(name for bit, name in enumerate(FAULT_NAMES) if v[16] >> bit & 1)
        return cls(*v[:10], names, v[17], v[10:12], *v[12:16])  # type: ignore[call-arg]


def dose_at(
    exposures: Iterable[TrueExposure], column: ColumnConfig, x_um: float, y_um: float, slot: int = -1
) -> float:
    """Return the dose, e/nm^2, that exposures gave a point (um, stage) of the sample of a slot.

    What reached it between exposures (`sim.beam_log`) is not in it, and a sample must have lain still.
    """
    total = 0.0
    for exposure in exposures:
        if exposure.beam_on and exposure.slot == slot and exposure.beam_radius_um > 0.0:
            far = math.hypot(x_um - exposure.beam_x_um, y_um - exposure.beam_y_um) / exposure.beam_radius_um
            rim = min(4.0 * (far - 1.0) / column.beam_edge, 60.0)
            profile = (1.0 - column.beam_falloff * min(far * far, 1.0)) / (1.0 + math.exp(rim))
            total += exposure.dose_e_nm2 * profile
    return total
