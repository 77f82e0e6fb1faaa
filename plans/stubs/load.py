"""Bringing a sample into the microscope and out again, as a part of plans."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import FailedStatus, Msg

from devices.column.device import Column
from devices.errors import ConfigurationError, DeviceLost, InstrumentFault, MontangoError
from devices.loader.device import Loader
from devices.loader.driver import MOVING_STATES, Slot, SlotState, check_slot, loaded_slot
from devices.stage.device import Stage
from plans.preprocessors import cause_of
from plans.stubs.ask import ask, read_now

logger = logging.getLogger(__name__)

ZERO = (0.0, 0.0, 0.0, 0.0, 0.0)
POLL_S = 0.2


def make_ready(column: Column, stage: Stage) -> Generator[Msg, Any, None]:
    """Make the microscope ready for a sample to move: beam blanked, valves closed, stage at zero."""
    yield from bps.abs_set(column.beam_blanked, True, wait=True)
    yield from bps.abs_set(column.column_valves_open, False, wait=True)
    yield from bps.abs_set(stage, ZERO, wait=True)


def load_sample(
    loader: Loader,
    column: Column,
    stage: Stage,
    slot: int,
    *,
    barcode: str | None = None,
    recovery_timeout_s: float = 120.0,
) -> Generator[Msg, Any, Slot]:
    """Bring a slot's sample into the microscope; the beam stays blanked, the valves are open at the end.

    A sample that is there already stays. When the loader's server ends in the middle of the load, the load is
    followed to its end once the server is back: the loader itself goes on.

    Parameters
    ----------
    loader, column, stage
        The instruments.
    slot
        Slot from 1; 0 takes the sample out, and then the valves stay closed.
    barcode
        What the slot's barcode must be; None does not ask.
    recovery_timeout_s
        Time that a lost loader server has to come back, and the load to end after that, s.

    Returns
    -------
    Slot
        The slot as it is now; for slot 0 an empty one.

    Raises
    ------
    ConfigurationError
        The slot has another barcode; nothing moves.
    LimitError
        There is no such slot; nothing moves.
    MontangoError
        The loader refused, jammed or was lost for too long.
    """
    slots = yield from ask(loader.slots)
    if slot:
        _check_barcode(check_slot(slots, slot), barcode)
    if loaded_slot(slots) != slot:
        yield from make_ready(column, stage)
        try:
            yield from bps.abs_set(loader, slot, wait=True)
        except (FailedStatus, MontangoError) as failure:
            if not isinstance(cause_of(failure), DeviceLost):
                raise
            logger.warning("%s; following the load once it is back", cause_of(failure))
            slots = yield from await_still(loader, recovery_timeout_s)
            if loaded_slot(slots) != slot:
                raise InstrumentFault(
                    f"loader has slot {loaded_slot(slots)} in the microscope, not {slot}, after its server "
                    f"was restarted; load it again"
                ) from None
    if slot:
        yield from bps.abs_set(column.column_valves_open, True, wait=True)
        return check_slot((yield from ask(loader.slots)), slot)
    return Slot(0, SlotState.EMPTY)


def recover_loader(loader: Loader, column: Column, stage: Stage) -> Generator[Msg, Any, bool]:
    """Bring a jammed sample back to its slot; return whether there was one.

    Raises
    ------
    MontangoError
        The loader cannot.
    """
    slots = yield from ask(loader.slots)
    if all(slot.state is not SlotState.ERROR for slot in slots):
        return False
    yield from make_ready(column, stage)
    yield from ask(loader.recover)
    return True


def _check_barcode(slot: Slot, wanted: str | None) -> None:
    if wanted is not None and slot.barcode != wanted:
        raise ConfigurationError(
            f"loader slot {slot.number} has barcode {slot.barcode!r}, not {wanted!r} as was asked for; "
            f"correct the list or the cassette"
        )


def await_still(loader: Loader, timeout_s: float) -> Generator[Msg, Any, tuple[Slot, ...]]:
    """Wait until the loader's server answers and no sample moves, and return the slots."""
    yield from await_device(loader, timeout_s)
    left_s = timeout_s
    while True:
        slots: tuple[Slot, ...] = yield from ask(loader.slots)
        if all(slot.state not in MOVING_STATES for slot in slots):
            return slots
        if left_s <= 0:
            raise InstrumentFault(f"loader still moves a sample {timeout_s:g} s after its server is back")
        yield from bps.sleep(POLL_S)
        left_s -= POLL_S


def await_device(device: Any, timeout_s: float) -> Generator[Msg, Any, None]:
    """Wait until a device's server answers.

    Raises
    ------
    DeviceLost
        It does not after ``timeout_s``.
    """
    left_s = timeout_s
    while True:
        try:
            yield from read_now(device, "boot_id")
        except MontangoError as failure:
            if left_s <= 0:
                raise DeviceLost(f"{failure} (waited {timeout_s:g} s)") from failure
        else:
            return
        yield from bps.sleep(POLL_S)
        left_s -= POLL_S
