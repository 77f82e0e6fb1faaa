"""Attributes that stay subscribed while others subscribe to them and leave again."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import tango
from tango.asyncio import DeviceProxy

# PyTango 10.3.1 makes this coroutine for each event that comes after an unsubscribe, and awaits none
warnings.filterwarnings("ignore", r"coroutine '\w*__async_dummy_event_receiver'", RuntimeWarning)


async def _take(_: Any) -> None:
    """Take an event that others are for."""


_one_at_a_time = asyncio.Lock()
"""Held by the device that connects; a process has one event loop for Tango."""


@asynccontextmanager
async def kept_subscribed(trl: str, attributes: Iterable[str]) -> AsyncIterator[None]:
    """Keep attributes of a device subscribed in this process for the length of a block; one block at a time.

    cppTango (10.3) writes "not found in event callback map" to the terminal for an event that comes while two
    threads subscribe: each holds events back until its own subscription is entered, and the first to finish
    lets them go for both. ophyd-async subscribes every attribute at the same time, twice (once to learn
    whether it has events at all), and meanwhile the stage may move. Here they are entered one after the
    other, before ophyd-async comes.

    A device that does not answer is left to whoever connects to it.

    Parameters
    ----------
    trl
        Tango name of the device.
    attributes
        Its attributes; one without events is left out.
    """
    ids: list[int] = []
    async with _one_at_a_time:
        proxy: Any = None
        try:
            with suppress(tango.DevFailed):
                proxy = await DeviceProxy(trl)
                for name in attributes:
                    with suppress(tango.EventSystemFailed):
                        ids.append(await proxy.subscribe_event(name, tango.EventType.CHANGE_EVENT, _take))
            yield
        finally:
            for number in ids:
                with suppress(tango.DevFailed, KeyError):
                    proxy.unsubscribe_event(number, green_mode=tango.GreenMode.Synchronous)
