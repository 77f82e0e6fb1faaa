"""The count of flushed frames as ophyd-async wants it, read from the server each time it matters.

A detector of ophyd-async takes its progress from a signal's cache and its events. An event can be lost, and
a subscription can fall silent for long: the documents of a run would then name too few frames, or a stock
plan would wait until its timeout. Here every value comes from the server, uncached; an event only makes the
next look come sooner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from bluesky.protocols import Reading
from ophyd_async.core import SignalR

from devices._tango.counters import POLL_S
from devices.errors import MontangoError

logger = logging.getLogger(__name__)

Listener = Callable[[dict[str, Reading[int]]], None]


class FrameCount:
    """What `ophyd_async.core.StreamResourceDataProvider` uses of a signal, for a count that is never stale.

    Parameters
    ----------
    signal
        The counter with its persistent subscription: its events are the hints.
    read
        Reads the counter from the server. Raises `MontangoError` when that does not answer.
    """

    def __init__(self, signal: SignalR[int], read: Callable[[], Awaitable[int]]) -> None:
        self._signal = signal
        self._read = read
        self._watches: dict[Listener, asyncio.Task[None]] = {}

    @property
    def name(self) -> str:
        """Name of the counter's signal."""
        return self._signal.name

    @property
    def source(self) -> str:
        """Address of the counter."""
        return self._signal.source

    async def get_value(self, cached: bool | None = None) -> int:
        """Return the count, read from the server; ``cached`` makes no difference."""
        return await self._read()

    def subscribe_reading(self, function: Listener) -> None:
        """Call a function with the count now, after each event, and every `POLL_S` besides."""
        self._watches[function] = asyncio.get_running_loop().create_task(self._watch(function))

    def clear_sub(self, function: Listener) -> None:
        """End what `subscribe_reading` began."""
        self._watches.pop(function).cancel()

    def close(self) -> None:
        """End what still watches: no frame follows. Who waits for one has a timeout of its own."""
        for task in self._watches.values():
            task.cancel()

    async def _watch(self, function: Listener) -> None:
        news = asyncio.Event()

        def hint(_: Mapping[str, Reading[int]]) -> None:
            news.set()

        self._signal.subscribe_reading(hint)
        try:
            while True:
                news.clear()
                await self._tell(function)
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), POLL_S)
        finally:
            self._signal.clear_sub(hint)

    async def _tell(self, function: Listener) -> None:
        try:
            count = await self._read()
        except MontangoError as error:
            # who waits has a timeout of its own; a server that comes back is found at the next look
            logger.warning("frames written are not known: %s", error)
            return
        function({self.name: Reading(value=count, timestamp=time.time())})
