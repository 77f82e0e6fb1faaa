"""Tango device server of a sample loader."""

from __future__ import annotations

import queue
from collections.abc import Callable

from tango import DevState
from tango.server import attribute, command, device_property

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.errors import InstrumentFault
from devices.loader.driver import MOVING_STATES, LoaderDriver, check_slot, loaded_slot

PERIOD_S = 0.1
MAX_SLOTS = 10_000


class LoaderServer(InstrumentServer):
    """A sample loader: loads with ids, `changes_done`, the state of every slot, what the loader has counted.

    A server that starts while a sample moves is in state MOVING until the sample has arrived.
    """

    DONE_ATTRIBUTE = "changes_done"

    load_timeout_s = device_property(
        dtype=float, default_value=300.0, doc="longest time a load or an unload may take"
    )

    carrier = attribute(dtype=str, doc="CASSETTE or TAPE")
    slot_count = attribute(dtype="DevLong64", doc="slots of the cassette, or apertures of the tape")
    slot_states = attribute(
        dtype=(str,),
        max_dim_x=MAX_SLOTS,
        doc="of each slot: UNKNOWN, EMPTY, OCCUPIED, LOADING, LOADED, UNLOADING or ERROR",
    )
    barcodes = attribute(dtype=(str,), max_dim_x=MAX_SLOTS, doc="of each slot; empty where none was read")
    loaded_slot = attribute(dtype="DevLong64", doc="slot whose sample is in the microscope, 0: none")
    loaded_barcode = attribute(dtype=str, doc="barcode of the sample in the microscope")
    interlocks = attribute(
        dtype=(str,), max_dim_x=32, doc="what forbids a sample to move now; empty: nothing"
    )
    load_count = attribute(dtype="DevLong64", doc="samples loaded since the loader was installed")
    unload_count = attribute(dtype="DevLong64", doc="samples unloaded since the loader was installed")
    fault_count = attribute(dtype="DevLong64", doc="moves that failed since the loader was installed")
    changes_done = attribute(dtype="DevLong64", doc="id of the newest load, unload, ... that ended well")

    hardware: LoaderDriver

    def start(self) -> None:
        self._changes: queue.SimpleQueue[tuple[int, Callable[[], object]] | None] = queue.SimpleQueue()
        if self._moving():
            self._changes.put((0, self._wait))
        self.spawn(self._finish_changes, "changes")
        self.every(PERIOD_S, self._publish_all, "watch")

    def wake(self) -> None:
        if hasattr(self, "_changes"):
            self._changes.put(None)

    def read_carrier(self) -> str:
        return str(self.hardware.carrier)

    def read_slot_count(self) -> int:
        return len(self.hardware.slots())

    def read_slot_states(self) -> list[str]:
        return [str(slot.state) for slot in self.hardware.slots()]

    def read_barcodes(self) -> list[str]:
        return [slot.barcode for slot in self.hardware.slots()]

    def read_loaded_slot(self) -> int:
        return loaded_slot(self.hardware.slots())

    def read_loaded_barcode(self) -> str:
        slots = self.hardware.slots()
        number = loaded_slot(slots)
        return check_slot(slots, number).barcode if number else ""

    def read_interlocks(self) -> list[str]:
        return list(self.hardware.interlocks())

    def read_load_count(self) -> int:
        return self.hardware.counts().loads

    def read_unload_count(self) -> int:
        return self.hardware.counts().unloads

    def read_fault_count(self) -> int:
        return self.hardware.counts().faults

    def read_changes_done(self) -> int:
        return self._done_id

    @command(
        dtype_in="DevLong64",
        doc_in="slot, from 1",
        dtype_out="DevLong64",
        doc_out="id of the load; it has ended when changes_done reaches it",
    )
    @translated
    def Load(self, slot: int) -> int:
        """Bring a slot's sample into the microscope; one that is there goes back to its slot first."""
        self.hardware.start_load(int(slot))
        return self._begin(self._wait)

    @command(dtype_out="DevLong64", doc_out="id of the unload; it has ended when changes_done reaches it")
    @translated
    def Unload(self) -> int:
        """Bring the sample that is in the microscope back to its slot."""
        self.hardware.start_unload()
        return self._begin(self._wait)

    @command(dtype_out="DevLong64", doc_out="id of the recovery; it has ended when changes_done reaches it")
    @translated
    def Recover(self) -> int:
        """Bring the samples of slots in ERROR back to their slots."""
        self._refuse_while_moving("Recover")
        return self._begin(self.hardware.recover)

    @command(dtype_out="DevLong64", doc_out="id of the inventory; it has ended when changes_done reaches it")
    @translated
    def Inventory(self) -> int:
        """Look into every slot and read its barcode."""
        self._refuse_while_moving("Inventory")
        return self._begin(self.hardware.inventory)

    @command(dtype_out="DevLong64", doc_out="id of the newest operation")
    @translated
    def Stop(self) -> int:
        """Stop where it is; a slot whose sample was on its way is then in ERROR, until Recover."""
        self.hardware.stop()
        return self._newest_id

    def _moving(self) -> bool:
        return any(slot.state in MOVING_STATES for slot in self.hardware.slots())

    def _refuse_while_moving(self, what: str) -> None:
        if self.get_state() == DevState.MOVING:
            raise InstrumentFault(
                f"the loader is moving a sample; {what} when changes_done says it has ended"
            )

    def _wait(self) -> None:
        self.hardware.wait(self.load_timeout_s)

    def _begin(self, rest: Callable[[], object]) -> int:
        operation = self.begin()
        self.enter(DevState.MOVING)
        self._changes.put((operation, rest))
        return operation

    def _finish_changes(self) -> None:
        while (item := self._changes.get()) is not None:
            operation, rest = item
            if not operation:
                self.enter(DevState.MOVING, "a sample was on its way when this server started")
            try:
                rest()
            except Exception as error:  # noqa: BLE001  # the thread's edge
                if self._moving():
                    self.hardware.stop()
                self._publish_all()
                self.enter(DevState.ON, f"{type(error).__name__}: {error}")
                if operation:
                    self.fail(operation, error)
                continue
            self._publish_all()
            self.enter(DevState.ON)
            if operation:
                self.complete(operation)

    def _publish_all(self) -> None:
        slots, counts = self.hardware.slots(), self.hardware.counts()
        number = loaded_slot(slots)
        self.publish_changed(
            slot_count=len(slots),
            slot_states=[str(slot.state) for slot in slots],
            barcodes=[slot.barcode for slot in slots],
            loaded_slot=number,
            loaded_barcode=check_slot(slots, number).barcode if number else "",
            interlocks=list(self.hardware.interlocks()),
            load_count=counts.loads,
            unload_count=counts.unloads,
            fault_count=counts.faults,
        )


if __name__ == "__main__":
    serve(LoaderServer, "MontangoLoader")
