"""ophyd-async wrapper of a stage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated as A

import numpy as np
from bluesky.protocols import Location, Movable, Stoppable
from ophyd_async.core import Array1D, AsyncStatus, Command, SignalR, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice
from devices.errors import LimitError
from devices.stage.driver import AXES, StageLimits

Vector = Array1D[np.float64]


class Stage(InstrumentDevice, StandardReadable, Movable[Sequence[float]], Stoppable):
    """The stage: ``set((x_um, y_um))`` or ``set((x, y, z, alpha, beta))`` moves it, NaN leaves an axis.

    Positions are read back from the hardware: x, y, z in um, alpha and beta in deg.
    """

    DONE_ATTRIBUTE = "moves_done"

    x_um: A[SignalR[float], Format.HINTED_SIGNAL]
    y_um: A[SignalR[float], Format.HINTED_SIGNAL]
    z_um: A[SignalR[float], Format.UNCACHED_SIGNAL]
    alpha_deg: A[SignalR[float], Format.UNCACHED_SIGNAL]
    beta_deg: A[SignalR[float], Format.UNCACHED_SIGNAL]
    position: SignalR[Vector]
    lower_limits: A[SignalR[Vector], Format.CONFIG_SIGNAL]
    upper_limits: A[SignalR[Vector], Format.CONFIG_SIGNAL]
    stage_state: SignalR[str]
    moves_done: SignalR[int]
    MoveTo: Command[[Vector], int]
    Stop: Command[[], int]

    move_timeout_s: float = 60.0

    @AsyncStatus.wrap
    async def set(self, value: Sequence[float]) -> None:
        """Move to ``(x_um, y_um[, z_um, alpha_deg, beta_deg])`` and wait for the arrival.

        Raises
        ------
        LimitError
            A coordinate is outside its limits; nothing moves.
        MontangoError
            The move failed, timed out or was stopped.
        """
        target = np.asarray(value, float)
        if target.ndim != 1 or not 2 <= len(target) <= len(AXES):
            raise LimitError(f"stage target {value!r} is not (x_um, y_um[, z_um, alpha_deg, beta_deg])")
        (await self.limits()).check(
            {axis: float(number) for axis, number in zip(AXES, target, strict=False) if not np.isnan(number)}
        )
        await self.run("MoveTo", target, timeout_s=self.move_timeout_s)

    async def limits(self) -> StageLimits:
        """Return the stage's limits, as its server has them."""
        low, high = await asyncio.gather(self.lower_limits.get_value(), self.upper_limits.get_value())
        return StageLimits(*((float(a), float(b)) for a, b in zip(low, high, strict=True)))

    async def locate(self) -> Location[Sequence[float]]:
        """Return the position read back (the hardware keeps no other setpoint)."""
        position = [float(number) for number in (await self.read_now("position"))[0]]
        return Location(setpoint=position, readback=position)

    async def stop(self, success: bool = False) -> None:
        """Stop every axis where it is."""
        await self.call("Stop")
