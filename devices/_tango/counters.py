"""Waiting for the end of an operation that a device server runs.

Tango events may be lost, late or out of order on a loaded machine, so an event is only a hint that makes the
wait short. The truth is read from the server, uncached, every `POLL_S`; that also notices a server that
died or restarted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from bluesky.protocols import Reading
from ophyd_async.core import SignalR

from devices.errors import ERROR_CLASSES, DeviceLost, InstrumentFault, MontangoError, OperationTimeout

POLL_S = 0.25


class OperationState(NamedTuple):
    """What a server says: ids of the newest operation done, failed, begun; its start; its last error."""

    done_id: int
    failed_id: int
    newest_id: int
    boot_id: int
    last_error: str


async def wait_operation(
    device: str,
    operation: int,
    *,
    done: SignalR[int],
    failed: SignalR[int],
    read_state: Callable[[], Awaitable[OperationState]],
    timeout_s: float,
) -> None:
    """Wait until an operation of a server has ended.

    Parameters
    ----------
    device
        Tango name, for messages.
    operation
        Id that the starting command returned.
    done, failed
        Signals with a persistent subscription: ids of the newest operation done, and failed.
    read_state
        Reads the truth from the server.
    timeout_s
        Longest time to wait, in s.

    Raises
    ------
    OperationTimeout
        Not ended after ``timeout_s``.
    DeviceLost
        The server does not answer, or restarted meanwhile.
    MontangoError
        The operation failed: the class the server names.
    """
    ended = asyncio.Event()
    listening = told = False

    def hint(reading: Mapping[str, Reading[int]]) -> None:
        if any(item["value"] >= operation for item in reading.values()):
            ended.set()

    def done_hint(reading: Mapping[str, Reading[int]]) -> None:
        # what is there on subscribing may be the counter of a server that is gone, whose ids were higher
        nonlocal told
        told = told or (listening and any(item["value"] >= operation for item in reading.values()))
        hint(reading)

    boot_id: int | None = None
    deadline = time.monotonic() + timeout_s
    done.subscribe_reading(done_hint)
    failed.subscribe_reading(hint)
    listening = True
    try:
        while True:
            try:
                await asyncio.wait_for(ended.wait(), max(0.0, min(POLL_S, deadline - time.monotonic())))
                if told and await done.get_value(cached=True) >= operation:
                    return
            except TimeoutError:
                pass
            state = await read_state()
            ended.clear()
            if state.newest_id < operation or boot_id not in (None, state.boot_id):
                raise DeviceLost(f"{device} restarted while operation {operation} ran; start it again")
            boot_id = state.boot_id
            if state.done_id >= operation:
                return
            if state.failed_id >= operation:
                raise parse_error(device, state.last_error)
            if time.monotonic() >= deadline:
                raise OperationTimeout(
                    f"{device}: operation {operation} has not ended after {timeout_s:g} s (newest done "
                    f"{state.done_id}); see `montango status` and the log of the server"
                )
    finally:
        done.clear_sub(done_hint)
        failed.clear_sub(hint)


def parse_error(device: str, last_error: str) -> MontangoError:
    """Return the error that a server's ``last_error`` ("Class: text") stands for."""
    name, _, text = last_error.partition(": ")
    cls = ERROR_CLASSES.get(name)
    if cls is None:
        return InstrumentFault(f"{device}: {last_error}")
    return cls(text if device in text else f"{device}: {text}")
