"""What a sample loader must be able to do: the Protocol that hardware and simulation implement.

A loader has slots, numbered from 1: those of a cassette of grids, or the apertures of a tape. Of all slots at
most one is in the microscope. The words of a slot's state are those of temscript's and pytemscript's
autoloader (UNKNOWN, OCCUPIED, EMPTY, ERROR), and three more for what is on its way or loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from devices.errors import InstrumentFault, LimitError


class Carrier(StrEnum):
    """What holds the samples: a cassette of grids, or a tape of apertures that is wound to and fro."""

    CASSETTE = "CASSETTE"
    TAPE = "TAPE"


class SlotState(StrEnum):
    """States of a slot."""

    UNKNOWN = "UNKNOWN"
    EMPTY = "EMPTY"
    OCCUPIED = "OCCUPIED"
    LOADING = "LOADING"
    LOADED = "LOADED"
    UNLOADING = "UNLOADING"
    ERROR = "ERROR"


class SlotEvent(StrEnum):
    """What happens to a slot: a request, or what the loader sees."""

    SEEN_FULL = "SEEN_FULL"
    SEEN_EMPTY = "SEEN_EMPTY"
    SEEN_LOADED = "SEEN_LOADED"
    LOAD = "LOAD"
    UNLOAD = "UNLOAD"
    ARRIVED = "ARRIVED"
    FAILED = "FAILED"
    RECOVERED = "RECOVERED"


TRANSITIONS: Mapping[tuple[SlotState, SlotEvent], SlotState] = {
    (SlotState.UNKNOWN, SlotEvent.SEEN_FULL): SlotState.OCCUPIED,
    (SlotState.UNKNOWN, SlotEvent.SEEN_EMPTY): SlotState.EMPTY,
    (SlotState.UNKNOWN, SlotEvent.SEEN_LOADED): SlotState.LOADED,
    (SlotState.EMPTY, SlotEvent.SEEN_FULL): SlotState.OCCUPIED,
    (SlotState.EMPTY, SlotEvent.SEEN_EMPTY): SlotState.EMPTY,
    (SlotState.OCCUPIED, SlotEvent.SEEN_FULL): SlotState.OCCUPIED,
    (SlotState.OCCUPIED, SlotEvent.SEEN_EMPTY): SlotState.EMPTY,
    (SlotState.OCCUPIED, SlotEvent.LOAD): SlotState.LOADING,
    (SlotState.LOADING, SlotEvent.ARRIVED): SlotState.LOADED,
    (SlotState.LOADING, SlotEvent.FAILED): SlotState.ERROR,
    (SlotState.LOADED, SlotEvent.SEEN_LOADED): SlotState.LOADED,
    (SlotState.LOADED, SlotEvent.UNLOAD): SlotState.UNLOADING,
    (SlotState.UNLOADING, SlotEvent.ARRIVED): SlotState.OCCUPIED,
    (SlotState.UNLOADING, SlotEvent.FAILED): SlotState.ERROR,
    (SlotState.ERROR, SlotEvent.RECOVERED): SlotState.OCCUPIED,
}
"""Every change of a slot's state there is; what is not in the table is refused."""

MOVING_STATES = frozenset({SlotState.LOADING, SlotState.UNLOADING})


def next_state(slot: int, state: SlotState, event: SlotEvent) -> SlotState:
    """Return the state that follows.

    Raises
    ------
    InstrumentFault
        The table of transitions has no such step: naming slot, state and event, and what would be possible.
    """
    after = TRANSITIONS.get((state, event))
    if after is None:
        possible = ", ".join(sorted(step for known, step in TRANSITIONS if known == state)) or "nothing"
        raise InstrumentFault(
            f"loader slot {slot} is {state}: {event} is not possible there, only {possible}"
        )
    return after


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot: its number from 1, its state, and the barcode read of it (empty: none read)."""

    number: int
    state: SlotState
    barcode: str = ""


@dataclass(frozen=True, slots=True)
class LoaderCounts:
    """What the loader itself has counted since it was installed: samples loaded, unloaded, failed moves."""

    loads: int = 0
    unloads: int = 0
    faults: int = 0


def loaded_slot(slots: Sequence[Slot]) -> int:
    """Return the number of the slot whose sample is in the microscope, 0 if none is."""
    return next((slot.number for slot in slots if slot.state is SlotState.LOADED), 0)


def check_slot(slots: Sequence[Slot], number: int) -> Slot:
    """Return a slot by its number.

    Raises
    ------
    LimitError
        There is no such slot.
    """
    for slot in slots:
        if slot.number == number:
            return slot
    raise LimitError(f"loader slot = {number} is outside 1 to {len(slots)}; choose a slot that there is")


class LoaderDriver(Protocol):
    """A sample loader. `slots`, `counts`, `interlocks` and `stop` may be called from any thread.

    The state is the hardware's: a new driver finds the loader as it is, also in the middle of a load.
    """

    @property
    def carrier(self) -> Carrier:
        """Cassette or tape."""

    def open(self) -> None:
        """Connect to the hardware; slots and counts are read back, not assumed."""

    def close(self) -> None:
        """Disconnect; a load that runs goes on."""

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot as it is now, in the order of their numbers."""

    def counts(self) -> LoaderCounts:
        """Return what the loader has counted."""

    def interlocks(self) -> tuple[str, ...]:
        """Return what forbids a sample to move now, each as ``name = value, must be ...``; empty: nothing."""

    def start_load(self, slot: int) -> None:
        """Begin to bring a sample into the microscope and return at once; one that is there goes back first.

        Raises
        ------
        LimitError
            There is no such slot; nothing moves.
        InstrumentFault
            The slot is not OCCUPIED, a sample moves already, or an interlock forbids it; nothing moves.
        """

    def start_unload(self) -> None:
        """Begin to bring the sample that is in the microscope back to its slot and return at once.

        Raises
        ------
        InstrumentFault
            No sample is loaded, one moves already, or an interlock forbids it; nothing moves.
        """

    def wait(self, timeout_s: float) -> int:
        """Wait until no sample moves and return the slot that is loaded, 0 if none.

        Raises
        ------
        OperationTimeout
            A sample still moves after ``timeout_s``.
        InstrumentFault
            The sample jammed: its slot is in ERROR.
        Aborted
            `stop` ended it: its slot is in ERROR.
        """

    def stop(self) -> None:
        """Stop where it is; a slot whose sample was on its way is then in ERROR, until `recover`."""

    def recover(self) -> None:
        """Bring samples of slots in ERROR back to their slots, and return when that is done.

        Raises
        ------
        InstrumentFault
            An interlock forbids it, or the loader cannot.
        """

    def inventory(self) -> None:
        """Look into every slot and read its barcode; slots that are UNKNOWN become OCCUPIED or EMPTY.

        Raises
        ------
        InstrumentFault
            A sample moves.
        """
