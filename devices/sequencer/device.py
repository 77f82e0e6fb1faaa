"""ophyd-async wrapper of a sequencer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated as A

import numpy as np
from bluesky.protocols import Movable, Status, Stoppable
from ophyd_async.core import Array1D, AsyncStatus, Command, SignalR, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice
from devices.errors import Aborted, OperationTimeout
from devices.sequencer.driver import Table, TileRequest, pack

BUSY = ("RUNNING", "STANDBY")
IDLE_TIMEOUT_S = 30.0


class Sequencer(InstrumentDevice, StandardReadable, Movable[Sequence[TileRequest] | Table], Stoppable):
    """The sequencer: ``set(table)`` queues a table of tiles and is done when they are exposed.

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
    current_tile: SignalR[int]
    tile_start_s: SignalR[float]
    held: SignalR[bool]
    owner: SignalR[str]
    QueueTable: Command[[Array1D[np.float64]], int]
    Stop: Command[[], int]
    Pause: Command[[], int]
    Resume: Command[[], int]
    Abort: Command[[], int]

    tile_timeout_s: float = 120.0
    """Longest time without a tile; a sequencer that is held may be silent as long as it likes."""
    owner_token: int = 0
    """Token of the lease that `acquire` got; 0: none."""

    def __init__(self, trl: str, name: str = "") -> None:
        super().__init__(trl, name)
        self._in_order = asyncio.Lock()
        self._holders: set[str] = set()
        self._running: set[int] = set()

    @AsyncStatus.wrap
    async def set(self, value: Sequence[TileRequest] | Table, behind: Sequence[Status] = ()) -> None:
        """Queue a table and wait until its tiles are exposed.

        Parameters
        ----------
        value
            The tiles.
        behind
            What `set` returned for tables before, where this one must not be exposed if one of them has
            failed. A table that still runs is waited for in any case; one that has failed a moment before,
            unseen by the caller, is known only if it is given here.

        Raises
        ------
        Aborted
            A table before it has failed; nothing moves.
        LimitError
            A tile is outside a limit; nothing moves.
        InstrumentFault
            Somebody else owns the sequencer, or the stage missed a tile.
        MontangoError
            A device failed: the error names it.
        """
        async with self._in_order:  # two tables set one after the other reach the server in that order
            ahead = value if isinstance(value, Table) else Table(tuple(value))
            # no await from here to the numbers sent: each table before is among those that run, or has ended
            for status in behind:
                if status.done and (failure := status.exception()) is not None:
                    raise Aborted("a table before it has failed; its tiles come first") from failure
            ahead = replace(ahead, follows=max(self._running, default=0))
            table = await self._queue(ahead)
            self._running.add(table)
        try:
            await self._ended(table)
        finally:
            self._running.discard(table)

    async def _queue(self, table: Table) -> int:
        """Send a table and return its id; where it follows one that has failed, say why that has."""
        try:
            return int(await self.call("QueueTable", pack(table, self.owner_token)))
        except Aborted as error:
            refused = error
        if table.follows:  # not within `except`: the failure did not come of the refusal, but the other way
            await self._ended(table.follows)
        raise refused

    async def _ended(self, table: int) -> None:
        done = -1
        while True:
            try:
                await self.wait_for(table, timeout_s=self.tile_timeout_s)
            except OperationTimeout:
                held, tiles = await self.read_now("held", "tiles_done")
                if not held and tiles == done:
                    raise
                done = int(tiles)
            else:
                return

    async def acquire(self, owner: str) -> None:
        """Take the lease: until `release` nobody else can queue tables.

        Raises
        ------
        InstrumentFault
            Somebody else has it; the error names who.
        """
        self.owner_token = int(await self.call("Acquire", owner))

    async def release(self, owner: str) -> None:
        """End the lease of an owner, oneself or (to take it away) another.

        Raises
        ------
        InstrumentFault
            That is not the owner.
        """
        await self.call("Release", owner)
        self.owner_token = 0

    async def hold(self, who: str) -> None:
        """Expose nothing after the tile that runs, beam blanked, until everybody who held lets it go on.

        ``who`` is a name of the caller's choice, for `go_on`.
        """
        self._holders.add(who)
        await self.call("Pause")

    async def go_on(self, who: str) -> None:
        """Go on with the queue, unless somebody else still holds it."""
        self._holders.discard(who)
        if not self._holders:
            await self.call("Resume")

    async def pause(self) -> None:
        """Hold while the RunEngine is paused: the queue is kept."""
        await self.hold("RunEngine")

    async def resume(self) -> None:
        """Go on when the RunEngine does."""
        await self.go_on("RunEngine")

    async def stop(self, success: bool = False) -> None:
        """End the table that runs at once, unless all went well: beam blanked, stage still."""
        if not success:
            self._holders.clear()
            await self.call("Abort", timeout_s=60.0)
            await self._wait_idle()

    async def _wait_idle(self) -> None:
        """Wait until the server has ended its queue: until then it refuses tables."""
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while (str((await self.read_now("State"))[0]) in BUSY) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
