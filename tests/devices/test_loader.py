"""The table of a slot's states: every step that is in it, and that no other is possible."""

from __future__ import annotations

import itertools

import pytest

from devices.errors import InstrumentFault, LimitError
from devices.loader.driver import (
    MOVING_STATES,
    TRANSITIONS,
    Slot,
    SlotEvent,
    SlotState,
    check_slot,
    loaded_slot,
    next_state,
)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SlotState, SlotEvent)))
def test_every_step_is_in_the_table_or_refused_by_name(state: SlotState, event: SlotEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(3, state, event) is TRANSITIONS[state, event]
        return
    with pytest.raises(InstrumentFault) as caught:
        next_state(3, state, event)
    for word in ("slot 3", state.value, event.value):
        assert word in str(caught.value)


def test_the_way_of_a_sample_there_and_back() -> None:
    state = SlotState.UNKNOWN
    for event in ("SEEN_FULL", "LOAD", "ARRIVED", "UNLOAD", "ARRIVED", "SEEN_EMPTY"):
        state = next_state(1, state, SlotEvent(event))
    assert state is SlotState.EMPTY


def test_every_state_can_be_left_and_reached_again() -> None:
    reached = {state: {state} for state in SlotState}
    for _ in SlotState:
        for (before, _event), after in TRANSITIONS.items():
            reached[before] |= reached[after]
    for state in SlotState:
        assert SlotState.OCCUPIED in reached[state]
    assert reached[SlotState.OCCUPIED] == set(SlotState) - {SlotState.UNKNOWN}


def test_what_moves_ends_in_place_or_in_error() -> None:
    for state in MOVING_STATES:
        assert {event for before, event in TRANSITIONS if before is state} == {
            SlotEvent.ARRIVED,
            SlotEvent.FAILED,
        }


def test_slots_by_number() -> None:
    slots = (Slot(1, SlotState.EMPTY), Slot(2, SlotState.LOADED, "B2"))
    assert loaded_slot(slots) == 2
    assert loaded_slot(slots[:1]) == 0
    assert check_slot(slots, 2).barcode == "B2"
    with pytest.raises(LimitError, match="slot = 3 is outside 1 to 2"):
        check_slot(slots, 3)
