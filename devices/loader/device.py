"""ophyd-async wrapper of a sample loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated as A

from bluesky.protocols import Location, Movable, Stoppable
from ophyd_async.core import AsyncStatus, Command, SignalR, StandardReadable
from ophyd_async.core import StandardReadableFormat as Format

from devices._tango.wrapper import InstrumentDevice
from devices.errors import LimitError
from devices.loader.driver import Slot, SlotState


class Loader(InstrumentDevice, StandardReadable, Movable[int], Stoppable):
    """The sample loader: ``set(slot)`` brings a sample into the microscope, ``set(0)`` takes it out.

    Slots are numbered from 1. A sample that is in the microscope already is left there. The plan that sets it
    must have blanked the beam, closed the valves and brought the stage to zero: `plans.stubs.load` does.
    """

    DONE_ATTRIBUTE = "changes_done"

    carrier: A[SignalR[str], Format.CONFIG_SIGNAL]
    slot_count: A[SignalR[int], Format.CONFIG_SIGNAL]
    slot_states: SignalR[Sequence[str]]
    barcodes: SignalR[Sequence[str]]
    loaded_slot: A[SignalR[int], Format.HINTED_UNCACHED_SIGNAL]
    loaded_barcode: A[SignalR[str], Format.UNCACHED_SIGNAL]
    interlocks: SignalR[Sequence[str]]
    load_count: SignalR[int]
    unload_count: SignalR[int]
    fault_count: SignalR[int]
    changes_done: SignalR[int]
    Unload: Command[[], int]
    Recover: Command[[], int]
    Inventory: Command[[], int]
    Stop: Command[[], int]

    load_timeout_s: float = 600.0
    """Longest time a load may take, with the unload before it."""

    @AsyncStatus.wrap
    async def set(self, value: int) -> None:
        """Load a slot's sample, 0 unloads, and wait for the end.

        Raises
        ------
        LimitError
            There is no such slot; nothing moves.
        MontangoError
            An interlock forbids it, the sample jammed, or it timed out: the error says so.
        """
        if isinstance(value, bool) or int(value) != value or value < 0:
            raise LimitError(f"loader slot = {value!r} is not a slot's number from 1 up, or 0 for none")
        (loaded,) = await self.read_now("loaded_slot")
        if int(loaded) == value:
            return
        if value == 0:
            await self.run("Unload", timeout_s=self.load_timeout_s)
        else:
            await self.run("Load", int(value), timeout_s=self.load_timeout_s)

    async def unload(self) -> None:
        """Take the sample out, if one is loaded; as ``set(0)``."""
        await self.set(0)

    async def recover(self) -> None:
        """Bring the samples of slots in ERROR back to their slots.

        Raises
        ------
        MontangoError
            An interlock forbids it, or the loader cannot.
        """
        await self.run("Recover", timeout_s=self.load_timeout_s)

    async def inventory(self) -> None:
        """Look into every slot and read its barcode."""
        await self.run("Inventory", timeout_s=self.load_timeout_s)

    async def slots(self) -> tuple[Slot, ...]:
        """Return every slot as the hardware has it now."""
        states, barcodes = await self.read_now("slot_states", "barcodes")
        pairs = zip(states or (), barcodes or (), strict=True)
        return tuple(
            Slot(number, SlotState(state), barcode) for number, (state, barcode) in enumerate(pairs, 1)
        )

    async def blocked_by(self) -> tuple[str, ...]:
        """Return what forbids a sample to move now; empty: nothing."""
        (interlocks,) = await self.read_now("interlocks")
        return tuple(interlocks or ())

    async def locate(self) -> Location[int]:
        """Return the slot that is loaded, 0 if none."""
        (loaded,) = await self.read_now("loaded_slot")
        return Location(setpoint=int(loaded), readback=int(loaded))

    async def stop(self, success: bool = False) -> None:
        """Stop the loader where it is, unless all went well."""
        if not success:
            await self.call("Stop")
