"""Suspenders: when a signal trips, what happens at once, and when it lets go again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from devices.errors import DeviceLost
from plans.suspenders import Suspender, Suspenders, SuspenderSpec

WATER = SuspenderSpec(signal="facility.water_flow_l_min", low=3.0, high=6.0, resume_after_s=10)


class Signal:
    """A signal that a test sets; whoever sets it calls the listeners, as an event does."""

    def __init__(self, value: float | None = 4.0) -> None:
        self.value = value
        self._changed: Callable[[float | None], None] | None = None

    def watch(self, changed: Callable[[float | None], None]) -> None:
        self._changed = changed

    def read(self) -> float | None:
        return self.value

    def close(self) -> None:
        self._changed = None

    def event(self, value: float | None) -> None:
        self.value = value
        if self._changed is not None:
            self._changed(value)


class Beam:
    """Tells a test what was done to it; fails as often as it is told to."""

    def __init__(self) -> None:
        self.failures = 0
        self.holds = 0
        self.held = threading.Event()
        self.free = threading.Event()

    def hold(self) -> None:
        self.holds += 1
        if self.failures:
            self.failures -= 1
            raise DeviceLost("em/column/1 does not answer")
        self.held.set()

    def go_on(self) -> None:
        self.free.set()

    def close(self) -> None:
        """Nothing waits here."""


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (3.0, ""),
        (6.0, ""),
        (2.9, "facility.water_flow_l_min = 2.9 is below 3"),
        (6.5, "facility.water_flow_l_min = 6.5 is above 6"),
        (None, "facility.water_flow_l_min is lost"),
        (math.nan, "facility.water_flow_l_min is lost"),
    ],
)
def test_what_is_wrong_with_a_value(value: float | None, fault: str) -> None:
    assert WATER.fault(value) == fault


def test_a_lost_signal_may_be_let_pass() -> None:
    spec = SuspenderSpec(signal="column.beam_current_na", low=0.1, hold_when_lost=False)
    assert spec.fault(None) == ""
    assert spec.fault(0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"signal": "facility.x"}, "neither low nor high"),
        ({"signal": "facility.x", "low": 3, "high": 2}, "low = 3 is not below high = 2"),
        ({"signal": "stage.x_um", "low": 3}, "pattern"),
        ({"signal": "facility.x", "low": 3, "resume_after_s": -1}, "greater than or equal"),
        ({"signal": "facility.x", "lo": 3}, "lo"),
    ],
)
def test_a_wrong_suspender_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SuspenderSpec.model_validate(fields)


values = st.one_of(st.none(), st.floats(0, 10))


@given(st.lists(st.tuples(values, st.floats(0.01, 30)), max_size=40))
def test_it_holds_from_the_first_bad_value_until_it_was_good_for_long_enough(
    history: list[tuple[float | None, float]],
) -> None:
    suspender = Suspender(WATER)
    now_s, good_since, holding = 0.0, 0.0, False
    for value, step_s in history:
        now_s += step_s
        bad = value is None or not 3.0 <= value <= 6.0
        was_free = not holding
        tripped = suspender.take(value, now_s)
        assert tripped == (bad and was_free)
        if bad:
            holding, good_since = True, math.inf
        elif good_since == math.inf:
            good_since = now_s
        let_go = suspender.relax(now_s)
        due = holding and now_s - good_since >= 10
        assert let_go == due
        holding = holding and not let_go
        assert bool(suspender.hold(now_s)) == holding


@pytest.fixture
def beam() -> Beam:
    return Beam()


@pytest.fixture
def water() -> Signal:
    return Signal()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def suspenders(beam: Beam, water: Signal, clock: Clock) -> Iterator[Suspenders]:
    """Return suspenders on one signal, polled too seldom to matter."""
    suspenders = Suspenders([(WATER, water)], beam, poll_s=0.05, clock=clock)
    suspenders.start()
    yield suspenders
    suspenders.close()


def test_the_beam_is_held_from_the_event_and_let_go_when_the_signal_was_good_long_enough(
    suspenders: Suspenders, beam: Beam, water: Signal, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert suspenders.holds() == []
    water.event(1.5)
    assert suspenders.holds() == ["facility.water_flow_l_min = 1.5 is below 3"]  # at once
    assert beam.held.wait(5)
    water.event(4.0)
    clock.now_s = 4.0
    assert suspenders.holds() == ["facility.water_flow_l_min is good again; it goes on in 6 s"]
    assert not beam.free.is_set()
    clock.now_s = 10.5
    assert beam.free.wait(5)
    assert suspenders.holds() == []
    assert "held: facility.water_flow_l_min = 1.5" in caplog.text
    assert "facility.water_flow_l_min is good again" in caplog.text


def test_a_beam_that_cannot_be_blanked_is_tried_again(
    suspenders: Suspenders, beam: Beam, water: Signal
) -> None:
    beam.failures = 3
    water.event(None)
    assert beam.held.wait(5)
    assert beam.holds == 4


def test_a_lost_event_is_made_up_for_by_reading(suspenders: Suspenders, beam: Beam, water: Signal) -> None:
    water.value = 9.0  # without an event
    assert beam.held.wait(5)
    assert suspenders.holds()


def test_the_beam_is_let_go_only_when_the_last_signal_is_good(beam: Beam, clock: Clock) -> None:
    field = SuspenderSpec(signal="facility.hall_magnetic_field_nt", high=100, resume_after_s=20)
    signals = Signal(), Signal(30.0)
    both = Suspenders([(WATER, signals[0]), (field, signals[1])], beam, poll_s=0.02, clock=clock)
    both.start()
    try:
        signals[0].event(0.0)
        signals[1].event(500.0)
        assert len(both.holds()) == 2
        signals[0].event(4.0)
        signals[1].event(30.0)
        clock.now_s = 15.0
        assert not beam.free.wait(0.2)
        assert len(both.holds()) == 1
        clock.now_s = 20.0
        assert beam.free.wait(5)
    finally:
        both.close()
