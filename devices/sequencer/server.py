"""Tango device server of a sequencer: a queue of tables, run one after the other without a gap."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from tango import AutoTangoAllowThreads, DevState
from tango.server import attribute, command

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.errors import Aborted, InstrumentFault, LimitError, MontangoError, OperationTimeout
from devices.sequencer.driver import MoveOptions, SequencerDriver, Table, TileRequest, unpack
from devices.sequencer.lease import Lease

PERIOD_S = 0.1
CYCLES_KEPT = 10
BUSY = (DevState.RUNNING, DevState.STANDBY)
"""States in which tables are in the queue."""


class SequencerServer(InstrumentServer):
    """Takes tables of tiles and acquires them; a table has ended when `tables_done` reaches its id."""

    DONE_ATTRIBUTE = "tables_done"

    tables_done = attribute(
        dtype="DevLong64", doc="id of the newest table whose tiles are exposed, and on disk if none follows"
    )
    tiles_done = attribute(dtype="DevLong64", doc="tiles exposed since the server started")
    tiles_queued = attribute(dtype="DevLong64", doc="tiles waiting, the one that runs included")
    cycle_time_s = attribute(dtype=float, unit="s", format="%.4f", doc="mean time of the last 10 tiles")
    throughput_per_min = attribute(dtype=float, unit="1/min", format="%.1f", doc="tiles a minute")
    eta_s = attribute(dtype=float, unit="s", format="%.0f", doc="until the queued tiles are done")
    current_tile = attribute(dtype="DevLong64", doc="raster index of the newest tile begun; -1: none yet")
    tile_start_s = attribute(dtype=float, unit="s", format="%.3f", doc="when it was begun, Unix time")
    held = attribute(dtype=bool, doc="paused: no tile runs, and none begins until Resume")
    owner = attribute(dtype=str, doc="who alone may queue tables; empty: anybody")

    hardware: SequencerDriver

    def start(self) -> None:
        self._tables: queue.SimpleQueue[tuple[int, Table] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._aborting = threading.Lock()
        self._going = threading.Event()
        self._going.set()
        self._lease = Lease()
        self._ready: MoveOptions | None = None
        self._tile: TileRequest | None = None
        self._current = (-1, 0.0)
        self._tiles_done = 0
        self._tiles_queued = 0
        self._cycles: deque[float] = deque(maxlen=CYCLES_KEPT)
        self.spawn(self._run_tables, "tables")
        self.every(PERIOD_S, self._watch, "watch")

    def wake(self) -> None:
        if hasattr(self, "_tables"):
            self._ending.set()
            self._going.set()
            self._tables.put(None)

    def delete_device(self) -> None:
        """Leave the microscope safe when the server ends in the middle of a table."""
        if self.get_state() in BUSY:
            with suppress(MontangoError):
                self.hardware.halt()
        super().delete_device()

    def read_tables_done(self) -> int:
        return self._done_id

    def read_tiles_done(self) -> int:
        return self._tiles_done

    def read_tiles_queued(self) -> int:
        return self._tiles_queued

    def read_cycle_time_s(self) -> float:
        cycles = list(self._cycles)
        return sum(cycles) / len(cycles) if cycles else 0.0

    def read_throughput_per_min(self) -> float:
        cycle_s = self.read_cycle_time_s()
        return 60.0 / cycle_s if cycle_s else 0.0

    def read_eta_s(self) -> float:
        return self._tiles_queued * self.read_cycle_time_s()

    def read_current_tile(self) -> int:
        return self._current[0]

    def read_tile_start_s(self) -> float:
        return self._current[1]

    def read_held(self) -> bool:
        return self._tile is None and not self._going.is_set()

    def read_owner(self) -> str:
        return self._lease.owner

    @command(
        dtype_in=(float,),
        doc_in="devices.sequencer.driver.Table, packed",
        dtype_out="DevLong64",
        doc_out="id of the table; it has ended when tables_done reaches it",
    )
    @translated
    def QueueTable(self, numbers: Any) -> int:
        """Append a table to the queue; it begins when the one before has exposed its last tile."""
        table, token = unpack(numbers)
        self._lease.check(token)
        with AutoTangoAllowThreads(self):
            self.hardware.check(table)
        self._lease.check(token)
        if self._ending.is_set():
            if self.get_state() in BUSY:
                raise InstrumentFault("the sequencer is ending its queue; queue a table when its State is ON")
            self._ending.clear()
        with self._lock:
            if 0 < table.follows <= self._failed_id:
                raise Aborted(f"the table before it ({table.follows}) has failed; its tiles come first")
            self._newest_id += 1
            self._tiles_queued += len(table.tiles)
            self._tables.put((self._newest_id, table))
            return self._newest_id

    @command(dtype_out="DevLong64", doc_out="id of the newest table")
    @translated
    def Stop(self) -> int:
        """End after the tile that runs; its frame is kept, the rest of the queue fails with Aborted."""
        self._end()
        return self._newest_id

    @command(dtype_out="DevLong64", doc_out="id of the newest table")
    @translated
    def Abort(self) -> int:
        """End now: beam blanked, stage stopped, exposure ended, queue dropped; then the table has failed."""
        with AutoTangoAllowThreads(self), self._aborting:
            self._end()
            self.hardware.abort()
        return self._newest_id

    @command(dtype_out="DevLong64", doc_out="id of the newest table")
    @translated
    def Pause(self) -> int:
        """Hold before the next tile, beam blanked; the queue is kept. ``held`` says when it is so."""
        self._going.clear()
        return self._newest_id

    @command(dtype_out="DevLong64", doc_out="id of the newest table")
    @translated
    def Resume(self) -> int:
        """Go on after Pause."""
        self._going.set()
        return self._newest_id

    @command(
        dtype_in=str,
        doc_in="name of who is to own the sequencer",
        dtype_out="DevLong64",
        doc_out="token that the owner's tables carry; one had before is void",
    )
    @translated
    def Acquire(self, owner: str) -> int:
        """Take the lease: nobody else can queue tables until Release."""
        token = self._lease.acquire(owner)
        self.publish(owner=self._lease.owner)
        return token

    @command(
        dtype_in=str, doc_in="name of the owner", dtype_out="DevLong64", doc_out="id of the newest table"
    )
    @translated
    def Release(self, owner: str) -> int:
        """End the lease of an owner; a table that runs goes on."""
        self._lease.release(owner)
        self.publish(owner=self._lease.owner)
        return self._newest_id

    def _end(self) -> None:
        self._ending.set()
        self._going.set()

    def _run_tables(self) -> None:
        """Run tables as they come; between two that follow each other nothing is waited for."""
        exposed = 0
        while (item := self._next_table(exposed)) is not None:
            number, table = item
            try:
                for tile in table.tiles:
                    self._acquire(tile, table.options)
            except Exception as error:  # noqa: BLE001  # the thread's edge
                self._give_up(number, error)
                exposed = 0
            else:
                exposed = number

    def _next_table(self, exposed: int) -> tuple[int, Table] | None:
        """Return the next table; table ``exposed`` (0: none) has ended, once on disk if it is the last."""
        if exposed and self._tables.empty():
            try:
                self._park()
                self.hardware.finish()
            except MontangoError as error:
                self._give_up(exposed, error)
                return self._tables.get()
            self.enter(DevState.ON)  # even if a table came meanwhile: it must unblank the beam again
        if exposed:
            self.complete(exposed, tiles_queued=self._tiles_queued)
        return self._tables.get()

    def _acquire(self, tile: TileRequest, options: MoveOptions) -> None:
        if not self._going.is_set():
            self._hold()
        if self._ending.is_set():
            raise Aborted("the table was ended by Stop or Abort")
        if self._ready is not options:
            self.hardware.prepare(options)
            self._ready = options
            if self.get_state() != DevState.RUNNING:
                self.enter(DevState.RUNNING)
        started = time.perf_counter()
        self._current = (tile.raster_index, time.time())
        self._tile = tile
        try:
            self.hardware.acquire(tile)
        except (LimitError, OperationTimeout, InstrumentFault) as error:
            raise type(error)(f"tile {tile.raster_index} ({_place(tile)}): {error}") from error
        finally:
            self._tile = None
        self._cycles.append(time.perf_counter() - started)
        with self._lock:
            self._tiles_done += 1
            self._tiles_queued -= 1

    def _park(self) -> None:
        self._ready = None
        self.hardware.park()

    def _hold(self) -> None:
        """Wait, with the beam blanked, until Resume, Stop or Abort."""
        self._park()
        self.enter(DevState.STANDBY, "paused before the next tile, beam blanked; Resume goes on")
        self.publish_changed(held=True)
        self._going.wait()
        self.publish_changed(held=False)

    def _give_up(self, table: int, error: Exception) -> None:
        """Make the microscope safe, keep what was exposed, drop the queue, and say why."""
        self._ready = None
        with suppress(MontangoError):
            self.hardware.halt()
        with self._aborting, self._lock:  # what an Abort still ends must not be the next table's
            self._tiles_queued = 0
            while not self._tables.empty():
                item = self._tables.get()
                if item is None:
                    self._tables.put(None)
                    break
                table = item[0]
            self._failed_id = max(self._failed_id, table)
        self.enter(DevState.ON, f"{type(error).__name__}: {error}")
        self.fail(table, error)

    def _watch(self) -> None:
        """Push progress ten times a second: a push a tile would cost a tenth of a fast tile."""
        self.publish_changed(
            tiles_done=self._tiles_done,
            tiles_queued=self._tiles_queued,
            cycle_time_s=self.read_cycle_time_s(),
            throughput_per_min=self.read_throughput_per_min(),
            eta_s=self.read_eta_s(),
            current_tile=self._current[0],
            tile_start_s=self._current[1],
            held=self.read_held(),
        )


def _place(tile: TileRequest) -> str:
    return f"roi {tile.roi}, row {tile.row}, column {tile.column}, attempt {tile.attempt}"


if __name__ == "__main__":
    serve(SequencerServer, "MontangoSequencer")
