"""A careful move of the stage: what `MoveAndSettle` takes and gives, for server, wrapper and sequencer.

One flat array of float64 each way, the fields of `MoveRequest` and of `MoveResult` in their order. Trailing
fields of a request may be left out; they have the defaults below.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from devices.errors import LimitError, check_limit


class SettleMode(IntEnum):
    """How it is decided that the sample is still."""

    FIXED = 0
    """Wait the settle time."""
    READBACK = 1
    """Wait the settle time, then until the stage's read-back is slower than the limit."""
    DRIFT = 2
    """Wait the settle time, then until two short frames show less drift than the limit; the sequencer's."""


class MoveRequest(NamedTuple):
    """A move in x and y.

    ``settle_s`` is waited after the arrival in any case. ``tolerance_um`` is the largest distance on an axis
    between target and read-back (0: not checked); a move that misses it is repeated up to ``retries`` times.
    ``approach_x_um``, ``approach_y_um``: the last part of the way, at least so long, goes in the direction of
    the sign (0: any direction), which takes up the backlash always the same way. ``settle_mode`` is FIXED or
    READBACK; for READBACK, the stage is still when its read-back is slower than ``settle_limit_nm_s``, and
    after ``settle_timeout_s`` the move ends all the same, with the speed in its result.
    """

    x_um: float
    y_um: float
    settle_s: float = 0.0
    tolerance_um: float = 0.0
    retries: int = 3
    approach_x_um: float = 0.0
    approach_y_um: float = 0.0
    settle_mode: int = SettleMode.FIXED
    settle_limit_nm_s: float = 50.0
    settle_timeout_s: float = 5.0

    @classmethod
    def unpack(cls, numbers: Any) -> MoveRequest:
        """Return a request from the numbers that Tango carried.

        Raises
        ------
        LimitError
            Too few or too many numbers, or one outside its range.
        """
        values = [float(number) for number in numbers]
        if not 2 <= len(values) <= len(cls._fields):
            raise LimitError(
                f"MoveAndSettle takes 2 to {len(cls._fields)} numbers ({', '.join(cls._fields)}), "
                f"not {len(values)}"
            )
        request = cls(*values)  # type: ignore[arg-type]
        request.check()
        return request._replace(retries=int(request.retries), settle_mode=int(request.settle_mode))

    def check(self) -> None:
        """Refuse a request with a number outside its range.

        Raises
        ------
        LimitError
            Naming it, its value and its limits.
        """
        for name, high, unit in _RANGES:
            check_limit(name, getattr(self, name), 0.0, high, unit)
        for name in ("approach_x_um", "approach_y_um"):
            check_limit(name, getattr(self, name), -APPROACH_MAX_UM, APPROACH_MAX_UM, "um")
        if self.settle_mode not in (SettleMode.FIXED, SettleMode.READBACK):
            raise LimitError(f"settle_mode = {self.settle_mode:g} is not 0 (fixed) or 1 (read-back)")


APPROACH_MAX_UM = 100.0
RETRIES_MAX = 20
_RANGES = (
    ("settle_s", 600.0, "s"),
    ("tolerance_um", 1000.0, "um"),
    ("retries", float(RETRIES_MAX), ""),
    ("settle_limit_nm_s", 1e6, "nm/s"),
    ("settle_timeout_s", 600.0, "s"),
)


class MoveResult(NamedTuple):
    """Where a move ended and what it took.

    Positions are read back after settling, in um and deg; ``tries`` counts the moves to the target;
    ``speed_nm_s`` is the last speed of the read-back in the plane (NaN: not measured).
    """

    x_um: float
    y_um: float
    z_um: float
    alpha_deg: float
    beta_deg: float
    move_time_s: float
    settle_time_s: float
    tries: int
    speed_nm_s: float

    @classmethod
    def unpack(cls, numbers: Any) -> MoveResult:
        """Return a result from the numbers that Tango carried."""
        values = cls(*(float(number) for number in numbers))  # type: ignore[arg-type]
        return values._replace(tries=int(values.tries))
