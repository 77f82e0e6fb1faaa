"""A pause may strike any message: none is lost, none done twice. On a RunEngine, without a laboratory."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky.run_engine import RunEngine
from bluesky.utils import FailedStatus, Msg, RunEngineInterrupted
from ophyd_async.core import AsyncStatus

from plans.unbroken import Flight, unbroken

STEP_S = 0.05


class Motor:
    """Something that takes a moment, and counts."""

    name = "motor"
    parent = None

    def __init__(self) -> None:
        self.began = self.ended = 0

    def set(self, value: float) -> AsyncStatus[None]:
        return AsyncStatus(self._move(value))

    async def _move(self, value: float) -> None:
        self.began += 1
        await asyncio.sleep(STEP_S)
        if value < 0:
            raise ValueError("it sticks")
        self.ended += 1


class Paused:
    """Pauses the engine at a moment, and resumes it."""

    def __init__(self, engine: RunEngine) -> None:
        self.engine = engine
        self.pauses = 0

    def run(self, plan: Generator[Msg, Any, Any], after_s: float) -> None:
        """Run a plan that is paused once, ``after_s`` after its beginning."""

        def begun() -> Generator[Msg, Any, None]:
            yield Msg("rewindable", None, False)
            loop = asyncio.get_running_loop()
            loop.call_later(after_s, lambda: loop.create_task(self.engine._request_pause_coro()))
            yield from plan
            yield Msg("rewindable", None, True)

        try:
            self.engine(begun())
        except RunEngineInterrupted:
            self.pauses += 1
            self.engine.resume()


@pytest.fixture
def paused(engine: RunEngine) -> Paused:
    return Paused(engine)


MOMENTS = [STEP_S * fraction for fraction in (0.2, 0.7, 1.2, 1.7, 2.2)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_waits_go_on_and_nothing_is_set_twice(paused: Paused, moment: float) -> None:
    motor, seen, flight = Motor(), list[int](), Flight()

    def plan() -> Generator[Msg, Any, None]:
        for _ in range(3):
            yield from bps.abs_set(motor, 1.0, wait=True)
            seen.append(motor.ended)

    paused.run(unbroken(plan(), flight), moment)
    assert paused.pauses == 1
    assert (motor.began, motor.ended) == (3, 3)
    assert seen == [1, 2, 3]  # without unbroken, a wait that was cut ends before its move
    assert not flight.busy()


@pytest.mark.parametrize("moment", MOMENTS)
def test_questions_are_asked_once_and_answered(paused: Paused, moment: float) -> None:
    asked: list[int] = []
    answers: list[int] = []

    async def question() -> int:
        asked.append(1)
        await asyncio.sleep(STEP_S)
        return len(asked)

    def plan() -> Generator[Msg, Any, None]:
        for _ in range(3):
            (task,) = yield from bps.wait_for([question])
            answers.append(task.result())

    paused.run(unbroken(plan()), moment)
    assert paused.pauses == 1
    assert answers == [1, 2, 3]


def test_a_failure_after_the_pause_reaches_the_plan(paused: Paused) -> None:
    motor = Motor()

    def plan() -> Generator[Msg, Any, None]:
        yield from bps.abs_set(motor, -1.0, wait=True)

    with pytest.raises(FailedStatus):
        paused.run(unbroken(plan()), STEP_S / 2)


def test_the_plan_may_handle_what_fails(engine: RunEngine) -> None:
    motor, handled = Motor(), list[str]()

    def plan() -> Generator[Msg, Any, str]:
        try:
            yield from bps.abs_set(motor, -1.0, wait=True)
        except FailedStatus as failure:
            handled.append(str(failure.__cause__))
        yield from bps.abs_set(motor, 1.0, wait=True)
        return "done"

    engine(unbroken(plan()))
    assert handled == ["it sticks"]
    assert motor.ended == 1
