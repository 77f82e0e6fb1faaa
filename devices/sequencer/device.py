"""ophyd-async wrapper of a sequencer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated as A

import numpy as np
from bluesky.protocols import Movable, Stoppable
from ophyd_async.core import Array1D, AsyncStatus, Command, SignalR, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice
from devices.sequencer.driver import TileRequest, pack


class Sequencer(InstrumentDevice, StandardReadable, Movable[Sequence[TileRequest]], Stoppable):
    """The sequencer: ``set(tiles)`` queues a table of tiles and is done when they are exposed.

    Tables follow each other without a gap: queue the next while one runs. When the queue runs empty the
    beam is blanked, and the last table is done when its frames are on disk.
    """

    DONE_ATTRIBUTE = "tables_done"

    tables_done: SignalR[int]
    tiles_done: A[SignalR[int], Format.HINTED_UNCACHED_SIGNAL]
    tiles_queued: SignalR[int]
    cycle_time_s: SignalR[float]
    throughput_per_min: SignalR[float]
    eta_s: SignalR[float]
    QueueTable: Command[[Array1D[np.float64]], int]
    Stop: Command[[], int]
    Abort: Command[[], int]

    tile_timeout_s: float = 60.0
    """Longest time one tile may take; a table may take so much for each of its tiles and those before."""

    def __init__(self, trl: str, name: str = "") -> None:
        super().__init__(trl, name)
        self._in_order = asyncio.Lock()

    @AsyncStatus.wrap
    async def set(self, value: Sequence[TileRequest]) -> None:
        """Queue a table and wait until its tiles are exposed.

        Raises
        ------
        LimitError
            A tile is outside a limit; nothing moves.
        MontangoError
            A device failed: the error names it.
        """
        async with self._in_order:  # two tables set one after the other reach the server in that order
            ahead = await self.tiles_queued.get_value()
            table = int(await self.call("QueueTable", pack(value)))
        await self.wait_for(table, timeout_s=self.tile_timeout_s * (2 + len(value) + ahead))

    async def stop(self, success: bool = False) -> None:
        """End the table that runs at once, unless all went well: beam blanked, stage still."""
        if not success:
            await self.call("Abort", timeout_s=60.0)
