"""Blanks the beam while the RunEngine is paused, where the plan itself exposes: focusing, stepped tiles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from devices.column.device import Column
from plans.stubs.blocks import GROUP
from plans.unbroken import Flight

POLL_S: Final = 0.01
PATIENCE_S: Final = 10.0


class BeamGuard:
    """Paused and resumed by the RunEngine like a device, once a plan has named it in a message.

    An exposure that runs is not cut: it ends before the beam is blanked. While tables are on the sequencer,
    that holds and blanks by itself.

    Parameters
    ----------
    column
        Whose beam it is.
    flight
        What the plan has begun.
    sequencing
        Whether tables are on the sequencer.
    """

    name = "beam_guard"
    parent = None

    def __init__(self, column: Column, flight: Flight, sequencing: Callable[[], bool]) -> None:
        self._column = column
        self._flight = flight
        self._sequencing = sequencing
        self._was_on = False

    async def pause(self) -> None:
        """Wait for the end of what exposes, then blank the beam."""
        if self._sequencing():
            return
        deadline = time.monotonic() + PATIENCE_S
        while self._flight.busy(but=GROUP) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        (blanked,) = await self._column.read_now("beam_blanked")
        self._was_on = not blanked
        if self._was_on:
            await self._column.beam_blanked.set(True)

    async def resume(self) -> None:
        """Give the beam back that `pause` took."""
        if self._was_on:
            self._was_on = False
            await self._column.beam_blanked.set(False)
