"""What a stage must be able to do: the Protocol that hardware and simulation implement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from typing import Protocol

from devices.errors import LimitError, check_limit


class StageState(StrEnum):
    """States of a goniometer, in the words of temscript and SerialEM."""

    READY = "READY"
    DISABLED = "DISABLED"
    NOT_READY = "NOT_READY"
    GOING = "GOING"
    MOVING = "MOVING"
    WOBBLING = "WOBBLING"


@dataclass(frozen=True, slots=True)
class StagePosition:
    """A position of the stage: x, y, z in um, alpha and beta in deg."""

    x_um: float
    y_um: float
    z_um: float = 0.0
    alpha_deg: float = 0.0
    beta_deg: float = 0.0


AXES: tuple[str, ...] = tuple(field.name for field in fields(StagePosition))


def axis_unit(axis: str) -> str:
    """Return the unit an axis name ends in: ``um`` or ``deg``."""
    return axis.rsplit("_", 1)[1]


@dataclass(frozen=True, slots=True)
class StageLimits:
    """Lower and upper soft limit of each axis; the defaults are those of a Thermo Fisher goniometer."""

    x_um: tuple[float, float] = (-990.0, 990.0)
    y_um: tuple[float, float] = (-990.0, 990.0)
    z_um: tuple[float, float] = (-375.0, 375.0)
    alpha_deg: tuple[float, float] = (-80.0, 80.0)
    beta_deg: tuple[float, float] = (-29.7, 29.7)

    def check(self, target: Mapping[str, float]) -> None:
        """Refuse a target with an unknown axis or a coordinate outside its limits.

        Raises
        ------
        LimitError
            Naming the axis, the value and the limits.
        """
        for axis, value in target.items():
            if axis not in AXES:
                raise LimitError(f"stage has no axis {axis!r}; its axes are {', '.join(AXES)}")
            low, high = getattr(self, axis)
            check_limit(f"stage {axis}", value, low, high, axis_unit(axis))

    def as_tuple(self) -> tuple[tuple[float, float], ...]:
        """Return the limits in the order of `AXES`."""
        return astuple(self)


class StageDriver(Protocol):
    """A stage. Calls come from one thread at a time, except `position`, `state` and `stop` (any thread)."""

    @property
    def limits(self) -> StageLimits:
        """Soft limits of the axes."""

    @property
    def readback_noise_nm(self) -> float:
        """Noise of one reading of x or y while the stage stands still, nm rms; 0 where there is none."""

    def open(self) -> None:
        """Connect to the hardware; the position is read back, not assumed."""

    def close(self) -> None:
        """Disconnect; the stage stays where it is."""

    def position(self) -> StagePosition:
        """Return the position read back now."""

    def state(self) -> StageState:
        """Return the state now."""

    def start_move(self, target: Mapping[str, float]) -> None:
        """Begin a move of the named axes (`AXES`) to their targets and return at once.

        A move to the target that an axis has already is a correction of where it landed.

        Raises
        ------
        LimitError
            A target is outside `limits`; nothing moves.
        InstrumentFault
            The stage is disabled, or refuses.
        """

    def wait_still(self, timeout_s: float) -> StagePosition:
        """Wait until the move has ended and return the position read back.

        Raises
        ------
        OperationTimeout
            The stage still moves, or has not moved, after ``timeout_s``.
        Aborted
            `stop` ended the move.
        """

    def stop(self) -> None:
        """Stop every axis where it is."""
