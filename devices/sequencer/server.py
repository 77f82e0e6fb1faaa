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
from devices.errors import Aborted, InstrumentFault, MontangoError
from devices.sequencer.driver import SequencerDriver, TileRequest, unpack

PERIOD_S = 0.1
CYCLES_KEPT = 10


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

    hardware: SequencerDriver

    def start(self) -> None:
        self._tables: queue.SimpleQueue[tuple[int, list[TileRequest]] | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._tiles_done = 0
        self._tiles_queued = 0
        self._cycles: deque[float] = deque(maxlen=CYCLES_KEPT)
        self.spawn(self._run_tables, "tables")
        self.every(PERIOD_S, self._watch, "watch")

    def wake(self) -> None:
        if hasattr(self, "_tables"):
            self._ending.set()
            self._tables.put(None)

    def delete_device(self) -> None:
        """Leave the microscope safe when the server ends in the middle of a table."""
        if self.get_state() == DevState.RUNNING:
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

    @command(
        dtype_in=(float,),
        doc_in="tiles, devices.sequencer.driver.TileRequest packed",
        dtype_out="DevLong64",
        doc_out="id of the table; it has ended when tables_done reaches it",
    )
    @translated
    def QueueTable(self, table: Any) -> int:
        """Append a table to the queue; it begins when the one before has exposed its last tile."""
        tiles = unpack(table)
        with AutoTangoAllowThreads(self):
            self.hardware.check(tiles)
        if self._ending.is_set():
            if self.get_state() == DevState.RUNNING:
                raise InstrumentFault("the sequencer is ending its queue; queue a table when its State is ON")
            self._ending.clear()
        number = self.begin()
        with self._lock:
            self._tiles_queued += len(tiles)
        self._tables.put((number, tiles))
        return number

    @command(dtype_out="DevLong64", doc_out="id of the newest table")
    @translated
    def Stop(self) -> int:
        """End after the tile that runs; its frame is kept, the rest of the queue fails with Aborted."""
        self._ending.set()
        return self._newest_id

    @command(dtype_out="DevLong64", doc_out="id of the newest table")
    @translated
    def Abort(self) -> int:
        """End now: beam blanked, stage stopped, exposure ended, queue dropped."""
        self._ending.set()
        with AutoTangoAllowThreads(self):
            self.hardware.abort()
        return self._newest_id

    def _run_tables(self) -> None:
        """Run tables as they come; between two that follow each other nothing is waited for."""
        exposed = 0
        while (item := self._next_table(exposed)) is not None:
            number, tiles = item
            try:
                if self.get_state() != DevState.RUNNING:
                    self.hardware.prepare()
                    self.enter(DevState.RUNNING)
                for tile in tiles:
                    self._acquire(tile)
            except Exception as error:  # noqa: BLE001  # the thread's edge
                self._give_up(number, error)
                exposed = 0
            else:
                exposed = number

    def _next_table(self, exposed: int) -> tuple[int, list[TileRequest]] | None:
        """Return the next table; table ``exposed`` (0: none) has ended, once on disk if it is the last."""
        if exposed and self._tables.empty():
            try:
                self.hardware.park()
                self.hardware.finish()
            except MontangoError as error:
                self._give_up(exposed, error)
                return self._tables.get()
            self.enter(DevState.ON)  # even if a table came meanwhile: it must unblank the beam again
        if exposed:
            self.complete(exposed, tiles_queued=self._tiles_queued)
        return self._tables.get()

    def _acquire(self, tile: TileRequest) -> None:
        if self._ending.is_set():
            raise Aborted("the table was ended by Stop or Abort")
        started = time.perf_counter()
        self.hardware.acquire(tile)
        self._cycles.append(time.perf_counter() - started)
        with self._lock:
            self._tiles_done += 1
            self._tiles_queued -= 1

    def _give_up(self, table: int, error: Exception) -> None:
        """Make the microscope safe, keep what was exposed, drop the queue, and say why."""
        with suppress(MontangoError):
            self.hardware.halt()
        with self._lock:
            self._tiles_queued = 0
        while not self._tables.empty():
            item = self._tables.get()
            if item is None:
                self._tables.put(None)
                break
            table = item[0]
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
        )


if __name__ == "__main__":
    serve(SequencerServer, "MontangoSequencer")
