"""Waiting for operations: events are hints, the server's own counters are the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ophyd_async.core import soft_signal_r_and_setter

from devices._tango.counters import OperationState, parse_error, wait_operation
from devices.errors import Aborted, DeviceLost, InstrumentFault, LimitError, OperationTimeout

Script = Callable[[Callable[[int], None], Callable[[int], None], list[OperationState]], Awaitable[None]]


async def wait_with(
    states: list[OperationState], script: Script | None = None, timeout_s: float = 5.0, cached: int = 0
) -> int:
    """Wait for operation 7; ``states`` is what the server answers in turn, ``script`` sends events.

    ``cached`` is the counter that is known before.

    Returns how often the server was asked.
    """
    done, set_done = soft_signal_r_and_setter(int, cached, name="done")
    failed, set_failed = soft_signal_r_and_setter(int, 0, name="failed")
    for signal in (done, failed):
        await signal.connect()
        signal.subscribe_reading(lambda _: None)
        await signal.get_value(cached=True)
    asked = 0

    async def read_state() -> OperationState:
        nonlocal asked
        asked += 1
        return states[min(asked, len(states)) - 1]

    wait = asyncio.create_task(
        wait_operation("em/stage/1", 7, done=done, failed=failed, read_state=read_state, timeout_s=timeout_s)
    )
    if script is not None:
        await asyncio.sleep(0)
        await script(set_done, set_failed, states)
    await wait
    return asked


def state(done: int = 6, failed: int = 0, newest: int = 7, boot: int = 1, error: str = "") -> OperationState:
    """Return an answer of the server; by default operation 7 still runs."""
    return OperationState(done, failed, newest, boot, error)


def run(coroutine: Any) -> Any:
    """Run a coroutine in a loop of its own."""
    return asyncio.run(coroutine)


def test_an_event_ends_the_wait_without_asking() -> None:
    async def script(set_done: Callable[[int], None], *_: Any) -> None:
        set_done(7)

    assert run(wait_with([state()], script)) == 0


def test_a_lost_event_costs_one_poll() -> None:
    assert run(wait_with([state(), state(done=7)])) == 2


def test_the_counter_of_a_server_that_is_gone_ends_no_wait() -> None:
    """After a restart ids begin at 1 again, and events come late: the old counter is still known."""
    assert run(wait_with([state(), state(), state(done=7)], cached=500)) == 3


def test_what_ended_before_the_wait_began_costs_one_question() -> None:
    assert run(wait_with([state(done=7)], cached=7)) == 1


def test_a_failure_is_raised_with_the_class_that_the_server_names() -> None:
    async def script(_: Any, set_failed: Callable[[int], None], states: list[OperationState]) -> None:
        states[:] = [state(failed=7, error="Aborted: stopped")]
        set_failed(7)

    with pytest.raises(Aborted, match="em/stage/1: stopped"):
        run(wait_with([state()], script))


def test_a_restart_is_noticed_by_the_boot_id_or_by_ids_that_begin_again() -> None:
    with pytest.raises(DeviceLost, match="restarted"):
        run(wait_with([state(), state(boot=2)]))
    with pytest.raises(DeviceLost, match="restarted"):
        run(wait_with([state(done=0, newest=0, boot=2)]))


def test_a_stuck_operation_times_out_and_says_where_it_stands() -> None:
    with pytest.raises(OperationTimeout, match=r"operation 7 .*newest done 6"):
        run(wait_with([state()], timeout_s=0.3))


@pytest.mark.parametrize(
    ("text", "cls"),
    [
        ("LimitError: x too far", LimitError),
        ("ZeroDivisionError: bug in a driver", InstrumentFault),
        ("", InstrumentFault),
    ],
)
def test_parse_error(text: str, cls: type[Exception]) -> None:
    error = parse_error("em/stage/1", text)
    assert type(error) is cls
    assert "em/stage/1" in str(error)
