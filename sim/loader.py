"""The simulated loader: the driver that a loader server loads as ``sim.loader:SimulatedLoader``.

The samples are those of the simulation's ``samples``. A load is a function of the clock, as a move of the
stage is: it goes on, and arrives, whether or not a server watches it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from devices.errors import Aborted, InstrumentFault, OperationTimeout
from devices.loader.driver import (
    MOVING_STATES,
    Carrier,
    LoaderCounts,
    Slot,
    SlotEvent,
    SlotState,
    check_slot,
    loaded_slot,
    next_state,
)
from devices.stage.driver import AXES, axis_unit
from sim.placement import Loading
from sim.world import World

STAGE_ZERO: Final[Mapping[str, float]] = {
    "x_um": 2.0,
    "y_um": 2.0,
    "z_um": 5.0,
    "alpha_deg": 0.5,
    "beta_deg": 0.5,
}
"""How far from 0 the stage may be while a sample moves."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the loader keeps of itself in the world: the change that runs, and what it has counted.

    First the sample of ``leaving`` goes back to its slot in ``leave_s``, then that of ``coming`` is brought
    in ``come_s`` (0: no such slot); ``started_s`` is on the monotonic clock. A change that ``jams`` does so
    in the middle of its last part. ``error`` is the slot in ERROR, ``known`` whether the slots have been
    looked into.
    """

    leaving: int = 0
    coming: int = 0
    started_s: float = 0.0
    leave_s: float = 0.0
    come_s: float = 0.0
    jams: bool = False
    error: int = 0
    known: bool = True
    unloads: int = 0
    faults: int = 0

    @property
    def runs(self) -> bool:
        """Whether a sample is on its way."""
        return bool(self.leaving or self.coming)

    @property
    def fails_at_s(self) -> float:
        """When a change that jams does so, s on the monotonic clock."""
        return self.started_s + (self.leave_s + self.come_s / 2 if self.coming else self.leave_s / 2)

    @property
    def ends_s(self) -> float:
        """When the change has ended, s on the monotonic clock."""
        return self.fails_at_s if self.jams else self.started_s + self.leave_s + self.come_s

    def ended(self, now_s: float) -> bool:
        """Whether nothing moves any more; a start in the future belongs to another boot of the machine."""
        return not self.started_s <= now_s < self.ends_s


class SimulatedLoader:
    """A loader of a `World`; the world keeps its state, so a new driver finds it as the old one left it.

    Parameters
    ----------
    world
        Path of the world's file.
    slots
        Slots of the cassette, or apertures of the tape; at least as many as the highest slot of a sample.
    carrier
        ``CASSETTE`` or ``TAPE``.
    load_time_s, unload_time_s
        Time that a sample takes into the microscope and back.
    wind_time_s
        Time that a tape is wound from one aperture to the next.
    """

    def __init__(
        self,
        world: str | Path,
        slots: int = 12,
        carrier: str = "CASSETTE",
        load_time_s: float = 20.0,
        unload_time_s: float = 15.0,
        wind_time_s: float = 0.5,
    ) -> None:
        self._world = World.open(world)
        self._config = self._world.config
        self._samples = {sample.slot: sample for sample in self._config.samples}
        self._slots = max(slots, *self._samples, 0) if self._samples else slots
        self._carrier = Carrier(carrier)
        self._times_s = (unload_time_s, load_time_s, wind_time_s)
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def carrier(self) -> Carrier:
        """Cassette or tape."""
        return self._carrier

    def open(self) -> None:
        """Connect; there is nothing to do, the state is the world's."""

    def close(self) -> None:
        """Disconnect; a load that runs goes on."""

    def slots(self) -> tuple[Slot, ...]:
        """Return every slot as it is now, in the order of their numbers."""
        with self._lock:
            loading, change = self._settled()
        return tuple(self._slot(number, loading, change) for number in range(1, self._slots + 1))

    def counts(self) -> LoaderCounts:
        """Return what the loader has counted over the life of the world."""
        with self._lock:
            loading, change = self._settled()
        return LoaderCounts(loading.loads, change.unloads, change.faults)

    def interlocks(self) -> tuple[str, ...]:
        """Return what forbids a sample to move now: beam, valves, stage."""
        lenses, motion, now_s = self._world.lenses(), self._world.motion(), time.monotonic()
        unmet = []
        if not lenses.beam_blanked:
            unmet.append("column beam_blanked = false, must be true")
        if lenses.column_valves_open:
            unmet.append("column column_valves_open = true, must be false")
        if motion.moving(now_s):
            unmet.append("stage stage_state = MOVING, must be READY")
        for axis, value in zip(AXES, motion.encoder(now_s), strict=True):
            if abs(value) > STAGE_ZERO[axis]:
                unmet.append(
                    f"stage {axis} = {value:.4g} {axis_unit(axis)}, must be 0 within {STAGE_ZERO[axis]:g}"
                )
        return tuple(unmet)

    def start_load(self, slot: int) -> None:
        """Begin to bring a sample into the microscope; one that is there goes back first.

        Raises
        ------
        LimitError
            There is no such slot.
        InstrumentFault
            The slot is not OCCUPIED, a sample moves already, a slot is in ERROR, or an interlock forbids it.
        """
        slots = self.slots()
        wanted = check_slot(slots, slot)
        self._refuse_unless_idle(slots)
        next_state(slot, wanted.state, SlotEvent.LOAD)
        self._refuse_interlocked(f"load slot {slot}")
        self._start(loaded_slot(slots), slot)

    def start_unload(self) -> None:
        """Begin to bring the sample that is in the microscope back to its slot.

        Raises
        ------
        InstrumentFault
            No sample is loaded, one moves already, or an interlock forbids it.
        """
        slots = self.slots()
        self._refuse_unless_idle(slots)
        loaded = loaded_slot(slots)
        if not loaded:
            raise InstrumentFault("loader has no sample in the microscope, so there is none to unload")
        self._refuse_interlocked(f"unload slot {loaded}")
        self._start(loaded, 0)

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
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                loading, change = self._settled()
            if not change.runs:
                break
            now_s = time.monotonic()
            if now_s >= deadline:
                raise OperationTimeout(
                    f"loader has not brought slot {change.coming or change.leaving} to its place in "
                    f"{timeout_s:g} s; Stop it, then Recover"
                )
            self._stopped.wait(min(change.ends_s, deadline) - now_s)
        if self._stopped.is_set():
            raise Aborted(f"loader stopped; slot {change.error} is in ERROR until Recover")
        if change.error:
            raise InstrumentFault(
                f"loader: the sample of slot {change.error} jammed; Recover brings it back to its slot"
            )
        return loading.slot

    def stop(self) -> None:
        """Stop where it is; a slot whose sample was on its way is then in ERROR."""
        with self._lock:
            loading, change = self._settled()
            if change.runs:
                self._write(loading, self._failed(change))
                self._stopped.set()

    def recover(self) -> None:
        """Bring the sample of a slot in ERROR back to its slot.

        Raises
        ------
        InstrumentFault
            An interlock forbids it.
        Aborted
            `stop` ended it.
        """
        with self._lock:
            _, change = self._settled()
        if change.error:
            self._refuse_interlocked(f"recover slot {change.error}")
            self._stopped.clear()
            if self._stopped.wait(self._config.delay_s(self._times_s[0])):
                raise Aborted(f"loader stopped; slot {change.error} is still in ERROR until Recover")
        with self._lock:
            loading, change = self._settled()
            self._write(loading, replace(change, error=0))

    def inventory(self) -> None:
        """Look into every slot and read its barcode.

        Raises
        ------
        InstrumentFault
            A sample moves.
        """
        self._refuse_unless_idle(self.slots())
        with self._lock:
            loading, change = self._settled()
            self._write(loading, replace(change, known=True))

    def _slot(self, number: int, loading: Loading, change: Change) -> Slot:
        sample = self._samples.get(number)
        if number == change.error:
            state = SlotState.ERROR
        elif number == loading.slot:
            state = SlotState.LOADED
        elif number == change.leaving and time.monotonic() < change.started_s + change.leave_s:
            state = SlotState.UNLOADING
        elif number == change.coming:
            state = SlotState.LOADING
        elif not change.known:
            return Slot(number, SlotState.UNKNOWN)
        else:
            state = SlotState.EMPTY if sample is None else SlotState.OCCUPIED
        return Slot(number, state, "" if sample is None else sample.barcode)

    def _refuse_unless_idle(self, slots: tuple[Slot, ...]) -> None:
        for slot in slots:
            if slot.state in MOVING_STATES:
                raise InstrumentFault(
                    f"loader slot {slot.number} is {slot.state}; wait for changes_done, or Stop it"
                )
            if slot.state is SlotState.ERROR:
                raise InstrumentFault(f"loader slot {slot.number} is in ERROR; Recover it first")

    def _refuse_interlocked(self, what: str) -> None:
        unmet = self.interlocks()
        if unmet:
            raise InstrumentFault(f"loader cannot {what}, nothing moved: {'; '.join(unmet)}")

    def _start(self, leaving: int, coming: int) -> None:
        unload_s, load_s, wind_s = self._times_s
        if self._carrier is Carrier.TAPE:
            load_s, unload_s = (abs(coming - leaving) * wind_s if coming else wind_s), 0.0
        with self._lock:
            loading, change = self._settled()
            self._stopped.clear()
            begun = replace(
                change,
                leaving=leaving,
                coming=coming,
                started_s=time.monotonic(),
                leave_s=self._config.delay_s(unload_s) if leaving else 0.0,
                come_s=self._config.delay_s(load_s) if coming else 0.0,
                jams=bool(coming) and self._jams(change),
            )
            self._write(loading.loaded(0), begun)

    def _jams(self, change: Change) -> bool:
        faults = [fault for fault in self._world.faults.all() if fault.name == "loader_jam"]
        exposures = self._world.exposures() if faults else 0
        return sum(fault.count for fault in faults if fault.at_exposure <= exposures) > change.faults

    def _settled(self) -> tuple[Loading, Change]:
        """Return the state now; a change whose time has passed is first brought to its end."""
        loading = self._world.loading()
        change = Change(**_plain(loading.rest))
        if not change.runs or not change.ended(time.monotonic()):
            return loading, change
        if change.jams:
            return loading, self._write(loading, self._failed(change))[1]
        unloads = change.unloads + bool(change.leaving)
        ended = replace(change, leaving=0, coming=0, unloads=unloads)
        return self._write(loading.loaded(change.coming) if change.coming else loading, ended)

    @staticmethod
    def _failed(change: Change) -> Change:
        """Return the state after a change that ended in the middle: the sample on its way is in ERROR."""
        gone = bool(change.coming) and time.monotonic() >= change.started_s + change.leave_s
        return replace(
            change,
            leaving=0,
            coming=0,
            jams=False,
            error=change.coming if gone else change.leaving or change.coming,
            unloads=change.unloads + (gone and change.leaving > 0),
            faults=change.faults + 1,
        )

    def _write(self, loading: Loading, change: Change) -> tuple[Loading, Change]:
        after = replace(loading, rest=asdict(change))
        self._world.loader.write(after.pack())
        return after, change


def _plain(rest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rest.items() if name in Change.__dataclass_fields__}
