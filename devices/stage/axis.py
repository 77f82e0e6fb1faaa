"""One axis of a stage, for plans and magics that move one thing at a time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from bluesky.protocols import HasHints, Hints, Location, Movable, Readable, Reading, Stoppable
from event_model import DataKey
from ophyd_async.core import AsyncStatus, Device, Reference

from devices.stage.driver import AXES, axis_unit

if TYPE_CHECKING:
    from devices.stage.device import Stage


class StageAxis(Device, Movable[float], Readable[float], Stoppable, HasHints):
    """An axis of a stage: ``set(value)`` moves it alone, in um or deg as its stage's signal says."""

    def __init__(self, stage: Stage, axis: str) -> None:
        self._reference = Reference(stage)
        self._index = AXES.index(axis)
        self._unit = axis_unit(axis)
        super().__init__()

    def _stage(self) -> Stage:
        return self._reference()

    @AsyncStatus.wrap
    async def set(self, value: float) -> None:
        """Move this axis and wait for its arrival.

        Raises
        ------
        LimitError
            The value is outside the axis's limits; nothing moves.
        """
        target = [math.nan] * len(AXES)
        target[self._index] = value
        await self._stage().set(target)

    async def read(self) -> dict[str, Reading[float]]:
        """Return the position read back from the hardware now."""
        position, time_s = await self._stage().position_now()
        return {self.name: Reading(value=position[self._index], timestamp=time_s)}

    async def describe(self) -> dict[str, DataKey]:
        """Describe the position."""
        source = f"{self._stage().trl}/{AXES[self._index]}"
        key = DataKey(source=source, dtype="number", dtype_numpy="<f8", shape=[], units=self._unit)
        return {self.name: key}

    async def locate(self) -> Location[float]:
        """Return the position read back (the hardware keeps no other setpoint)."""
        position, _ = await self._stage().position_now()
        return Location(setpoint=position[self._index], readback=position[self._index])

    async def stop(self, success: bool = False) -> None:
        """Stop the stage."""
        await asyncio.shield(self._stage().stop(success))

    @property
    def hints(self) -> Hints:
        """Show the position in tables."""
        return Hints(fields=[self.name])
