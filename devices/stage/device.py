"""ophyd-async wrapper of a stage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated as A

import numpy as np
from bluesky.protocols import Location, Movable, Stoppable
from ophyd_async.core import Array1D, AsyncStatus, Command, SignalR, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice
from devices.errors import LimitError
from devices.stage.axis import StageAxis
from devices.stage.driver import AXES, StageLimits
from devices.stage.moves import MoveRequest, MoveResult

Vector = Array1D[np.float64]


class Stage(InstrumentDevice, StandardReadable, Movable[Sequence[float] | MoveRequest], Stoppable):
    """The stage: ``set((x_um, y_um))`` or ``set((x, y, z, alpha, beta))`` moves it, NaN leaves an axis.

    ``set(MoveRequest(...))`` is `move_and_settle`; the status has the `MoveResult` as its ``result()``.

    Its axes ``x``, ``y``, ``z``, ``alpha`` and ``beta`` can be moved one at a time, as motors can.
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
    settle_floor_nm_s: SignalR[float]
    Stop: Command[[], int]

    move_timeout_s: float = 60.0

    def __init__(self, trl: str, name: str = "") -> None:
        super().__init__(trl, name)
        self._moves = 0
        self.x, self.y, self.z, self.alpha, self.beta = (StageAxis(self, axis) for axis in AXES)
        self.set_name(name)

    @AsyncStatus.wrap
    async def set(self, value: Sequence[float] | MoveRequest) -> MoveResult | None:
        """Move to ``(x_um, y_um[, z_um, alpha_deg, beta_deg])`` and wait for the arrival.

        A `MoveRequest` is carried out as `move_and_settle` does, and its result returned.

        Raises
        ------
        LimitError
            A coordinate is outside its limits; nothing moves.
        MontangoError
            The move failed, timed out or was stopped.
        """
        self._moves += 1
        try:
            if isinstance(value, MoveRequest):
                return await self.move_and_settle(value)
            await self._move_to(value)
            return None
        finally:
            self._moves -= 1

    async def _move_to(self, value: Sequence[float]) -> None:
        target = np.asarray(value, float)
        if target.ndim != 1 or not 2 <= len(target) <= len(AXES):
            raise LimitError(f"stage target {value!r} is not (x_um, y_um[, z_um, alpha_deg, beta_deg])")
        (await self.limits()).check(
            {axis: float(number) for axis, number in zip(AXES, target, strict=False) if not np.isnan(number)}
        )
        await self.run("MoveTo", target, timeout_s=self.move_timeout_s)

    async def move_and_settle(self, request: MoveRequest) -> MoveResult:
        """Move in x and y with one-sided approach, tolerance and settling, and return where it ended.

        Raises
        ------
        LimitError
            Outside a limit; nothing moves.
        InstrumentFault
            The stage missed its target by more than the tolerance.
        MontangoError
            The move failed, timed out or was stopped.
        """
        ways = 2 * (1 + (request.retries if request.tolerance_um else 0))
        timeout_s = ways * self.move_timeout_s + request.settle_s + request.settle_timeout_s
        numbers = await self.call("MoveAndSettle", request, timeout_s=timeout_s)
        return MoveResult.unpack(numbers)

    async def limits(self) -> StageLimits:
        """Return the stage's limits, as its server has them."""
        low, high = await asyncio.gather(self.lower_limits.get_value(), self.upper_limits.get_value())
        return StageLimits(*((float(a), float(b)) for a, b in zip(low, high, strict=True)))

    async def locate(self) -> Location[Sequence[float]]:
        """Return the position read back (the hardware keeps no other setpoint)."""
        position, _ = await self.position_now()
        return Location(setpoint=position, readback=position)

    async def position_now(self) -> tuple[list[float], float]:
        """Return x, y, z in um and alpha, beta in deg read from the hardware, and when (Unix time, s)."""
        position = [float(number) for number in (await self.read_now("position"))[0]]
        return position, time.time()

    async def stop(self, success: bool = False) -> None:
        """Stop every axis where it is.

        With ``success`` only a move that this object began: the RunEngine stops whatever it has ever moved
        when it pauses and when a plan ends, and the move that runs then may be the sequencer's.
        """
        if not success or self._moves:
            await self.call("Stop")
